// Locally shared convolution on CUDA tensors: checks and memory as on the CPU, then kernels.cuh.
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

Tensor locally_shared_conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                             const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                             const std::vector<int64_t>& dilation) {
  const char* op = "locally_shared_conv2d";
  const auto g = forward_geometry(op, input, weight, bias, stride, padding, dilation);
  gpu::CudaDevice device(input);
  Tensor output =
      empty_map({g.batch, g.out_channels, g.out_height, g.out_width}, input, is_channels_last(input));
  const gpu::DenseFilters filters(weight);
  std::optional<Tensor> dense_bias;
  if (bias) dense_bias = torch::stable::contiguous(*bias);
  const bool tf32 = gpu::tf32_allowed(input);
  gpu::dispatch_kernel_type(input.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    gpu::locally_shared_forward<T>(device, g, read_map<T>(input), filters.read<T>(),
                                   dense_bias ? read_pointer<T>(*dense_bias) : nullptr, write_map<T>(output),
                                   tf32);
  });
  return output;
}

Tensor locally_shared_conv2d_input_grad(const Tensor& grad, const Tensor& weight,
                                        const std::vector<int64_t>& input_size,
                                        const std::vector<int64_t>& stride,
                                        const std::vector<int64_t>& padding,
                                        const std::vector<int64_t>& dilation, bool channels_last) {
  const char* op = "locally_shared_conv2d_input_grad";
  const auto g = input_grad_geometry(op, grad, weight, input_size, stride, padding, dilation);
  gpu::CudaDevice device(grad);
  Tensor result = empty_map({g.batch, g.in_channels, g.in_height, g.in_width}, grad, channels_last);
  const gpu::DenseFilters filters(weight);
  const bool tf32 = gpu::tf32_allowed(grad);
  gpu::dispatch_kernel_type(grad.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    gpu::locally_shared_input_grad<T>(device, g, read_map<T>(grad), filters.read<T>(), write_map<T>(result),
                                      tf32);
  });
  return result;
}

std::tuple<Tensor, Tensor> locally_shared_conv2d_weight_grad(const Tensor& grad, const Tensor& input,
                                                             const std::vector<int64_t>& grid,
                                                             const std::vector<int64_t>& kernel_size,
                                                             const std::vector<int64_t>& stride,
                                                             const std::vector<int64_t>& padding,
                                                             const std::vector<int64_t>& dilation) {
  const char* op = "locally_shared_conv2d_weight_grad";
  const auto g = weight_grad_geometry(op, grad, input, grid, kernel_size, stride, padding, dilation);
  gpu::CudaDevice device(input);
  Tensor weight = torch::stable::new_empty(
      input,
      std::vector<int64_t>{grid[0], grid[1], g.out_channels, g.in_channels, kernel_size[0], kernel_size[1]});
  Tensor bias = torch::stable::new_empty(input, std::vector<int64_t>{grid[0], grid[1], g.out_channels});
  const bool tf32 = gpu::tf32_allowed(input);
  gpu::dispatch_kernel_type(input.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    const auto result = gpu::weight_grad_of<T>(gpu::convolution_of(g), write_pointer<T>(weight), false,
                                               write_pointer<T>(bias));
    gpu::locally_shared_weight_grad<T>(device, g, read_map<T>(grad), read_map<T>(input), result, tf32);
  });
  return {weight, bias};
}

std::tuple<Tensor, Tensor, Tensor> locally_shared_conv2d_backward(const Tensor& grad, const Tensor& input,
                                                                  const Tensor& weight,
                                                                  const std::vector<int64_t>& stride,
                                                                  const std::vector<int64_t>& padding,
                                                                  const std::vector<int64_t>& dilation) {
  const char* op = "locally_shared_conv2d_backward";
  const auto g = forward_geometry(op, input, weight, std::nullopt, stride, padding, dilation);
  check_grad(op, grad, g);
  check_like(grad, input, op, "grad");
  gpu::CudaDevice device(input);
  const gpu::DenseFilters filters(weight);
  Tensor input_result =
      empty_map({g.batch, g.in_channels, g.in_height, g.in_width}, input, is_channels_last(input));
  Tensor weight_result = filters.empty_grad();
  Tensor bias_result =
      torch::stable::new_empty(weight, std::vector<int64_t>{g.grid_height, g.grid_width, g.out_channels});
  const bool tf32 = gpu::tf32_allowed(input);
  gpu::dispatch_kernel_type(input.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    const auto result = gpu::weight_grad_of<T>(gpu::convolution_of(g), write_pointer<T>(weight_result),
                                               filters.channels_last(), write_pointer<T>(bias_result));
    gpu::locally_shared_backward<T>(device, g, read_map<T>(grad), read_map<T>(input), filters.read<T>(),
                                    write_map<T>(input_result), result, tf32);
  });
  return {input_result, weight_result, bias_result};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(faceattr, CUDA, m) {
  m.impl("locally_shared_conv2d", TORCH_BOX(&locally_shared_conv2d));
  m.impl("locally_shared_conv2d_input_grad", TORCH_BOX(&locally_shared_conv2d_input_grad));
  m.impl("locally_shared_conv2d_weight_grad", TORCH_BOX(&locally_shared_conv2d_weight_grad));
  m.impl("locally_shared_conv2d_backward", TORCH_BOX(&locally_shared_conv2d_backward));
}

}  // namespace faceattr
