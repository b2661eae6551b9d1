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

// A convolution: forward, or the gradient with respect to the input.
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

// One channel group of one block.
struct BlockIndex {
  int64_t row, column, group;
};

// Blocks in the order of the cells that own them, so that a cell's filters stay in the cache.
template <typename T>
std::vector<BlockIndex> order_blocks(const TapConvolution<T>& c, int64_t groups) {
  std::vector<BlockIndex> order;
  const auto next_owner = [](const std::vector<AxisBlock>& blocks, size_t begin) {
    size_t end = begin + 1;
    while (end < blocks.size() && blocks[end].owner == blocks[begin].owner) ++end;
    return end;
  };
  for (size_t y = 0, y_end; y < c.rows.size(); y = y_end) {
    y_end = next_owner(c.rows, y);
    for (size_t x = 0, x_end; x < c.columns.size(); x = x_end) {
      x_end = next_owner(c.columns, x);
      for (int64_t group = 0; group < groups; ++group)
        for (size_t row = y; row < y_end; ++row)
          for (size_t column = x; column < x_end; ++column)
            order.push_back({static_cast<int64_t>(row), static_cast<int64_t>(column), group});
    }
  }
  return order;
}

// panel(cell, group, scratch) gives the rows [tap][summed channel] of a cell's filters.
template <typename Scratch, typename T, typename PanelOf>
void convolve(const TileKernels<T>& kernels, const TapConvolution<T>& c, const ChannelGroups& groups,
              const PanelOf& panel) {
  const auto order = order_blocks(c, groups.groups);
  const auto size = [&](int64_t j) {
    const auto [row, column, group] = order[j];
    return std::pair(c.batch * c.rows[row].count * c.columns[column].count, groups.vectors_in(group));
  };
  const auto make = [&](int64_t j, TileJob<T>& job, std::vector<Segment<T>>& segments, Scratch& scratch) {
    const int64_t group = order[j].group, first = groups.first(group);
    const AxisBlock &row = c.rows[order[j].row], &column = c.columns[order[j].column];
    job.count[0] = c.batch, job.count[1] = row.count, job.count[2] = column.count;
    job.x_step[0] = c.source.n;
    job.x_step[1] = c.source_step_y * c.source.h;
    job.x_step[2] = c.source_step_x * c.source.w;
    job.out_step[0] = c.result.n, job.out_step[1] = row.step * c.result.h, job.out_step[2] = column.step * c.result.w;
    job.x = c.source.data;
    job.out = &c.result(0, first, row.first, column.first);
    job.channel_step = c.result.c;
    job.vectors = groups.vectors_in(group), job.channels = groups.channels_in(group);
    job.steps = c.summed, job.segment_step = c.source.c;
    for (const AxisTap& u : row.taps)
      for (const AxisTap& v : column.taps) {
        const auto [rows, width] = panel(u.cell * c.grid_width + v.cell, group, scratch);
        job.panel_step = width;
        segments.push_back({rows + (u.tap * c.kernel_width + v.tap) * c.summed * width,
                            u.source * c.source.h + v.source * c.source.w});
      }
    std::fill(std::begin(job.init), std::end(job.init), 0);
    if (c.bias) {
      const T* bias = c.bias + (row.owner * c.grid_width + column.owner) * groups.channels + first;
      std::copy(bias, bias + job.channels, job.init);
    }
  };
  run_jobs<Scratch>(kernels, order.size(), c.taps * c.summed, size, make);
}

// Elements that padding the panels may take: the inputs' and outputs'.
int64_t spare_elements(const LocallySharedGeometry& g) {
  return g.batch * (g.in_channels * g.in_height * g.in_width + g.out_channels * g.out_height * g.out_width);
}

// Outputs of the largest cell, over the batch.
int64_t positions_of_cell(const LocallySharedGeometry& g) {
  return g.batch * ceil_div(g.out_height, g.grid_height) * ceil_div(g.out_width, g.grid_width);
}

// Where a filter's inputs lie from its first one.
template <typename T>
std::vector<int64_t> filter_offsets(const LocallySharedGeometry& g, Strided4<const T> input) {
  std::vector<int64_t> offsets;
  for (int64_t c = 0; c < g.in_channels; ++c)
    for (int64_t u = 0; u < g.kernel_height; ++u)
      for (int64_t v = 0; v < g.kernel_width; ++v)
        offsets.push_back(c * input.c + u * g.dilation_y * input.h + v * g.dilation_x * input.w);
  return offsets;
}

// What the outputs of a cell read, unfolded: [positions][filter], each row `pitch` long. If the rest that does not
// fill a vector is to stand at the end of one, as TileKernels::Dot wants it, zeros go before it.
template <typename T, typename A = accumulate_t<T>>
void unfold_cell(const LocallySharedGeometry& g, Strided4<const T> input, const std::vector<int64_t>& offsets,
                 int64_t p, int64_t q, int64_t lanes, bool rest_last, int64_t pitch, A* patches) {
  const int64_t length = offsets.size(), rest = rest_last ? length % lanes : 0;
  const int64_t y_end = cell_begin(p + 1, g.grid_height, g.out_height);
  const int64_t x_begin = cell_begin(q, g.grid_width, g.out_width), x_end = cell_begin(q + 1, g.grid_width, g.out_width);
  const int64_t reach_y = (g.kernel_height - 1) * g.dilation_y, reach_x = (g.kernel_width - 1) * g.dilation_x;
  for (int64_t n = 0; n < g.batch; ++n)
    for (int64_t y = cell_begin(p, g.grid_height, g.out_height); y < y_end; ++y)
      for (int64_t x = x_begin; x < x_end; ++x, patches += pitch) {
        const int64_t top = y * g.stride_y - g.padding_y, left = x * g.stride_x - g.padding_x;
        if (top >= 0 && left >= 0 && top + reach_y < g.in_height && left + reach_x < g.in_width) {
          const T* from = &input(n, 0, top, left);
          for (int64_t k = 0; k < length; ++k) patches[k] = static_cast<A>(from[offsets[k]]);
        } else {
          A* to = patches;
          for (int64_t c = 0; c < g.in_channels; ++c)
            for (int64_t iy = top; iy <= top + reach_y; iy += g.dilation_y)
              for (int64_t ix = left; ix <= left + reach_x; ix += g.dilation_x) {
                const bool inside = iy >= 0 && iy < g.in_height && ix >= 0 && ix < g.in_width;
                *to++ = inside ? static_cast<A>(input(n, c, iy, ix)) : A(0);
              }
        }
        if (rest > 0) {
          A* last = patches + length - rest;
          std::move_backward(last, last + rest, last + lanes);
          std::fill(last, last + lanes - rest, A(0));
        }
      }
}

// With so many outputs or fewer a cell, packing its filters costs more than it gains.
constexpr int64_t kFewPositions = 8;

// For cells with few outputs: filters are read as they lie, once.
template <typename T, typename A = accumulate_t<T>>
void forward_dot(const TileKernels<T>& kernels, const LocallySharedGeometry& g, Strided4<const T> input,
                 const T* weight, const T* bias, Strided4<T> output) {
  constexpr int64_t step = TileKernels<T>::kDotRows;
  const int64_t length = g.in_channels * g.kernel_height * g.kernel_width, lanes = kernels.lanes;
  const int64_t pitch = ceil_div(length, lanes) * lanes, quads = ceil_div(g.out_channels, step);
  const int64_t most = positions_of_cell(g);
  const int64_t grain = 1 + kGrain * lanes / (step * most * length);
  const auto offsets = filter_offsets(g, input);
  parallel_for(0, g.grid_height * g.grid_width * quads, grain, [&](int64_t begin, int64_t end) {
    const auto patches = make_buffer<A>(most * pitch);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t cell = i / quads, first = i % quads * step, p = cell / g.grid_width, q = cell % g.grid_width;
      if (i == begin || first == 0) unfold_cell(g, input, offsets, p, q, lanes, true, pitch, patches.get());
      const int64_t y = cell_begin(p, g.grid_height, g.out_height), x = cell_begin(q, g.grid_width, g.out_width);
      const int64_t height = cell_begin(p + 1, g.grid_height, g.out_height) - y;
      const int64_t width = cell_begin(q + 1, g.grid_width, g.out_width) - x;
      const int64_t filter = cell * g.out_channels + first, rows = std::min(step, g.out_channels - first);
      const T* filters[step];
      for (int64_t j = 0; j < step; ++j) filters[j] = weight + (filter + std::min(j, rows - 1)) * length;
      const int64_t positions = g.batch * height * width;
      for (int64_t r = 0; r < positions; r += kernels.max_dot_positions) {
        const int64_t here = std::min<int64_t>(kernels.max_dot_positions, positions - r);
        A sums[step * TileKernels<T>::kMaxDotPositions];
        kernels.dot[here - 1](filters, length, patches.get() + r * pitch, pitch, sums);
        for (int64_t k = 0; k < here; ++k) {
          const int64_t n = (r + k) / (height * width), at = (r + k) % (height * width);
          for (int64_t j = 0; j < rows; ++j)
            output(n, first + j, y + at / width, x + at % width) =
                static_cast<T>(sums[k * step + j] + (bias ? static_cast<A>(bias[filter + j]) : A(0)));
        }
      }
    }
  });
}

// The filters of the cell that a thread is at.
template <typename T>
struct CellPanels {
  std::unique_ptr<Panels<T>> panels;
  int64_t cell = -1, group = -1;
};

template <typename T>
void forward(const LocallySharedGeometry& g, Strided4<const T> input, const T* weight, const T* bias,
             Strided4<T> output) {
  const auto& kernels = tile_kernels<T>();
  const int64_t cells = g.grid_height * g.grid_width, taps = g.kernel_height * g.kernel_width;
  const int64_t length = g.in_channels * taps;  // of a filter
  const T* weight_end = weight + cells * g.out_channels * length;
  if (length >= kernels.lanes && positions_of_cell(g) > 0 && positions_of_cell(g) <= kFewPositions) return forward_dot(kernels, g, input, weight, bias, output);
  const ChannelGroups groups(g.out_channels, kernels.lanes, kernels.max_vectors);
  std::vector<int64_t> rows(length);
  for (int64_t k = 0; k < length; ++k) rows[k] = k % taps * g.in_channels + k / taps;
  const auto pack = [&](const Panels<T>& panels, int64_t first_row, int64_t cell, int64_t group) {
    pack_matrix(kernels, panels, group, weight + cell * g.out_channels * length, weight_end, length, first_row, rows);
  };
  const TapConvolution<T> convolution{plan_forward(rows_of(g)), plan_forward(columns_of(g)), g.stride_y,
                                      g.stride_x, g.batch, g.grid_width, g.kernel_width, taps, g.in_channels,
                                      input, output, bias};
  if (cells >= torch::stable::get_num_threads()) {  // each thread packs the filters of the cells that it does
    convolve<CellPanels<T>>(kernels, convolution, groups, [&](int64_t cell, int64_t group, CellPanels<T>& own) {
      if (!own.panels) own.panels = std::make_unique<Panels<T>>(groups, length, spare_elements(g) / cells);
      if (own.cell != cell || own.group != group) pack(*own.panels, 0, cell, group);
      own.cell = cell, own.group = group;
      return std::pair(own.panels->row(group, 0), own.panels->width(group));
    });
  } else {
    const Panels<T> panels(groups, cells * length, spare_elements(g));
    parallel_for(0, cells * groups.groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) pack(panels, i / groups.groups * length, i / groups.groups, i % groups.groups);
    });
    convolve<int>(kernels, convolution, groups, [&](int64_t cell, int64_t group, int) {
      return std::pair(panels.row(group, cell * length), panels.width(group));
    });
  }
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
  std::vector<int64_t> rows(taps);
  for (int64_t tap = 0; tap < taps; ++tap) rows[tap] = tap * g.out_channels;
  parallel_for(0, filters, 1 + 20000 / (length + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t cell = i / g.out_channels, o = i % g.out_channels;
      for (int64_t group = 0; group < groups.groups; ++group)
        pack_matrix(kernels, panels, group, weight + i * length, weight + filters * length, taps,
                    cell * taps * g.out_channels + o, rows);
    }
  });
  const TapConvolution<T> convolution{plan_input_grad(rows_of(g)), plan_input_grad(columns_of(g)), 1, 1, g.batch,
                                      g.grid_width, g.kernel_width, taps, g.out_channels, grad, input_grad, nullptr};
  convolve<int>(kernels, convolution, groups, [&](int64_t cell, int64_t group, int) {
    return std::pair(panels.row(group, cell * taps * g.out_channels), panels.width(group));
  });
}

// Taps [first, first + count) of an axis that read inside the input from the cell's positions [begin, end).
struct TapRange {
  int64_t first, count, begin, end;
};

std::vector<TapRange> plan_taps(const Axis& a, int64_t cell) {
  const int64_t cell_first = cell_begin(cell, a.cells, a.out), cell_end = cell_begin(cell + 1, a.cells, a.out);
  std::vector<TapRange> ranges;
  for (int64_t u = 0; u < a.kernel; ++u) {
    const int64_t reach = u * a.dilation - a.padding;  // position y reads y * stride + reach
    const int64_t begin = reach < 0 ? std::max(cell_first, ceil_div(-reach, a.stride)) : cell_first;
    const int64_t end = reach < a.in ? std::min(cell_end, (a.in - 1 - reach) / a.stride + 1) : begin;
    if (!ranges.empty() && ranges.back().begin == begin && ranges.back().end == end)
      ++ranges.back().count;
    else
      ranges.push_back({u, 1, begin, end});
  }
  return ranges;
}

// One channel group of the gradients of a cell's filters, for taps that read from the same positions; without
// taps, that of its bias.
struct GradBlock {
  int64_t p, q, group;
  TapRange rows, columns;
};

std::vector<GradBlock> plan_weight_grad(const LocallySharedGeometry& g, int64_t groups) {
  std::vector<GradBlock> blocks;
  for (int64_t p = 0; p < g.grid_height; ++p) {
    const auto rows = plan_taps(rows_of(g), p);
    for (int64_t q = 0; q < g.grid_width; ++q) {
      const auto columns = plan_taps(columns_of(g), q);
      for (int64_t group = 0; group < groups; ++group) {
        blocks.push_back({p, q, group, {0, 0, 0, 0}, {0, 0, 0, 0}});
        for (const TapRange& u : rows)
          for (const TapRange& v : columns) blocks.push_back({p, q, group, u, v});
      }
    }
  }
  return blocks;
}

// Where the gradient of output (n, y, x) of a cell stands among its panel's rows. The longer of the batch and
// the cell's rows runs fastest: along it the inner loops run.
struct GradRows {
  int64_t top, left, height, width, batch;
  bool batch_inside;

  GradRows(const LocallySharedGeometry& g, int64_t p, int64_t q)
      : top(cell_begin(p, g.grid_height, g.out_height)),
        left(cell_begin(q, g.grid_width, g.out_width)),
        height(cell_begin(p + 1, g.grid_height, g.out_height) - top),
        width(cell_begin(q + 1, g.grid_width, g.out_width) - left),
        batch(g.batch),
        batch_inside(batch >= width) {}

  int64_t count() const { return batch * height * width; }
  int64_t row(int64_t n, int64_t y, int64_t x) const {
    const int64_t at = (y - top) * width + x - left;
    return batch_inside ? at * batch + n : n * height * width + at;
  }
};

// For cells with few outputs: filters' gradients are written as they lie, once.
template <typename T, typename A = accumulate_t<T>>
void weight_grad_outer(const TileKernels<T>& kernels, const LocallySharedGeometry& g, Strided4<const T> grad,
                       Strided4<const T> input, T* weight_grad, T* bias_grad) {
  constexpr int64_t step = TileKernels<T>::kDotRows;
  const int64_t length = g.in_channels * g.kernel_height * g.kernel_width, lanes = kernels.lanes;
  const int64_t pitch = ceil_div(length, lanes) * lanes, quads = ceil_div(g.out_channels, step);
  const int64_t most = positions_of_cell(g), grain = 1 + kGrain * lanes / (step * most * length + 1);
  const auto offsets = filter_offsets(g, input);
  parallel_for(0, g.grid_height * g.grid_width * quads, grain, [&](int64_t begin, int64_t end) {
    const auto patches = make_buffer<A>(most * pitch + lanes), grads = make_buffer<A>(most * step);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t cell = i / quads, first = i % quads * step, p = cell / g.grid_width, q = cell % g.grid_width;
      if (i == begin || first == 0) unfold_cell(g, input, offsets, p, q, lanes, false, pitch, patches.get());
      const int64_t y_end = cell_begin(p + 1, g.grid_height, g.out_height);
      const int64_t x_end = cell_begin(q + 1, g.grid_width, g.out_width);
      const int64_t filter = cell * g.out_channels + first, rows = std::min(step, g.out_channels - first);
      const A* factors[step];
      T* filters[step];
      int64_t positions = 0;
      for (int64_t j = 0; j < rows; ++j) {
        A* to = grads.get() + j * most;
        A sum = 0;
        for (int64_t n = 0; n < g.batch; ++n)
          for (int64_t y = cell_begin(p, g.grid_height, g.out_height); y < y_end; ++y)
            for (int64_t x = cell_begin(q, g.grid_width, g.out_width); x < x_end; ++x)
              sum += *to++ = static_cast<A>(grad(n, first + j, y, x));
        bias_grad[filter + j] = static_cast<T>(sum);
        factors[j] = grads.get() + j * most;
        filters[j] = weight_grad + (filter + j) * length;
        positions = to - factors[j];
      }
      for (int64_t j = rows; j < step; ++j) factors[j] = factors[0], filters[j] = filters[0];
      kernels.outer(factors, patches.get(), pitch, positions, length, filters);
    }
  });
}

// Gradients of filters and biases: sums over a cell's outputs, with the output's gradients as panels.
template <typename T>
void weight_grad(const LocallySharedGeometry& g, Strided4<const T> grad, Strided4<const T> input,
                 T* weight_grad, T* bias_grad) {
  const auto& kernels = tile_kernels<T>();
  static const int64_t kFew2 = getenv("FEW") ? atoi(getenv("FEW")) : 12;
  if (positions_of_cell(g) <= kFew2) return weight_grad_outer(kernels, g, grad, input, weight_grad, bias_grad);
  const int64_t taps = g.kernel_height * g.kernel_width, length = g.in_channels * taps;
  const int64_t most = positions_of_cell(g);
  const ChannelGroups groups(g.out_channels, kernels.lanes, kernels.max_vectors);
  const auto blocks = plan_weight_grad(g, groups.groups);
  const T one = 1;
  const auto size = [&](int64_t j) {
    const int64_t taps_here = blocks[j].rows.count * blocks[j].columns.count;
    return std::pair(taps_here ? g.in_channels * taps_here : 1, groups.vectors_in(blocks[j].group));
  };
  const auto make = [&](int64_t j, TileJob<T>& job, std::vector<Segment<T>>& segments, CellPanels<T>& own) {
    const auto& [p, q, group, u, v] = blocks[j];
    const GradRows rows(g, p, q);
    const int64_t cell = p * g.grid_width + q, first = groups.first(group), channels = groups.channels_in(group);
    if (!own.panels) own.panels = std::make_unique<Panels<T>>(groups, most, spare_elements(g));
    const int64_t width = own.panels->width(group);
    if (own.cell != cell || own.group != group) {
      for (int64_t n = 0; n < g.batch; ++n)
        for (int64_t y = rows.top; y < rows.top + rows.height; ++y)
          for (int64_t x = rows.left; x < rows.left + rows.width; ++x) {
            T* to = own.panels->row(group, rows.row(n, y, x));
            for (int64_t o = 0; o < channels; ++o) to[o] = grad(n, first + o, y, x);
          }
      own.cell = cell, own.group = group;
    }
    job.vectors = groups.vectors_in(group), job.channels = channels, job.panel_step = width;
    std::fill(std::begin(job.init), std::end(job.init), 0);
    const T* panel = own.panels->row(group, 0);
    if (u.count == 0) {
      std::fill(job.count, job.count + 3, 1);
      job.x = &one, job.out = bias_grad + cell * g.out_channels + first;
      job.channel_step = 1, job.steps = rows.count(), job.segment_step = 0;
      segments.push_back({panel, 0});
      return;
    }
    job.count[0] = g.in_channels, job.count[1] = u.count, job.count[2] = v.count;
    job.x_step[0] = input.c, job.x_step[1] = g.dilation_y * input.h, job.x_step[2] = g.dilation_x * input.w;
    job.out_step[0] = taps, job.out_step[1] = g.kernel_width, job.out_step[2] = 1;
    job.x = input.data;
    job.out = weight_grad + (cell * g.out_channels + first) * length + u.first * g.kernel_width + v.first;
    job.channel_step = length;
    const int64_t stride_x = g.stride_x * input.w;
    job.steps = rows.batch_inside ? g.batch : v.end - v.begin, job.segment_step = rows.batch_inside ? input.n : stride_x;
    for (int64_t n = 0; n < (rows.batch_inside ? 1 : g.batch); ++n)
      for (int64_t y = u.begin; y < u.end; ++y)
        for (int64_t x = v.begin; x < (rows.batch_inside ? v.end : std::min(v.end, v.begin + 1)); ++x) {
          const int64_t top = y * g.stride_y - g.padding_y + u.first * g.dilation_y;
          const int64_t left = x * g.stride_x - g.padding_x + v.first * g.dilation_x;
          segments.push_back({panel + rows.row(n, y, x) * width, n * input.n + top * input.h + left * input.w});
        }
  };
  run_jobs<CellPanels<T>>(kernels, blocks.size(), most, size, make);
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
