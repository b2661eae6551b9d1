// Locally shared convolution on the CPU: forward, input gradient, weight and bias gradient.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "../common/dtypes.h"
#include "../common/strided.h"
#include "checks.h"

namespace faceattr {
namespace {

using torch::stable::parallel_for;

// Offset into a contiguous weight [Gh, Gw, O, C, kh, kw].
int64_t weight_offset(const LocallySharedGeometry& g, int64_t p, int64_t q, int64_t o, int64_t c) {
  return (((p * g.grid_width + q) * g.out_channels + o) * g.in_channels + c) * g.kernel_height *
         g.kernel_width;
}

template <typename T>
void forward(const LocallySharedGeometry& g, Strided4<const T> input, const T* weight, const T* bias,
             Strided4<T> output) {
  using A = accumulate_t<T>;
  parallel_for(0, g.batch * g.out_channels * g.out_height, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / (g.out_channels * g.out_height), o = i / g.out_height % g.out_channels;
      const int64_t y = i % g.out_height, p = cell_of(y, g.grid_height, g.out_height);
      for (int64_t x = 0; x < g.out_width; ++x) {
        const int64_t q = cell_of(x, g.grid_width, g.out_width);
        A sum = bias ? static_cast<A>(bias[(p * g.grid_width + q) * g.out_channels + o]) : A(0);
        for (int64_t c = 0; c < g.in_channels; ++c) {
          const T* w = weight + weight_offset(g, p, q, o, c);
          for (int64_t u = 0; u < g.kernel_height; ++u) {
            const int64_t iy = y * g.stride_y - g.padding_y + u * g.dilation_y;
            if (iy < 0 || iy >= g.in_height) continue;
            for (int64_t v = 0; v < g.kernel_width; ++v) {
              const int64_t ix = x * g.stride_x - g.padding_x + v * g.dilation_x;
              if (ix < 0 || ix >= g.in_width) continue;
              sum += static_cast<A>(w[u * g.kernel_width + v]) * static_cast<A>(input(n, c, iy, ix));
            }
          }
        }
        output(n, o, y, x) = static_cast<T>(sum);
      }
    }
  });
}

// Gathers: each input element sums over the outputs that read it, so the order never depends on the threads.
template <typename T>
void input_grad(const LocallySharedGeometry& g, Strided4<const T> grad, const T* weight,
                Strided4<T> input_grad) {
  using A = accumulate_t<T>;
  parallel_for(0, g.batch * g.in_channels * g.in_height, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / (g.in_channels * g.in_height), c = i / g.in_height % g.in_channels;
      const int64_t iy = i % g.in_height;
      for (int64_t ix = 0; ix < g.in_width; ++ix) {
        A sum = 0;
        for (int64_t u = 0; u < g.kernel_height; ++u) {
          const int64_t top = iy + g.padding_y - u * g.dilation_y, y = top / g.stride_y;
          if (top < 0 || top % g.stride_y || y >= g.out_height) continue;
          const int64_t p = cell_of(y, g.grid_height, g.out_height);
          for (int64_t v = 0; v < g.kernel_width; ++v) {
            const int64_t left = ix + g.padding_x - v * g.dilation_x, x = left / g.stride_x;
            if (left < 0 || left % g.stride_x || x >= g.out_width) continue;
            const int64_t q = cell_of(x, g.grid_width, g.out_width);
            for (int64_t o = 0; o < g.out_channels; ++o) {
              const T w = weight[weight_offset(g, p, q, o, c) + u * g.kernel_width + v];
              sum += static_cast<A>(w) * static_cast<A>(grad(n, o, y, x));
            }
          }
        }
        input_grad(n, c, iy, ix) = static_cast<T>(sum);
      }
    }
  });
}

template <typename T>
void weight_grad(const LocallySharedGeometry& g, Strided4<const T> grad, Strided4<const T> input,
                 T* weight_grad, T* bias_grad) {
  using A = accumulate_t<T>;
  parallel_for(0, g.grid_height * g.grid_width * g.out_channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t o = i % g.out_channels;
      const int64_t q = i / g.out_channels % g.grid_width, p = i / (g.out_channels * g.grid_width);
      const int64_t y0 = cell_begin(p, g.grid_height, g.out_height);
      const int64_t y1 = cell_begin(p + 1, g.grid_height, g.out_height);
      const int64_t x0 = cell_begin(q, g.grid_width, g.out_width);
      const int64_t x1 = cell_begin(q + 1, g.grid_width, g.out_width);
      A total = 0;
      for (int64_t n = 0; n < g.batch; ++n)
        for (int64_t y = y0; y < y1; ++y)
          for (int64_t x = x0; x < x1; ++x) total += static_cast<A>(grad(n, o, y, x));
      bias_grad[i] = static_cast<T>(total);
      for (int64_t c = 0; c < g.in_channels; ++c) {
        T* w = weight_grad + weight_offset(g, p, q, o, c);
        for (int64_t u = 0; u < g.kernel_height; ++u) {
          for (int64_t v = 0; v < g.kernel_width; ++v) {
            A sum = 0;
            for (int64_t n = 0; n < g.batch; ++n) {
              for (int64_t y = y0; y < y1; ++y) {
                const int64_t iy = y * g.stride_y - g.padding_y + u * g.dilation_y;
                if (iy < 0 || iy >= g.in_height) continue;
                for (int64_t x = x0; x < x1; ++x) {
                  const int64_t ix = x * g.stride_x - g.padding_x + v * g.dilation_x;
                  if (ix < 0 || ix >= g.in_width) continue;
                  sum += static_cast<A>(grad(n, o, y, x)) * static_cast<A>(input(n, c, iy, ix));
                }
              }
            }
            w[u * g.kernel_width + v] = static_cast<T>(sum);
          }
        }
      }
    }
  });
}

Tensor locally_shared_conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                             const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                             const std::vector<int64_t>& dilation) {
  const char* op = "locally_shared_conv2d";
  const auto g = forward_geometry(op, input, weight, bias, stride, padding, dilation);
  Tensor output =
      empty_map({g.batch, g.out_channels, g.out_height, g.out_width}, input, is_channels_last(input));
  const Tensor dense_weight = torch::stable::contiguous(weight);
  std::optional<Tensor> dense_bias;
  if (bias) dense_bias = torch::stable::contiguous(*bias);
  dispatch_floating(input.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    forward<T>(g, read4<T>(input), dense_weight.const_data_ptr<T>(),
               dense_bias ? dense_bias->const_data_ptr<T>() : nullptr, write4<T>(output));
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
  Tensor result = empty_map({g.batch, g.in_channels, g.in_height, g.in_width}, grad, channels_last);
  const Tensor dense_weight = torch::stable::contiguous(weight);
  dispatch_floating(grad.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    input_grad<T>(g, read4<T>(grad), dense_weight.const_data_ptr<T>(), write4<T>(result));
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
  Tensor weight = torch::stable::new_empty(
      input,
      std::vector<int64_t>{grid[0], grid[1], g.out_channels, g.in_channels, kernel_size[0], kernel_size[1]});
  Tensor bias = torch::stable::new_empty(input, std::vector<int64_t>{grid[0], grid[1], g.out_channels});
  dispatch_floating(input.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    weight_grad<T>(g, read4<T>(grad), read4<T>(input), weight.mutable_data_ptr<T>(),
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
