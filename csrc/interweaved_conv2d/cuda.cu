// Interweaved convolution on CUDA tensors: checks and memory as on the CPU, then kernels.cuh.
#include "../common/strided.h"
#include "../cuda/torch_convolution.h"
#include "checks.h"
#include "kernels.cuh"

namespace faceattr {
namespace {

using gpu::read_map;
using gpu::read_pointer;
using gpu::write_map;
using gpu::write_pointer;

Tensor interweaved_conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                          const std::vector<int64_t>& stride, const std::vector<int64_t>& dilation,
                          const std::vector<int64_t>& shift, const std::vector<int64_t>& pool) {
  const char* op = "interweaved_conv2d";
  const auto g = interweaved_geometry(op, input, weight, bias, stride, dilation, shift, pool);
  gpu::CudaDevice device(input);
  Tensor output = empty_map({g.batch, g.out_channels, g.grid_height * g.blocks_y, g.grid_width * g.blocks_x},
                            input, is_channels_last(input));
  const gpu::DenseFilters filters(weight);
  std::optional<Tensor> dense_bias;
  if (bias) dense_bias = torch::stable::contiguous(*bias);
  const bool tf32 = gpu::tf32_allowed(input);
  gpu::dispatch_kernel_type(input.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    gpu::interweaved_forward<T>(device, g, read_map<T>(input), filters.read<T>(),
                                dense_bias ? read_pointer<T>(*dense_bias) : nullptr, write_map<T>(output),
                                tf32);
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> interweaved_conv2d_backward(
    const Tensor& grad, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::vector<int64_t>& stride, const std::vector<int64_t>& dilation,
    const std::vector<int64_t>& shift, const std::vector<int64_t>& pool) {
  const char* op = "interweaved_conv2d_backward";
  const auto g = interweaved_geometry(op, input, weight, bias, stride, dilation, shift, pool);
  check_grad(op, grad, input, g);
  gpu::CudaDevice device(input);
  Tensor input_result =
      empty_map({g.batch, g.in_channels, g.in_height, g.in_width}, input, is_channels_last(input));
  Tensor weight_result = torch::stable::new_empty(weight, weight.sizes());
  Tensor bias_result =
      torch::stable::new_empty(weight, std::vector<int64_t>{g.grid_height, g.grid_width, g.out_channels});
  const gpu::DenseFilters filters(weight);
  std::optional<Tensor> dense_bias;
  if (bias) dense_bias = torch::stable::contiguous(*bias);
  const bool tf32 = gpu::tf32_allowed(input);
  gpu::dispatch_kernel_type(input.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    gpu::interweaved_backward<T>(device, g, read_map<T>(grad), read_map<T>(input), filters.read<T>(),
                                 dense_bias ? read_pointer<T>(*dense_bias) : nullptr,
                                 write_map<T>(input_result), write_pointer<T>(weight_result),
                                 write_pointer<T>(bias_result), tf32);
  });
  return {input_result, weight_result, bias_result};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(faceattr, CUDA, m) {
  m.impl("interweaved_conv2d", TORCH_BOX(&interweaved_conv2d));
  m.impl("interweaved_conv2d_backward", TORCH_BOX(&interweaved_conv2d_backward));
}

}  // namespace faceattr
