// Locally shared convolution on the CPU: forward, and the three operators' registration.
//
// Output positions are cut into blocks that read the same taps of the same cell, so that no product with
// padding is formed and no input unfolded; within a block the common inner loops do the work. bfloat16 goes
// another way where the machine multiplies matrices of it (matrices.h): there padding is zeros, as conv2d's.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../cpu/tap_convolution.h"
#include "along_rows.h"
#include "axis.h"
#include "batch_inner.h"
#include "checks.h"
#include "gradients.h"
#include "matrices.h"

namespace faceattr {
namespace {

// Blocks of outputs and the inputs that they read.
std::vector<AxisBlock> plan_forward(const Axis& a) {
  return plan_axis(a.out, 1, a.stride, [&](int64_t position, std::vector<AxisTap>& taps) {
    const int64_t cell = cell_of(position, a.cells, a.out);
    for (int64_t u = 0; u < a.kernel; ++u) {
      const int64_t source = position * a.stride - a.padding + u * a.dilation;
      if (source >= 0 && source < a.in) taps.push_back({u, cell, source});
    }
    return cell;
  });
}

template <typename T>
void forward(const LocallySharedGeometry& g, Strided4<const T> input, const T* weight, const T* bias,
             Strided4<T> output) {
  if (is_along_rows_faster<T>(g)) return along_rows_forward(g, input, weight, bias, output);
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (is_matrices_faster(g)) return matrices_forward(g, input, weight, bias, output);
  }
  if constexpr (std::is_same_v<T, accumulate_t<T>>) {
    // Filters that fit the cache are soon packed, and an input in channels_last is read in place.
    const int64_t filters = g.out_channels * g.in_channels * g.kernel_height * g.kernel_width;
    if (is_batch_inner_faster<T>(g) && (input.c != 1 || filters > 65536))
      return batch_inner_forward(g, input, weight, bias, output);
  }
  const TapConvolution<T> convolution{plan_forward(rows_of(g)),
                                      plan_forward(columns_of(g)),
                                      g.stride_y,
                                      g.stride_x,
                                      g.batch,
                                      g.grid_width,
                                      g.kernel_width,
                                      g.kernel_height * g.kernel_width,
                                      g.in_channels,
                                      input,
                                      output,
                                      bias,
                                      spare_elements(g),
                                      g.in_height,
                                      g.in_width};
  const auto offsets =
      filter_offsets(input, g.in_channels, g.kernel_height, g.kernel_width, g.dilation_y, g.dilation_x);
  convolve_forward(convolution, weight, g.grid_height * g.grid_width, g.out_channels, offsets);
}

// torch's own.
Tensor conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
              const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
              const std::vector<int64_t>& dilation) {
  using torch::stable::detail::from;
  StableIValue stack[] = {from(input),   from(weight),   from(bias),      from(stride),
                          from(padding), from(dilation), from(int64_t{1})};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::conv2d", "", stack, TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// Whether maps are better copied with their channels innermost: products of matrices move single elements
// between them and maps whose cells have short rows.
bool is_better_channels_last(const LocallySharedGeometry& g, const Tensor& map) {
  return map.scalar_type() == ScalarType::BFloat16 && is_matrices_faster(g) &&
         g.out_width < 3 * g.grid_width && map.numel() > 0;
}

// The map itself where it is laid out so, else a copy.
Tensor laid_out(const Tensor& map, bool channels_last) {
  if (channels_last ? is_dense_in_order(map, {1, 3, 2, 0}) : map.is_contiguous()) return map;
  Tensor copy = empty_map(sizes_of(map), map, channels_last);
  return torch::stable::copy_(copy, map);
}

Tensor locally_shared_conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                             const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                             const std::vector<int64_t>& dilation) {
  const char* op = "locally_shared_conv2d";
  const auto g = forward_geometry(op, input, weight, bias, stride, padding, dilation);
  const Tensor dense_weight = dense(weight);
  std::optional<Tensor> dense_bias;
  if (bias) dense_bias = dense(*bias);
  const std::vector<int64_t> size{g.batch, g.out_channels, g.out_height, g.out_width};
  // Of empty maps and filters conv2d makes an error or another shape.
  const bool is_plain = g.grid_height * g.grid_width == 1 && input.scalar_type() == ScalarType::Float &&
                        input.numel() > 0 && weight.numel() > 0;
  // Too few channels to fill a vector.
  if (is_plain && g.out_channels < tile_kernels<float>().lanes && !is_along_rows_faster<float>(g)) {
    const Tensor filters =
        torch::stable::view(dense_weight, {g.out_channels, g.in_channels, g.kernel_height, g.kernel_width});
    if (dense_bias) dense_bias = torch::stable::view(*dense_bias, {g.out_channels});
    // Whose arguments are right by now: only memory can be missing.
    const Tensor result =
        or_out_of_memory([&] { return conv2d(input, filters, dense_bias, stride, padding, dilation); }, size,
                         input.element_size());
    return laid_out(result, is_channels_last(input));
  }
  const Tensor read = is_better_channels_last(g, input) ? laid_out(input, true) : input;
  Tensor output = empty_map(size, input, is_channels_last(read));
  dispatch_floating(input.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    forward<T>(g, read4<T>(read), dense_weight.const_data_ptr<T>(),
               dense_bias ? dense_bias->const_data_ptr<T>() : nullptr, write4<T>(output));
  });
  return laid_out(output, is_channels_last(input));
}

Tensor locally_shared_conv2d_input_grad(const Tensor& grad, const Tensor& weight,
                                        const std::vector<int64_t>& input_size,
                                        const std::vector<int64_t>& stride,
                                        const std::vector<int64_t>& padding,
                                        const std::vector<int64_t>& dilation, bool channels_last) {
  const char* op = "locally_shared_conv2d_input_grad";
  const auto g = input_grad_geometry(op, grad, weight, input_size, stride, padding, dilation);
  Tensor result = empty_map({g.batch, g.in_channels, g.in_height, g.in_width}, grad, channels_last);
  const Tensor dense_weight = dense(weight),
               read = is_better_channels_last(g, grad) ? laid_out(grad, true) : grad;
  dispatch_floating(grad.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    locally_shared_input_grad<T>(g, read4<T>(read), dense_weight.const_data_ptr<T>(), write4<T>(result));
  });
  return result;
}

// The weights' gradient reads a cell's inputs once for every few channels. In channels_last that takes them
// all along, which costs more than a planar copy where the cache does not hold them.
Tensor read_often(const LocallySharedGeometry& g, const Tensor& input) {
  constexpr int64_t cached_bytes = 8 << 20;
  const int64_t bytes = input.numel() * input.element_size() / (g.grid_height * g.grid_width);
  return is_channels_last(input) && bytes > cached_bytes ? dense(input) : input;
}

std::tuple<Tensor, Tensor> locally_shared_conv2d_weight_grad(const Tensor& grad, const Tensor& input,
                                                             const std::vector<int64_t>& grid,
                                                             const std::vector<int64_t>& kernel_size,
                                                             const std::vector<int64_t>& stride,
                                                             const std::vector<int64_t>& padding,
                                                             const std::vector<int64_t>& dilation) {
  const char* op = "locally_shared_conv2d_weight_grad";
  const auto g = weight_grad_geometry(op, grad, input, grid, kernel_size, stride, padding, dilation);
  const bool copied = is_better_channels_last(g, input);
  const Tensor read = copied ? laid_out(input, true) : read_often(g, input);
  const Tensor read_grad = copied ? laid_out(grad, true) : grad;
  Tensor weight =
      empty({grid[0], grid[1], g.out_channels, g.in_channels, kernel_size[0], kernel_size[1]}, input);
  Tensor bias = empty({grid[0], grid[1], g.out_channels}, input);
  dispatch_floating(input.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    locally_shared_weight_grad<T>(g, read4<T>(read_grad), read4<T>(read), weight.mutable_data_ptr<T>(),
                                  bias.mutable_data_ptr<T>());
  });
  return {weight, bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(faceattr, CPU, m) {
  m.impl("locally_shared_conv2d", TORCH_BOX(&locally_shared_conv2d));
  m.impl("locally_shared_conv2d_input_grad", TORCH_BOX(&locally_shared_conv2d_input_grad));
  m.impl("locally_shared_conv2d_weight_grad", TORCH_BOX(&locally_shared_conv2d_weight_grad));
}

}  // namespace faceattr
