// Gradients of a locally shared convolution on the CPU, on the same inner loops as the forward pass.
#include "../cpu/tap_convolution.h"
#include "axis.h"
#include "batch_inner.h"
#include "gradients.h"
#include "matrices.h"

namespace faceattr {
namespace {

using torch::stable::parallel_for;

// Blocks of inputs and the outputs that read them. Inputs a stride apart are read by the same taps. They are
// ordered by the last cell that reads them.
std::vector<AxisBlock> plan_input_grad(const Axis& a) {
  return plan_axis(a.in, a.stride, 1, [&](int64_t position, std::vector<AxisTap>& taps) {
    for (int64_t u = 0; u < a.kernel; ++u) {
      const int64_t reach = position + a.padding - u * a.dilation, source = reach / a.stride;
      if (reach >= 0 && reach % a.stride == 0 && source < a.out)
        taps.push_back({u, cell_of(source, a.cells, a.out), source});
    }
    return taps.empty() ? 0 : taps.front().cell;
  });
}

// Taps [first, first + count) of an axis that read inside the input from the cell's positions [begin, end).
struct TapRange {
  int64_t first, count, begin, end;
};

std::vector<TapRange> plan_taps(const Axis& a, int64_t cell) {
  const int64_t cell_first = cell_begin(cell, a.cells, a.out),
                cell_end = cell_begin(cell + 1, a.cells, a.out);
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

// Rows of a cell that are worth an inner loop, for images lie far apart.
constexpr int64_t kLongRow = 16;

// Where the gradient of output (n, y, x) of a cell stands among its panel's rows. The cell's rows run
// fastest, along the inner loops, or the batch, where it is longer and the rows are short.
struct GradRows {
  int64_t top, left, height, width, batch;
  bool batch_inside;

  GradRows(const LocallySharedGeometry& g, int64_t p, int64_t q)
      : top(cell_begin(p, g.grid_height, g.out_height)),
        left(cell_begin(q, g.grid_width, g.out_width)),
        height(cell_begin(p + 1, g.grid_height, g.out_height) - top),
        width(cell_begin(q + 1, g.grid_width, g.out_width) - left),
        batch(g.batch),
        batch_inside(batch >= width && width < kLongRow) {}

  int64_t count() const { return batch * height * width; }
  int64_t row(int64_t n, int64_t y, int64_t x) const {
    const int64_t at = (y - top) * width + x - left;
    return batch_inside ? at * batch + n : n * height * width + at;
  }
};

// For cells with so many outputs or fewer, unfolding what they read costs less than scattered writes.
constexpr int64_t kFewOutputs = 24;

// What the outputs of a cell read, unfolded: [positions][filter], each row `pitch` long.
template <typename T, typename A = accumulate_t<T>>
void unfold_cell(const LocallySharedGeometry& g, Strided4<const T> input, const std::vector<int64_t>& offsets,
                 int64_t p, int64_t q, int64_t pitch, A* patches) {
  const int64_t length = offsets.size();
  const int64_t y_end = cell_begin(p + 1, g.grid_height, g.out_height);
  const int64_t x_end = cell_begin(q + 1, g.grid_width, g.out_width);
  const int64_t reach_y = (g.kernel_height - 1) * g.dilation_y, reach_x = (g.kernel_width - 1) * g.dilation_x;
  for (int64_t n = 0; n < g.batch; ++n)
    for (int64_t y = cell_begin(p, g.grid_height, g.out_height); y < y_end; ++y)
      for (int64_t x = cell_begin(q, g.grid_width, g.out_width); x < x_end; ++x, patches += pitch) {
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
      }
}

// For cells with few outputs: filters' gradients are written as they lie, once.
template <typename T, typename A = accumulate_t<T>>
void weight_grad_outer(const TileKernels<T>& kernels, const LocallySharedGeometry& g, Strided4<const T> grad,
                       Strided4<const T> input, T* weight_grad, T* bias_grad) {
  constexpr int64_t step = TileKernels<T>::kDotRows;
  const int64_t length = g.in_channels * g.kernel_height * g.kernel_width, lanes = kernels.lanes;
  const int64_t pitch = ceil_div(length, lanes) * lanes, quads = ceil_div(g.out_channels, step);
  const int64_t most = positions_of_cell(g), grain = 1 + kGrain * lanes / (step * most * length + 1);
  const auto offsets =
      filter_offsets(input, g.in_channels, g.kernel_height, g.kernel_width, g.dilation_y, g.dilation_x);
  parallel_for(0, g.grid_height * g.grid_width * quads, grain, [&](int64_t begin, int64_t end) {
    const auto patches = make_buffer<A>(most * pitch + lanes), grads = make_buffer<A>(most * step);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t cell = i / quads, first = i % quads * step, p = cell / g.grid_width,
                    q = cell % g.grid_width;
      if (i == begin || first == 0) unfold_cell(g, input, offsets, p, q, pitch, patches.get());
      const int64_t y_end = cell_begin(p + 1, g.grid_height, g.out_height);
      const int64_t x_end = cell_begin(q + 1, g.grid_width, g.out_width);
      const int64_t filter = cell * g.out_channels + first, rows = std::min(step, g.out_channels - first);
      const A* factors[step] = {};
      T* filters[step] = {};
      int64_t positions = 0;
      for (int64_t j = 0; j < rows; ++j) {
        A* to = grads.get() + j * most;
        A sum = 0;
        for (int64_t n = 0; n < g.batch; ++n)
          for (int64_t y = cell_begin(p, g.grid_height, g.out_height); y < y_end; ++y)
            for (int64_t x = cell_begin(q, g.grid_width, g.out_width); x < x_end; ++x)
              sum += * to++ = static_cast<A>(grad(n, first + j, y, x));
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

// For cells with so many outputs or fewer, packing their filters costs more than keeping what outputs send
// back.
constexpr int64_t kFewSenders = 12;

// For cells with few outputs: filters are read as they lie. What each output sends back to the inputs
// that it reads is kept, [N, Ho, Wo, filter], and then added up input by input.
template <typename T, typename A = accumulate_t<T>>
void input_grad_spread(const TileKernels<T>& kernels, const LocallySharedGeometry& g, Strided4<const T> grad,
                       const T* weight, Strided4<T> input_grad) {
  constexpr int64_t step = TileKernels<T>::kDotRows;
  const int64_t taps = g.kernel_height * g.kernel_width, length = g.in_channels * taps;
  const auto patches = make_buffer<A>(g.batch * g.out_height * g.out_width * length);
  const int64_t grain = 1 + kGrain * kernels.lanes / (positions_of_cell(g) * g.out_channels * length + 1);
  parallel_for(0, g.grid_height * g.grid_width, grain, [&](int64_t begin, int64_t end) {
    const auto grads = make_buffer<A>(step * g.out_channels);
    const A* factors[step];
    A* to[step];
    for (int64_t cell = begin; cell < end; ++cell) {
      const int64_t p = cell / g.grid_width, q = cell % g.grid_width;
      const int64_t top = cell_begin(p, g.grid_height, g.out_height);
      const int64_t left = cell_begin(q, g.grid_width, g.out_width);
      const int64_t height = cell_begin(p + 1, g.grid_height, g.out_height) - top;
      const int64_t width = cell_begin(q + 1, g.grid_width, g.out_width) - left;
      const int64_t positions = g.batch * height * width;
      for (int64_t first = 0; first < positions; first += step) {
        for (int64_t j = 0; j < step; ++j) {
          const int64_t at = std::min(first + j, positions - 1), n = at / (height * width);
          const int64_t y = top + at / width % height, x = left + at % width;
          A* const row = grads.get() + j * g.out_channels;
          for (int64_t o = 0; o < g.out_channels; ++o) row[o] = static_cast<A>(grad(n, o, y, x));
          factors[j] = row;
          to[j] = patches.get() + ((n * g.out_height + y) * g.out_width + x) * length;
        }
        kernels.spread(factors, weight + cell * g.out_channels * length, length, g.out_channels, length, to);
      }
    }
  });
  const int64_t area = g.in_height * g.in_width;
  parallel_for(0, g.batch * g.in_channels, 1 + kGrain / (g.out_height * g.out_width * taps),
               [&](int64_t begin, int64_t end) {
                 const auto sums = make_buffer<A>(area);
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t n = i / g.in_channels, c = i % g.in_channels;
                   std::fill(sums.get(), sums.get() + area, A(0));
                   for (int64_t y = 0; y < g.out_height; ++y)
                     for (int64_t x = 0; x < g.out_width; ++x) {
                       const A* from =
                           patches.get() + ((n * g.out_height + y) * g.out_width + x) * length + c * taps;
                       const int64_t top = y * g.stride_y - g.padding_y, left = x * g.stride_x - g.padding_x;
                       for (int64_t u = 0; u < g.kernel_height; ++u)
                         for (int64_t v = 0; v < g.kernel_width; ++v, ++from) {
                           const int64_t iy = top + u * g.dilation_y, ix = left + v * g.dilation_x;
                           if (iy >= 0 && iy < g.in_height && ix >= 0 && ix < g.in_width)
                             sums[iy * g.in_width + ix] += *from;
                         }
                     }
                   for (int64_t y = 0; y < g.in_height; ++y)
                     for (int64_t x = 0; x < g.in_width; ++x)
                       input_grad(n, c, y, x) = static_cast<T>(sums[y * g.in_width + x]);
                 }
               });
}

// Whether a filter's elements for neighbouring input channels are neighbours, in whole vectors.
template <typename T>
bool reads_filters_in_place(const LocallySharedGeometry& g) {
  return g.kernel_height * g.kernel_width == 1 && g.in_channels % tile_kernels<T>().lanes == 0;
}

// Gathers: each input element sums over the outputs that read it.
template <typename T>
void input_grad_packed(const LocallySharedGeometry& g, Strided4<const T> grad, const T* weight,
                       Strided4<result_t<T>> input_grad) {
  const auto& kernels = tile_kernels<T>();
  const int64_t cells = g.grid_height * g.grid_width, taps = g.kernel_height * g.kernel_width;
  const int64_t length = g.in_channels * taps, filters = cells * g.out_channels;
  const ChannelGroups groups(g.in_channels, kernels.lanes, kernels.max_vectors);
  const bool as_they_lie = reads_filters_in_place<T>(g);
  const Panels<T> panels(groups, as_they_lie ? 0 : filters * taps, spare_elements(g));
  std::vector<int64_t> rows(taps);
  for (int64_t tap = 0; tap < taps; ++tap) rows[tap] = tap * g.out_channels;
  parallel_for(0, as_they_lie ? 0 : filters, 1 + 20000 / (length + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t cell = i / g.out_channels, o = i % g.out_channels;
      for (int64_t group = 0; group < groups.groups; ++group)
        pack_matrix(kernels, panels, group, weight + i * length + groups.first(group) * taps,
                    weight + filters * length, taps, cell * taps * g.out_channels + o, rows);
    }
  });
  const TapConvolution<T> convolution{plan_input_grad(rows_of(g)),
                                      plan_input_grad(columns_of(g)),
                                      1,
                                      1,
                                      g.batch,
                                      g.grid_width,
                                      g.kernel_width,
                                      taps,
                                      g.out_channels,
                                      grad,
                                      input_grad,
                                      nullptr,
                                      0,
                                      g.out_height,
                                      g.out_width};
  convolve<int>(kernels, convolution, groups, share_of(convolution, g.in_channels),
                [&](int64_t cell, int64_t group, int) {
                  if (as_they_lie)
                    return std::pair(weight + cell * g.out_channels * length + groups.first(group), length);
                  return std::pair<const T*, int64_t>(panels.row(group, cell * taps * g.out_channels),
                                                      panels.width(group));
                });
}

// Sums over a cell's outputs, with the output's gradients as panels. one: the factor that sums them up.
template <typename T>
void weight_grad_packed(const LocallySharedGeometry& g, Strided4<const T> grad, Strided4<const T> input,
                        result_t<T>* weight_grad, result_t<T>* bias_grad, const T& one) {
  const auto& kernels = tile_kernels<T>();
  const int64_t taps = g.kernel_height * g.kernel_width, length = g.in_channels * taps;
  const int64_t most = positions_of_cell(g);
  const ChannelGroups groups(g.out_channels, kernels.lanes, kernels.max_vectors);
  const auto blocks = plan_weight_grad(g, groups.groups);
  const auto size = [&](int64_t j) {
    const int64_t taps_here = blocks[j].rows.count * blocks[j].columns.count;
    return std::pair(taps_here ? g.in_channels * taps_here : 1, groups.vectors_in(blocks[j].group));
  };
  const auto make = [&](int64_t j, TileJob<T>& job, std::vector<Segment<T>>& segments, CellPanels<T>& own) {
    const auto& [p, q, group, u, v] = blocks[j];
    const GradRows rows(g, p, q);
    const int64_t cell = p * g.grid_width + q, first = groups.first(group),
                  channels = groups.channels_in(group);
    if (!own.panels) own.panels = std::make_unique<Panels<T>>(groups, most, spare_elements(g));
    const int64_t width = own.panels->width(group);
    if (own.claim(cell, group)) {
      for (int64_t n = 0; n < g.batch; ++n)
        for (int64_t y = rows.top; y < rows.top + rows.height; ++y)
          for (int64_t x = rows.left; x < rows.left + rows.width; ++x) {
            T* to = own.panels->row(group, rows.row(n, y, x));
            for (int64_t o = 0; o < channels; ++o) to[o] = grad(n, first + o, y, x);
          }
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
    job.steps = rows.batch_inside ? g.batch : v.end - v.begin,
    job.segment_step = rows.batch_inside ? input.n : stride_x;
    for (int64_t n = 0; n < (rows.batch_inside ? 1 : g.batch); ++n)
      for (int64_t y = u.begin; y < u.end; ++y)
        for (int64_t x = v.begin; x < (rows.batch_inside ? v.end : std::min(v.end, v.begin + 1)); ++x) {
          const int64_t top = y * g.stride_y - g.padding_y + u.first * g.dilation_y;
          const int64_t left = x * g.stride_x - g.padding_x + v.first * g.dilation_x;
          segments.push_back(
              {panel + rows.row(n, y, x) * width, n * input.n + top * input.h + left * input.w});
        }
  };
  run_jobs<CellPanels<T>>(kernels, blocks.size(), most, Share::kJobs, size, make);
}

}  // namespace

template <typename T>
void locally_shared_input_grad(const LocallySharedGeometry& g, Strided4<const T> grad, const T* weight,
                               Strided4<T> input_grad) {
  if constexpr (std::is_same_v<T, accumulate_t<T>>) {
    const bool in_place = grad.c == 1 && reads_filters_in_place<T>(g);
    if (is_batch_inner_faster<T>(g) && !in_place) return batch_inner_input_grad(g, grad, weight, input_grad);
  }
  const auto& kernels = tile_kernels<T>();
  const int64_t filter = g.in_channels * g.kernel_height * g.kernel_width;
  if (positions_of_cell(g) <= std::min(kFewSenders, g.out_channels) && filter >= kernels.lanes)
    return input_grad_spread(kernels, g, grad, weight, input_grad);
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (is_matrices_faster(g)) return matrices_input_grad(g, grad, weight, input_grad);
    if (has_pair_products()) {
      const int64_t cells = g.grid_height * g.grid_width;
      const int64_t length = g.in_channels * g.kernel_height * g.kernel_width;
      auto paired = g;
      paired.out_channels = (g.out_channels + 1) / 2;
      const PairedMap grads = pair_up(grad, {g.batch, g.out_channels, g.out_height, g.out_width}, 1);
      const PairedMap filters = pair_up({weight, g.out_channels * length, length, length, 1},
                                        {cells, g.out_channels, 1, length}, 1);
      return input_grad_packed(paired, grads.map, filters.map.data, input_grad);
    }
  }
  input_grad_packed(g, grad, weight, input_grad);
}

template <typename T>
void locally_shared_weight_grad(const LocallySharedGeometry& g, Strided4<const T> grad,
                                Strided4<const T> input, T* weight_grad, T* bias_grad) {
  if constexpr (std::is_same_v<T, accumulate_t<T>>) {
    if (is_batch_inner_faster<T>(g)) return batch_inner_weight_grad(g, grad, input, weight_grad, bias_grad);
  }
  if (positions_of_cell(g) <= kFewOutputs)
    return weight_grad_outer(tile_kernels<T>(), g, grad, input, weight_grad, bias_grad);
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (is_matrices_faster(g)) return matrices_weight_grad(g, grad, input, weight_grad, bias_grad);
    if (has_pair_products() && g.batch > 1) {  // positions of two images make a pair
      auto paired = g;
      paired.batch = (g.batch + 1) / 2;
      const PairedMap grads = pair_up(grad, {g.batch, g.out_channels, g.out_height, g.out_width}, 0);
      const PairedMap inputs = pair_up(input, {g.batch, g.in_channels, g.in_height, g.in_width}, 0);
      return weight_grad_packed(paired, grads.map, inputs.map, weight_grad, bias_grad, {1.f, 1.f});
    }
  }
  weight_grad_packed(g, grad, input, weight_grad, bias_grad, T(1));
}

// Instantiated here, used by both convolutions.
#define FACEATTR_GRADIENTS(T)                                                                           \
  template void locally_shared_input_grad<T>(const LocallySharedGeometry&, Strided4<const T>, const T*, \
                                             Strided4<T>);                                              \
  template void locally_shared_weight_grad<T>(const LocallySharedGeometry&, Strided4<const T>,          \
                                              Strided4<const T>, T*, T*);
FACEATTR_GRADIENTS(double)
FACEATTR_GRADIENTS(float)
FACEATTR_GRADIENTS(Half)
FACEATTR_GRADIENTS(BFloat16)

}  // namespace faceattr
