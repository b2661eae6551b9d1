// Locally shared convolution on the CPU: forward, input gradient, weight and bias gradient.
//
// All three are sums over taps. Output (or input) positions are cut into blocks that read the same taps of the
// same cells, so that no product with padding is ever formed and no input is unfolded; within a block the
// common inner loops do the work.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "../common/axis_plan.h"
#include "../common/panels.h"
#include "../common/strided.h"
#include "checks.h"

namespace faceattr {
namespace {

using torch::stable::parallel_for;

struct Axis {
  int64_t in, out, cells, kernel, stride, padding, dilation;
};

Axis rows_of(const LocallySharedGeometry& g) {
  return {g.in_height, g.out_height, g.grid_height, g.kernel_height, g.stride_y, g.padding_y, g.dilation_y};
}

Axis columns_of(const LocallySharedGeometry& g) {
  return {g.in_width, g.out_width, g.grid_width, g.kernel_width, g.stride_x, g.padding_x, g.dilation_x};
}

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

// Blocks of inputs and the outputs that read them. Inputs a stride apart are read by the same taps.
std::vector<AxisBlock> plan_input_grad(const Axis& a) {
  return plan_axis(a.in, a.stride, 1, [&](int64_t position, std::vector<AxisTap>& taps) {
    for (int64_t u = 0; u < a.kernel; ++u) {
      const int64_t reach = position + a.padding - u * a.dilation, source = reach / a.stride;
      if (reach >= 0 && reach % a.stride == 0 && source < a.out)
        taps.push_back({u, cell_of(source, a.cells, a.out), source});
    }
    return 0;
  });
}

// A convolution with filters from panels: forward, or the gradient with respect to the input.
template <typename T>
struct TapConvolution {
  std::vector<AxisBlock> rows, columns;
  int64_t source_step_y, source_step_x;
  int64_t batch, grid_width, kernel_width, taps;  // taps: kernel_height * kernel_width
  int64_t summed;                                 // channels that are summed over
  Strided4<const T> source;
  Strided4<T> result;
  const T* bias;  // [Gh, Gw, channels] or null
};

template <typename T>
void convolve(const TapConvolution<T>& c, const Panels<T>& panels) {
  const auto& groups = panels.groups();
  const int64_t columns = c.columns.size(), jobs = c.rows.size() * columns * groups.groups;
  const auto size = [&](int64_t j) {
    const int64_t block = j / groups.groups;
    return std::pair(c.batch * c.rows[block / columns].count * c.columns[block % columns].count,
                     groups.vectors_in(j % groups.groups));
  };
  run_jobs<T>(jobs, c.taps * c.summed, size, [&](int64_t j, TileJob<T>& job, std::vector<Segment<T>>& segments) {
    const int64_t block = j / groups.groups, group = j % groups.groups, first = groups.first(group);
    const AxisBlock &row = c.rows[block / columns], &column = c.columns[block % columns];
    job.count[0] = c.batch, job.count[1] = row.count, job.count[2] = column.count;
    job.x_step[0] = c.source.n, job.x_step[1] = c.source_step_y * c.source.h;
    job.x_step[2] = c.source_step_x * c.source.w;
    job.out_step[0] = c.result.n, job.out_step[1] = row.step * c.result.h, job.out_step[2] = column.step * c.result.w;
    job.x = c.source.data;
    job.out = &c.result(0, first, row.first, column.first);
    job.channel_step = c.result.c;
    job.vectors = groups.vectors_in(group), job.channels = groups.channels_in(group);
    job.steps = c.summed, job.panel_step = panels.width(group), job.segment_step = c.source.c;
    for (const AxisTap& u : row.taps)
      for (const AxisTap& v : column.taps) {
        const int64_t tap = (u.cell * c.grid_width + v.cell) * c.taps + u.tap * c.kernel_width + v.tap;
        segments.push_back({panels.row(group, tap * c.summed), u.source * c.source.h + v.source * c.source.w});
      }
    std::fill(std::begin(job.init), std::end(job.init), 0);
    if (c.bias) {
      const T* bias = c.bias + (row.owner * c.grid_width + column.owner) * groups.channels + first;
      std::copy(bias, bias + job.channels, job.init);
    }
  });
}

// Elements that padding the panels may take: the inputs' and outputs'.
int64_t spare_elements(const LocallySharedGeometry& g) {
  return g.batch * (g.in_channels * g.in_height * g.in_width + g.out_channels * g.out_height * g.out_width);
}

template <typename T>
void forward(const LocallySharedGeometry& g, Strided4<const T> input, const T* weight, const T* bias,
             Strided4<T> output) {
  const auto& kernels = tile_kernels<T>();
  const int64_t cells = g.grid_height * g.grid_width, taps = g.kernel_height * g.kernel_width;
  const int64_t length = g.in_channels * taps;  // of a filter
  const ChannelGroups groups(g.out_channels, kernels.lanes, kernels.max_vectors);
  const Panels<T> panels(groups, cells * length, spare_elements(g));
  parallel_for(0, cells * groups.groups, 1 + 20000 / (length * 16 + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t cell = i / groups.groups;
      const T* filters = weight + cell * g.out_channels * length;
      pack_matrix(kernels, panels, i % groups.groups, {filters, weight + cells * g.out_channels * length, length, length},
                  [&](int64_t k) { return (cell * taps + k % taps) * g.in_channels + k / taps; });
    }
  });
  convolve<T>({plan_forward(rows_of(g)), plan_forward(columns_of(g)), g.stride_y, g.stride_x, g.batch,
               g.grid_width, g.kernel_width, taps, g.in_channels, input, output, bias},
              panels);
}

// Gathers: each input element sums over the outputs that read it.
template <typename T>
void input_grad(const LocallySharedGeometry& g, Strided4<const T> grad, const T* weight,
                Strided4<T> input_grad) {
  const auto& kernels = tile_kernels<T>();
  const int64_t cells = g.grid_height * g.grid_width, taps = g.kernel_height * g.kernel_width;
  const int64_t length = g.in_channels * taps, filters = cells * g.out_channels;
  const ChannelGroups groups(g.in_channels, kernels.lanes, kernels.max_vectors);
  const Panels<T> panels(groups, filters * taps, spare_elements(g));
  parallel_for(0, filters, 1 + 20000 / (length + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t cell = i / g.out_channels, o = i % g.out_channels;
      for (int64_t group = 0; group < groups.groups; ++group)
        pack_matrix(kernels, panels, group, {weight + i * length, weight + filters * length, taps, taps},
                    [&](int64_t tap) { return (cell * taps + tap) * g.out_channels + o; });
    }
  });
  convolve<T>({plan_input_grad(rows_of(g)), plan_input_grad(columns_of(g)), 1, 1, g.batch, g.grid_width,
               g.kernel_width, taps, g.out_channels, grad, input_grad, nullptr},
              panels);
}


// Offset into a contiguous weight [Gh, Gw, O, C, kh, kw].
int64_t weight_offset(const LocallySharedGeometry& g, int64_t p, int64_t q, int64_t o, int64_t c) {
  return (((p * g.grid_width + q) * g.out_channels + o) * g.in_channels + c) * g.kernel_height *
         g.kernel_width;
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
