// Interweaved convolution on the CPU: a cell's filters run only over the rows and columns that some block
// needs.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>

#include "../common/dtypes.h"
#include "../common/strided.h"
#include "checks.h"

namespace faceattr {
namespace {

using torch::stable::parallel_for;

// Offset into a contiguous weight [Gh, Gw, O, C, kh, kw].
int64_t weight_offset(const InterweavedGeometry& g, int64_t p, int64_t q, int64_t o, int64_t c) {
  return (((p * g.grid_width + q) * g.out_channels + o) * g.in_channels + c) * g.kernel_height *
         g.kernel_width;
}

// Responses of cell (p, q), channel o, to image n: [response_height, response_width].
template <typename T, typename A = accumulate_t<T>>
void respond(const InterweavedGeometry& g, Strided4<const T> input, const T* weight, const T* bias, int64_t n,
             int64_t p, int64_t q, int64_t o, A* responses) {
  const A start = bias ? static_cast<A>(bias[(p * g.grid_width + q) * g.out_channels + o]) : A(0);
  for (int64_t i = 0; i < g.response_height; ++i) {
    for (int64_t j = 0; j < g.response_width; ++j) {
      const int64_t y = i * g.stride_y + p * g.shift_y, x = j * g.stride_x + q * g.shift_x;
      A sum = start;
      for (int64_t c = 0; c < g.in_channels; ++c) {
        const T* w = weight + weight_offset(g, p, q, o, c);
        for (int64_t u = 0; u < g.kernel_height; ++u)
          for (int64_t v = 0; v < g.kernel_width; ++v)
            sum += static_cast<A>(*w++) *
                   static_cast<A>(input(n, c, y + u * g.dilation_y, x + v * g.dilation_x));
      }
      responses[i * g.response_width + j] = sum;
    }
  }
}

// Index of the first maximum (a NaN counts as one) in the pooling window whose first response is (i, j).
template <typename A>
int64_t first_maximum(const InterweavedGeometry& g, const A* responses, int64_t i, int64_t j) {
  int64_t best = i * g.response_width + j;
  for (int64_t a = 0; a < g.pool_y; ++a) {
    for (int64_t b = 0; b < g.pool_x; ++b) {
      const int64_t at = (i + a) * g.response_width + j + b;
      if (!std::isnan(responses[best]) && (responses[at] > responses[best] || std::isnan(responses[at])))
        best = at;
    }
  }
  return best;
}

template <typename T>
void forward(const InterweavedGeometry& g, Strided4<const T> input, const T* weight, const T* bias,
             Strided4<T> output) {
  using A = accumulate_t<T>;
  parallel_for(0, g.batch * g.grid_height * g.grid_width * g.out_channels, 1,
               [&](int64_t begin, int64_t end) {
                 std::vector<A> responses(g.response_height * g.response_width);
                 for (int64_t k = begin; k < end; ++k) {
                   const int64_t o = k % g.out_channels, q = k / g.out_channels % g.grid_width;
                   const int64_t p = k / (g.out_channels * g.grid_width) % g.grid_height;
                   const int64_t n = k / (g.out_channels * g.grid_width * g.grid_height);
                   respond<T>(g, input, weight, bias, n, p, q, o, responses.data());
                   for (int64_t i = 0; i < g.blocks_y; ++i)
                     for (int64_t j = 0; j < g.blocks_x; ++j)
                       output(n, o, i * g.grid_height + p, j * g.grid_width + q) =
                           static_cast<T>(responses[first_maximum(g, responses.data(), i, j)]);
                 }
               });
}

// Gradient of every response, [N, Gh, Gw, O, response_height, response_width]: each pooled gradient goes to
// the maximum that made it.
template <typename T, typename A = accumulate_t<T>>
std::vector<A> response_grads(const InterweavedGeometry& g, Strided4<const T> grad, Strided4<const T> input,
                              const T* weight, const T* bias) {
  const int64_t area = g.response_height * g.response_width;
  const int64_t maps = g.batch * g.grid_height * g.grid_width * g.out_channels;
  std::vector<A> grads(maps * area);
  parallel_for(0, maps, 1, [&](int64_t begin, int64_t end) {
    std::vector<A> responses(area);
    for (int64_t k = begin; k < end; ++k) {
      const int64_t o = k % g.out_channels, q = k / g.out_channels % g.grid_width;
      const int64_t p = k / (g.out_channels * g.grid_width) % g.grid_height;
      const int64_t n = k / (g.out_channels * g.grid_width * g.grid_height);
      if (g.pool_y * g.pool_x > 1) respond<T>(g, input, weight, bias, n, p, q, o, responses.data());
      for (int64_t i = 0; i < g.blocks_y; ++i)
        for (int64_t j = 0; j < g.blocks_x; ++j)
          grads[k * area + first_maximum(g, responses.data(), i, j)] +=
              static_cast<A>(grad(n, o, i * g.grid_height + p, j * g.grid_width + q));
    }
  });
  return grads;
}

template <typename T, typename A = accumulate_t<T>>
void input_grad(const InterweavedGeometry& g, const std::vector<A>& grads, const T* weight,
                Strided4<T> result) {
  const int64_t area = g.response_height * g.response_width;
  parallel_for(0, g.batch * g.in_channels * g.in_height, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t n = k / (g.in_channels * g.in_height), c = k / g.in_height % g.in_channels,
                    y = k % g.in_height;
      for (int64_t x = 0; x < g.in_width; ++x) {
        A sum = 0;
        for (int64_t p = 0; p < g.grid_height; ++p) {
          for (int64_t u = 0; u < g.kernel_height; ++u) {
            const int64_t top = y - p * g.shift_y - u * g.dilation_y, i = top / g.stride_y;
            if (top < 0 || top % g.stride_y || i >= g.response_height) continue;
            for (int64_t q = 0; q < g.grid_width; ++q) {
              for (int64_t v = 0; v < g.kernel_width; ++v) {
                const int64_t left = x - q * g.shift_x - v * g.dilation_x, j = left / g.stride_x;
                if (left < 0 || left % g.stride_x || j >= g.response_width) continue;
                const int64_t cell = (n * g.grid_height + p) * g.grid_width + q;
                for (int64_t o = 0; o < g.out_channels; ++o)
                  sum += grads[(cell * g.out_channels + o) * area + i * g.response_width + j] *
                         static_cast<A>(weight[weight_offset(g, p, q, o, c) + u * g.kernel_width + v]);
              }
            }
          }
        }
        result(n, c, y, x) = static_cast<T>(sum);
      }
    }
  });
}

template <typename T, typename A = accumulate_t<T>>
void weight_grad(const InterweavedGeometry& g, const std::vector<A>& grads, Strided4<const T> input,
                 T* weight_result, T* bias_result) {
  const int64_t area = g.response_height * g.response_width, cells = g.grid_height * g.grid_width;
  parallel_for(0, cells * g.out_channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t o = k % g.out_channels, q = k / g.out_channels % g.grid_width;
      const int64_t p = k / (g.out_channels * g.grid_width);
      A total = 0;
      for (int64_t n = 0; n < g.batch; ++n) {
        const A* map = grads.data() + (n * cells * g.out_channels + k) * area;
        for (int64_t r = 0; r < area; ++r) total += map[r];
      }
      bias_result[k] = static_cast<T>(total);
      T* w = weight_result + weight_offset(g, p, q, o, 0);
      for (int64_t c = 0; c < g.in_channels; ++c) {
        for (int64_t u = 0; u < g.kernel_height; ++u) {
          for (int64_t v = 0; v < g.kernel_width; ++v) {
            A sum = 0;
            for (int64_t n = 0; n < g.batch; ++n) {
              const A* map = grads.data() + (n * cells * g.out_channels + k) * area;
              for (int64_t i = 0; i < g.response_height; ++i)
                for (int64_t j = 0; j < g.response_width; ++j)
                  sum +=
                      *map++ * static_cast<A>(input(n, c, i * g.stride_y + p * g.shift_y + u * g.dilation_y,
                                                    j * g.stride_x + q * g.shift_x + v * g.dilation_x));
            }
            *w++ = static_cast<T>(sum);
          }
        }
      }
    }
  });
}

Tensor interweaved_conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                          const std::vector<int64_t>& stride, const std::vector<int64_t>& dilation,
                          const std::vector<int64_t>& shift, const std::vector<int64_t>& pool) {
  const char* op = "interweaved_conv2d";
  const auto g = interweaved_geometry(op, input, weight, bias, stride, dilation, shift, pool);
  Tensor output = empty_map({g.batch, g.out_channels, g.grid_height * g.blocks_y, g.grid_width * g.blocks_x},
                            input, is_channels_last(input));
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

std::tuple<Tensor, Tensor, Tensor> interweaved_conv2d_backward(
    const Tensor& grad, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::vector<int64_t>& stride, const std::vector<int64_t>& dilation,
    const std::vector<int64_t>& shift, const std::vector<int64_t>& pool) {
  const char* op = "interweaved_conv2d_backward";
  const auto g = interweaved_geometry(op, input, weight, bias, stride, dilation, shift, pool);
  check_grad(op, grad, input, g);
  Tensor input_result =
      empty_map({g.batch, g.in_channels, g.in_height, g.in_width}, input, is_channels_last(input));
  const Tensor dense_weight = torch::stable::contiguous(weight);
  Tensor weight_result = torch::stable::new_empty(weight, weight.sizes());
  Tensor bias_result =
      torch::stable::new_empty(weight, std::vector<int64_t>{g.grid_height, g.grid_width, g.out_channels});
  std::optional<Tensor> dense_bias;
  if (bias) dense_bias = torch::stable::contiguous(*bias);
  dispatch_floating(input.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    const T* w = dense_weight.const_data_ptr<T>();
    const auto grads = response_grads<T>(g, read4<T>(grad), read4<T>(input), w,
                                         dense_bias ? dense_bias->const_data_ptr<T>() : nullptr);
    input_grad<T>(g, grads, w, write4<T>(input_result));
    weight_grad<T>(g, grads, read4<T>(input), weight_result.mutable_data_ptr<T>(),
                   bias_result.mutable_data_ptr<T>());
  });
  return {input_result, weight_result, bias_result};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(faceattr, CPU, m) {
  m.impl("interweaved_conv2d", TORCH_BOX(&interweaved_conv2d));
  m.impl("interweaved_conv2d_backward", TORCH_BOX(&interweaved_conv2d_backward));
}

}  // namespace faceattr
