// Interweaved convolution on the CPU. Cells' responses go straight to their places in the output; only with
// pooling does one row of cells stand in a buffer of its own. A cell's filters run only over the rows and
// columns that some block needs.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>

#include "../common/dtypes.h"
#include "../cpu/tap_convolution.h"
#include "../locally_shared_conv2d/gradients.h"
#include "checks.h"

namespace faceattr {
namespace {

using torch::stable::parallel_for;

// Positions first, first + step, ... of cell `cell`'s responses along one axis.
AxisBlock cell_block(int64_t cell, int64_t first, int64_t step, int64_t count, int64_t shift, int64_t kernel,
                     int64_t dilation) {
  AxisBlock block{first, step, count, cell, {}};
  for (int64_t u = 0; u < kernel; ++u) block.taps.push_back({u, cell, cell * shift + u * dilation});
  return block;
}

// A convolution with every cell's filters; `rows`, `columns`, `result` and `batch` are still to be chosen.
template <typename T>
TapConvolution<T> convolution(const InterweavedGeometry& g, Strided4<const T> input, const T* bias) {
  const int64_t spare = g.batch * (g.in_channels * g.in_height * g.in_width +
                                   g.out_channels * g.grid_height * g.blocks_y * g.grid_width * g.blocks_x);
  return {{},
          {},
          g.stride_y,
          g.stride_x,
          g.batch,
          g.grid_width,
          g.kernel_width,
          g.kernel_height * g.kernel_width,
          g.in_channels,
          input,
          {},
          bias,
          spare,
          g.in_height,
          g.in_width};
}

// Responses of `count` cell rows from p on: [N, O, count, response_height, Gw, response_width].
template <typename T>
void respond(const InterweavedGeometry& g, TapConvolution<T> c, const T* weight,
             const std::vector<int64_t>& offsets, int64_t p, int64_t count, T* responses) {
  const int64_t width = g.grid_width * g.response_width, area = count * g.response_height * width;
  c.rows.clear();
  for (int64_t i = 0; i < count; ++i)
    c.rows.push_back(cell_block(p + i, i * g.response_height, 1, g.response_height, g.shift_y,
                                g.kernel_height, g.dilation_y));
  c.columns.clear();
  for (int64_t q = 0; q < g.grid_width; ++q)
    c.columns.push_back(
        cell_block(q, q * g.response_width, 1, g.response_width, g.shift_x, g.kernel_width, g.dilation_x));
  c.result = {responses, g.out_channels * area, area, width, 1};
  convolve_forward(c, weight, g.grid_height * g.grid_width, g.out_channels, offsets);
}

// Index of the first maximum (a NaN counts as one) in the pooling window whose first response is at `begin`.
template <typename T>
int64_t first_maximum(const InterweavedGeometry& g, const T* responses, int64_t begin) {
  using A = accumulate_t<T>;
  int64_t best = begin;
  A most = static_cast<A>(responses[begin]);
  for (int64_t a = 0; a < g.pool_y; ++a) {
    for (int64_t b = 0; b < g.pool_x; ++b) {
      const int64_t at = begin + a * g.grid_width * g.response_width + b;
      const A here = static_cast<A>(responses[at]);
      if (std::isnan(most) || !(here > most || std::isnan(here))) continue;
      best = at, most = here;
    }
  }
  return best;
}

// body(n, o, i, j, q, begin): block (i, j) of every cell q of a row; begin: its first response.
template <typename Body>
void for_each_block(const InterweavedGeometry& g, const Body& body) {
  const int64_t width = g.grid_width * g.response_width, maps = g.batch * g.out_channels;
  parallel_for(0, maps, 1 + 4096 / (g.blocks_y * width), [&](int64_t begin, int64_t end) {
    for (int64_t map = begin; map < end; ++map)
      for (int64_t i = 0; i < g.blocks_y; ++i)
        for (int64_t q = 0; q < g.grid_width; ++q)
          for (int64_t j = 0; j < g.blocks_x; ++j)
            body(map / g.out_channels, map % g.out_channels, i, j, q,
                 (map * g.response_height + i) * width + q * g.response_width + j);
  });
}

// Of one cell row.
int64_t response_elements(const InterweavedGeometry& g) {
  return g.batch * g.out_channels * g.response_height * g.grid_width * g.response_width;
}

template <typename T>
std::vector<int64_t> offsets_of(const InterweavedGeometry& g, Strided4<const T> input) {
  return filter_offsets(input, g.in_channels, g.kernel_height, g.kernel_width, g.dilation_y, g.dilation_x);
}

// Pools what `respond` gives into the output, a row of blocks at a time.
template <typename T, typename A = accumulate_t<T>>
void pool_rows(const InterweavedGeometry& g, const T* responses, int64_t p, int64_t count,
               Strided4<T> output) {
  const int64_t width = g.grid_width * g.response_width;
  const int64_t rows = g.batch * g.out_channels * count * g.blocks_y;
  parallel_for(0, rows, 1 + 4096 / width, [&](int64_t begin, int64_t end) {
    std::vector<A> most(g.blocks_x);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t cells = row / g.blocks_y, i = row % g.blocks_y, map = cells / count;
      for (int64_t q = 0; q < g.grid_width; ++q) {
        for (int64_t a = 0; a < g.pool_y; ++a)
          for (int64_t b = 0; b < g.pool_x; ++b) {
            const T* from =
                responses + (cells * g.response_height + i + a) * width + q * g.response_width + b;
            const bool first = a + b == 0;
            A* to = most.data();
            for (int64_t j = 0; j < g.blocks_x; ++j) {
              const A here = static_cast<A>(from[j]);
              to[j] = !first && (to[j] >= here || to[j] != to[j]) ? to[j] : here;  // a NaN stays
            }
          }
        T* to = &output(map / g.out_channels, map % g.out_channels, i * g.grid_height + p + cells % count, q);
        for (int64_t j = 0; j < g.blocks_x; ++j) to[j * g.grid_width * output.w] = static_cast<T>(most[j]);
      }
    }
  });
}

template <typename T>
void forward(const InterweavedGeometry& g, Strided4<const T> input, const T* weight, const T* bias,
             Strided4<T> output) {
  auto c = convolution(g, input, bias);
  const auto offsets = offsets_of(g, input);
  if (g.pool_y * g.pool_x == 1) {
    for (int64_t p = 0; p < g.grid_height; ++p)
      c.rows.push_back(cell_block(p, p, g.grid_height, g.blocks_y, g.shift_y, g.kernel_height, g.dilation_y));
    for (int64_t q = 0; q < g.grid_width; ++q)
      c.columns.push_back(
          cell_block(q, q, g.grid_width, g.blocks_x, g.shift_x, g.kernel_width, g.dilation_x));
    c.result = output;
    return convolve_forward(c, weight, g.grid_height * g.grid_width, g.out_channels, offsets);
  }
  // As many cell rows at a time as fit the cache.
  const int64_t fitting = (int64_t{1} << 16) / std::max<int64_t>(1, response_elements(g));
  const int64_t step = std::clamp<int64_t>(fitting, 1, g.grid_height);
  const auto responses = make_buffer<T>(step * response_elements(g));
  for (int64_t p = 0; p < g.grid_height; p += step) {
    const int64_t count = std::min(step, g.grid_height - p);
    respond(g, c, weight, offsets, p, count, responses.get());
    pool_rows(g, responses.get(), p, count, output);
  }
}

// The gradients are those of one convolution a cell, each on its part of the input. The input's are added up
// in the order of the cells, whatever the threads.
template <typename T>
void backward(const InterweavedGeometry& g, Strided4<const T> grad, Strided4<const T> input, const T* weight,
              const T* bias, Strided4<T> input_grad, T* weight_grad, T* bias_grad) {
  const auto c = convolution(g, input, bias);
  const auto offsets = offsets_of(g, input);
  const bool pools = g.pool_y * g.pool_x > 1;
  const int64_t width = g.grid_width * g.response_width, area = g.response_height * width;
  const int64_t filters = g.out_channels * g.in_channels * g.kernel_height * g.kernel_width;
  const int64_t in_height = (g.response_height - 1) * g.stride_y + (g.kernel_height - 1) * g.dilation_y + 1;
  const int64_t in_width = (g.response_width - 1) * g.stride_x + (g.kernel_width - 1) * g.dilation_x + 1;
  const LocallySharedGeometry cell{g.batch,           g.in_channels,    in_height,  in_width, g.out_channels,
                                   g.response_height, g.response_width, 1,          1,        g.kernel_height,
                                   g.kernel_width,    g.stride_y,       g.stride_x, 0,        0,
                                   g.dilation_y,      g.dilation_x};
  const auto responses = make_buffer<T>(pools ? response_elements(g) : 0);
  const auto grads = make_buffer<T>(response_elements(g));
  const auto patch = make_buffer<T>(g.batch * g.in_channels * in_height * in_width);
  const Strided4<T> patch_grad{patch.get(), g.in_channels * in_height * in_width, in_height * in_width,
                               in_width, 1};
  parallel_for(0, g.batch * g.in_channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t map = begin; map < end; ++map)
      for (int64_t y = 0; y < g.in_height; ++y)
        for (int64_t x = 0; x < g.in_width; ++x)
          input_grad(map / g.in_channels, map % g.in_channels, y, x) = 0;
  });
  for (int64_t p = 0; p < g.grid_height; ++p) {
    if (pools) respond(g, c, weight, offsets, p, 1, responses.get());
    std::fill(grads.get(), grads.get() + response_elements(g), T(0));
    for_each_block(g, [&](int64_t n, int64_t o, int64_t i, int64_t j, int64_t q, int64_t begin) {
      grads[pools ? first_maximum(g, responses.get(), begin) : begin] +=
          grad(n, o, i * g.grid_height + p, j * g.grid_width + q);
    });
    for (int64_t q = 0; q < g.grid_width; ++q) {
      const int64_t index = p * g.grid_width + q;
      const Strided4<const T> cell_grad{grads.get() + q * g.response_width, g.out_channels * area, area,
                                        width, 1};
      const Strided4<const T> cell_input{&input(0, 0, p * g.shift_y, q * g.shift_x), input.n, input.c,
                                         input.h, input.w};
      locally_shared_weight_grad<T>(cell, cell_grad, cell_input, weight_grad + index * filters,
                                    bias_grad + index * g.out_channels);
      locally_shared_input_grad<T>(cell, cell_grad, weight + index * filters, patch_grad);
      parallel_for(
          0, g.batch * g.in_channels, 1 + 4096 / (in_height * in_width), [&](int64_t begin, int64_t end) {
            for (int64_t map = begin; map < end; ++map)
              for (int64_t y = 0; y < in_height; ++y)
                for (int64_t x = 0; x < in_width; ++x)
                  input_grad(map / g.in_channels, map % g.in_channels, p * g.shift_y + y,
                             q * g.shift_x + x) += patch_grad(map / g.in_channels, map % g.in_channels, y, x);
          });
    }
  }
}

Tensor interweaved_conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                          const std::vector<int64_t>& stride, const std::vector<int64_t>& dilation,
                          const std::vector<int64_t>& shift, const std::vector<int64_t>& pool) {
  const char* op = "interweaved_conv2d";
  const auto g = interweaved_geometry(op, input, weight, bias, stride, dilation, shift, pool);
  Tensor output = empty_map({g.batch, g.out_channels, g.grid_height * g.blocks_y, g.grid_width * g.blocks_x},
                            input, is_channels_last(input));
  const Tensor dense_weight = dense(weight);
  std::optional<Tensor> dense_bias;
  if (bias) dense_bias = dense(*bias);
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
  check_floating(input, op);
  // Sums over cells stay in float32 until the end.
  const auto dtype = input.scalar_type();
  const auto wide = dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const auto widened = [&](const Tensor& t) { return dense(to(t, wide)); };
  const Tensor wide_grad = to(grad, wide), wide_input = to(input, wide);
  const Tensor wide_weight = widened(weight);
  std::optional<Tensor> wide_bias;
  if (bias) wide_bias = widened(*bias);
  Tensor input_result =
      empty_map({g.batch, g.in_channels, g.in_height, g.in_width}, wide_input, is_channels_last(input));
  Tensor weight_result = empty(sizes_of(weight), wide_weight);
  Tensor bias_result = empty({g.grid_height, g.grid_width, g.out_channels}, wide_weight);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    backward<T>(g, read4<T>(wide_grad), read4<T>(wide_input), wide_weight.const_data_ptr<T>(),
                wide_bias ? wide_bias->const_data_ptr<T>() : nullptr, write4<T>(input_result),
                weight_result.mutable_data_ptr<T>(), bias_result.mutable_data_ptr<T>());
  };
  if (wide == ScalarType::Double)
    run(double{});
  else
    run(float{});
  const auto narrowed = [&](const Tensor& t) { return to(t, dtype); };
  return {narrowed(input_result), narrowed(weight_result), narrowed(bias_result)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(faceattr, CPU, m) {
  m.impl("interweaved_conv2d", TORCH_BOX(&interweaved_conv2d));
  m.impl("interweaved_conv2d_backward", TORCH_BOX(&interweaved_conv2d_backward));
}

}  // namespace faceattr
