// Convolutions whose filters differ from block to block: forward, and the gradient with respect to the input.
#pragma once

#include <algorithm>
#include <utility>

#include "../common/strided.h"
#include "axis_plan.h"
#include "pairs.h"
#include "panels.h"

namespace faceattr {

// A convolution: forward, or the gradient with respect to the input.
template <typename T>
struct TapConvolution {
  std::vector<AxisBlock> rows, columns;
  int64_t source_step_y, source_step_x;
  int64_t batch, grid_width, kernel_width, taps;  // taps: kernel_height * kernel_width
  int64_t summed;                                 // channels that are summed over
  Strided4<const T> source;
  Strided4<result_t<T>> result;
  const result_t<T>* bias;  // [Gh, Gw, channels] or null
  int64_t spare;            // elements that padding the filters may take
  int64_t source_height, source_width;

  // Positions of the result's maps.
  int64_t area() const {
    const auto count = [](const std::vector<AxisBlock>& blocks) {
      int64_t all = 0;
      for (const AxisBlock& block : blocks) all += block.count;
      return all;
    };
    return count(rows) * count(columns);
  }

  bool is_full(const AxisBlock& row, const AxisBlock& column) const {
    return static_cast<int64_t>(row.taps.size() * column.taps.size()) == taps;
  }
};

// What the blocks of one cell read from some images.
struct Part {
  int64_t image, images, top, height, left, width;
  int64_t area() const { return height * width; }
};

// One channel group of one block, for a part's images.
struct BlockIndex {
  int64_t row, column, group, part;
};

struct BlockOrder {
  std::vector<BlockIndex> blocks;
  std::vector<Part> parts;
};

// Blocks [begin, end) of an axis with one owner, and the positions [first, first + count) that they read.
struct OwnerBlocks {
  size_t begin, end;
  int64_t first, count;
};

inline std::vector<OwnerBlocks> group_by_owner(const std::vector<AxisBlock>& blocks, int64_t source_step) {
  std::vector<OwnerBlocks> owners;
  for (size_t begin = 0, end; begin < blocks.size(); begin = end) {
    int64_t first = INT64_MAX, last = -1;
    for (end = begin; end < blocks.size() && blocks[end].owner == blocks[begin].owner; ++end)
      for (const AxisTap& tap : blocks[end].taps) {
        first = std::min(first, tap.source);
        last = std::max(last, tap.source + (blocks[end].count - 1) * source_step);
      }
    owners.push_back({begin, end, last < 0 ? 0 : first, last < 0 ? 0 : last - first + 1});
  }
  return owners;
}

// Blocks in the order of the cells that own them, so that a cell's filters stay in the cache, and of as many
// images as leave what a cell reads there from one channel group to the next.
template <typename T>
BlockOrder order_blocks(const TapConvolution<T>& c, int64_t groups) {
  const auto rows = group_by_owner(c.rows, c.source_step_y);
  const auto columns = group_by_owner(c.columns, c.source_step_x);
  const int64_t owners = std::max<int64_t>(rows.size() * columns.size(), 1);
  const int64_t image_bytes = c.source_height * c.source_width * c.summed * sizeof(T) / owners;
  constexpr int64_t cached_bytes = 512 << 10;
  const int64_t chunks =
      groups > 1 && c.batch > 0 ? std::clamp<int64_t>(c.batch * image_bytes / cached_bytes, 1, c.batch) : 1;
  BlockOrder order;
  for (const OwnerBlocks& y : rows)
    for (const OwnerBlocks& x : columns)
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t image = chunk * c.batch / chunks, images = (chunk + 1) * c.batch / chunks - image;
        for (int64_t group = 0; group < groups; ++group)
          for (size_t row = y.begin; row < y.end; ++row)
            for (size_t column = x.begin; column < x.end; ++column)
              order.blocks.push_back({static_cast<int64_t>(row), static_cast<int64_t>(column), group,
                                      static_cast<int64_t>(order.parts.size())});
        order.parts.push_back({image, images, y.first, y.count, x.first, x.count});
      }
  return order;
}

// Cells of small planar maps share cache lines. Threads that each do some cells would pass these to and fro,
// so there each does some images.
template <typename T>
Share share_of(const TapConvolution<T>& c, int64_t channels) {
  const bool small = c.area() * static_cast<int64_t>(sizeof(result_t<T>)) <= 2048;
  const bool planar = c.result.c != 1 || channels == 1;
  return small && planar && c.batch >= torch::stable::get_num_threads() ? Share::kPartOfEveryJob
                                                                        : Share::kJobs;
}

// A thread's copy of a part, its channels side by side.
template <typename T>
class PartCopy {
 public:
  // Image 0, row 0 and column 0 are the part's first.
  Strided4<const T> of(const TileKernels<T>& kernels, const TapConvolution<T>& c, int64_t index,
                       const Part& part) {
    const int64_t pitch = ceil_div(c.summed, kernels.lanes) * kernels.lanes;
    if (index_ != index) fill(kernels, c, part, pitch), index_ = index;
    return {data_.get(), part.area() * pitch, 1, part.width * pitch, pitch};
  }

 private:
  Buffer<T> data_;
  int64_t size_ = 0, index_ = -1;

  void fill(const TileKernels<T>& kernels, const TapConvolution<T>& c, const Part& part, int64_t pitch) {
    const int64_t size = part.images * part.area() * pitch;
    if (size > size_) data_ = make_buffer<T>(size), size_ = size;
    std::vector<int64_t> places(part.width);
    for (int64_t x = 0; x < part.width; ++x) places[x] = x;
    const T* end = &c.source(c.batch - 1, c.summed - 1, c.source_height - 1, c.source_width - 1) + 1;
    T* to = data_.get();
    for (int64_t n = part.image; n < part.image + part.images; ++n)
      for (int64_t y = part.top; y < part.top + part.height; ++y, to += part.width * pitch)
        for (int64_t first = 0; first < c.summed; first += kernels.lanes)
          kernels.pack(&c.source(n, first, y, part.left), end, c.source.c,
                       std::min<int64_t>(kernels.lanes, c.summed - first), kernels.lanes, places.data(),
                       part.width, to + first, pitch);
  }
};

// Planar maps are read from another page at each step. Where that happens often enough, and no other thread
// needs the same copy, what is read is copied first.
template <typename T>
bool copies_parts(const TapConvolution<T>& c, const std::vector<Part>& parts, int64_t groups, Share share) {
  constexpr int64_t many_channels = 32, many_reads = 16, cached_bytes = 2 << 20;
  if (c.source.c == 1 || c.source.w != 1 || c.summed < many_channels) return false;
  int64_t copied = 0;
  for (const Part& part : parts) {
    if (part.images * part.area() * c.summed * static_cast<int64_t>(sizeof(T)) > cached_bytes) return false;
    copied += part.images * part.area();
  }
  if (c.batch * c.area() * c.taps * groups < many_reads * copied) return false;
  const int64_t threads = torch::stable::get_num_threads();
  return threads == 1 || (share == Share::kJobs && static_cast<int64_t>(parts.size()) >= 4 * threads);
}

// panel(cell, group, scratch) gives the rows [tap][summed channel] of a cell's filters.
template <typename Scratch, typename T, typename PanelOf>
void convolve(const TileKernels<T>& kernels, const TapConvolution<T>& c, const ChannelGroups& groups,
              Share share, const PanelOf& panel) {
  struct Own {
    Scratch filters;
    PartCopy<T> part;
  };
  const BlockOrder order = order_blocks(c, groups.groups);
  const bool copies = copies_parts(c, order.parts, groups.groups, share);
  const auto size = [&](int64_t j) {
    const auto& [row, column, group, part] = order.blocks[j];
    return std::pair(order.parts[part].images * c.rows[row].count * c.columns[column].count,
                     groups.vectors_in(group));
  };
  const auto make = [&](int64_t j, TileJob<T>& job, std::vector<Segment<T>>& segments, Own& own) {
    const BlockIndex& block = order.blocks[j];
    const int64_t group = block.group, first = groups.first(group);
    const AxisBlock &row = c.rows[block.row], &column = c.columns[block.column];
    const Part& part = order.parts[block.part];
    const Strided4<const T> source = copies ? own.part.of(kernels, c, block.part, part) : c.source;
    const int64_t top = copies ? part.top : 0, left = copies ? part.left : 0;
    job.count[0] = part.images, job.count[1] = row.count, job.count[2] = column.count;
    job.x_step[0] = source.n;
    job.x_step[1] = c.source_step_y * source.h;
    job.x_step[2] = c.source_step_x * source.w;
    job.out_step[0] = c.result.n, job.out_step[1] = row.step * c.result.h,
    job.out_step[2] = column.step * c.result.w;
    job.x = &source(copies ? 0 : part.image, 0, 0, 0);
    job.out = &c.result(part.image, first, row.first, column.first);
    job.channel_step = c.result.c;
    job.vectors = groups.vectors_in(group), job.channels = groups.channels_in(group);
    job.steps = c.summed, job.segment_step = source.c;
    for (const AxisTap& u : row.taps)
      for (const AxisTap& v : column.taps) {
        const auto [rows, width] = panel(u.cell * c.grid_width + v.cell, group, own.filters);
        job.panel_step = width;
        segments.push_back({rows + (u.tap * c.kernel_width + v.tap) * c.summed * width,
                            (u.source - top) * source.h + (v.source - left) * source.w});
      }
    std::fill(std::begin(job.init), std::end(job.init), 0);
    if (c.bias) {
      const auto* bias = c.bias + (row.owner * c.grid_width + column.owner) * groups.channels + first;
      std::copy(bias, bias + job.channels, job.init);
    }
  };
  run_jobs<Own>(kernels, order.blocks.size(), c.taps * c.summed, share, size, make);
}

// The filters of the cell that a thread is at, as far as it has packed them.
template <typename T>
struct CellPanels {
  std::unique_ptr<Panels<T>> panels;
  int64_t cell = -1;
  std::vector<char> packed;  // by group

  // Whether the cell's group is still to be packed; from now on it is not.
  bool claim(int64_t of_cell, int64_t group) {
    if (cell != of_cell) packed.assign(panels->groups().groups, 0), cell = of_cell;
    return !std::exchange(packed[group], 1);
  }
};

// For blocks with so many positions or fewer, packing their filters costs more than it gains.
constexpr int64_t kFewPositions = 8;

// What a block's positions read, unfolded: [positions][filter], each row `pitch` long, as TileKernels::Dot
// wants it. offsets: where a filter's inputs lie from its first one.
template <typename T, typename A = accumulate_t<T>>
void unfold_block(const TapConvolution<T>& c, const AxisBlock& row, const AxisBlock& column,
                  const std::vector<int64_t>& offsets, int64_t lanes, int64_t pitch, A* patches) {
  const int64_t length = offsets.size(), rest = length % lanes;
  for (int64_t n = 0; n < c.batch; ++n)
    for (int64_t y = 0; y < row.count; ++y)
      for (int64_t x = 0; x < column.count; ++x, patches += pitch) {
        const T* origin = &c.source(n, 0, y * c.source_step_y, x * c.source_step_x);
        if (c.is_full(row, column)) {
          const T* from = origin + row.taps[0].source * c.source.h + column.taps[0].source * c.source.w;
          for (int64_t k = 0; k < length; ++k) patches[k] = static_cast<A>(from[offsets[k]]);
        } else {
          std::fill(patches, patches + length, A(0));
          for (const AxisTap& u : row.taps)
            for (const AxisTap& v : column.taps) {
              const T* from = origin + u.source * c.source.h + v.source * c.source.w;
              A* to = patches + u.tap * c.kernel_width + v.tap;
              for (int64_t k = 0; k < c.summed; ++k) to[k * c.taps] = static_cast<A>(from[k * c.source.c]);
            }
        }
        if (rest > 0) {
          A* last = patches + length - rest;
          std::move_backward(last, last + rest, last + lanes);
          std::fill(last, last + lanes - rest, A(0));
        }
      }
}

// Where a filter's inputs lie from its first one.
template <typename T>
std::vector<int64_t> filter_offsets(const Strided4<T>& input, int64_t channels, int64_t kernel_height,
                                    int64_t kernel_width, int64_t dilation_y, int64_t dilation_x) {
  std::vector<int64_t> offsets;
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t u = 0; u < kernel_height; ++u)
      for (int64_t v = 0; v < kernel_width; ++v)
        offsets.push_back(c * input.c + u * dilation_y * input.h + v * dilation_x * input.w);
  return offsets;
}

// For blocks with few positions: filters are read as they lie, once.
template <typename T, typename A = accumulate_t<T>>
void convolve_few(const TileKernels<T>& kernels, const TapConvolution<T>& c, const T* weight,
                  int64_t channels, const std::vector<int64_t>& offsets) {
  constexpr int64_t step = TileKernels<T>::kDotRows;
  const int64_t length = offsets.size(), lanes = kernels.lanes, pitch = ceil_div(length, lanes) * lanes;
  const int64_t quads = ceil_div(channels, step),
                grain = 1 + kGrain * lanes / (step * kFewPositions * length);
  const auto order = order_blocks(c, 1).blocks;
  torch::stable::parallel_for(0, order.size() * quads, grain, [&](int64_t begin, int64_t end) {
    const auto patches = make_buffer<A>(kFewPositions * pitch);
    for (int64_t i = begin; i < end; ++i) {
      const AxisBlock &row = c.rows[order[i / quads].row], &column = c.columns[order[i / quads].column];
      const int64_t first = i % quads * step, rows = std::min(step, channels - first);
      if (i == begin || first == 0) unfold_block(c, row, column, offsets, lanes, pitch, patches.get());
      const int64_t filter = (row.owner * c.grid_width + column.owner) * channels + first;
      const T* filters[step];
      for (int64_t j = 0; j < step; ++j) filters[j] = weight + (filter + std::min(j, rows - 1)) * length;
      const int64_t area = row.count * column.count, positions = c.batch * area;
      for (int64_t r = 0; r < positions; r += kernels.max_dot_positions) {
        const int64_t here = std::min<int64_t>(kernels.max_dot_positions, positions - r);
        A sums[step * TileKernels<T>::kMaxDotPositions];
        kernels.dot[here - 1](filters, length, patches.get() + r * pitch, pitch, sums);
        for (int64_t k = 0; k < here; ++k) {
          const int64_t n = (r + k) / area, y = (r + k) % area / column.count, x = (r + k) % column.count;
          T* to = &c.result(n, first, row.first + y * row.step, column.first + x * column.step);
          for (int64_t j = 0; j < rows; ++j)
            to[j * c.result.c] =
                static_cast<T>(sums[k * step + j] + (c.bias ? static_cast<A>(c.bias[filter + j]) : A(0)));
        }
      }
    }
  });
}

// With the filters of a contiguous weight [Gh, Gw, channels, in channels, kh, kw], packed and, for pairs,
// paired.
template <typename T>
void convolve_packed(const TapConvolution<T>& c, const result_t<T>* weight, int64_t cells, int64_t channels,
                     int64_t in_channels) {
  const auto& kernels = tile_kernels<T>();
  const int64_t length = c.summed * c.taps;  // of a filter
  const result_t<T>* weight_end = weight + cells * channels * in_channels * c.taps;
  const ChannelGroups groups(channels, kernels.lanes, kernels.max_vectors);
  std::vector<int64_t> rows(length);
  for (int64_t k = 0; k < length; ++k) rows[k] = k % c.taps * c.summed + k / c.taps;
  const auto pack = [&](const Panels<T>& panels, int64_t first_row, int64_t cell, int64_t group) {
    const result_t<T>* filters = weight + (cell * channels + groups.first(group)) * in_channels * c.taps;
    if constexpr (std::is_same_v<T, BFloat16Pair>) {
      const int64_t count = groups.channels_in(group);
      const auto paired = pair_filters(filters, count, in_channels, c.taps);
      pack_matrix(kernels, panels, group, paired.get(), paired.get() + count * length, length, first_row,
                  rows);
    } else {
      pack_matrix(kernels, panels, group, filters, weight_end, length, first_row, rows);
    }
  };
  // Each thread packs the filters of the cells that it does, just before it does them: what another thread
  // has packed is slow to reach. Where all do all cells that must not take long for few positions.
  Share share = share_of(c, channels);
  const int64_t packed_bytes = cells * channels * length * sizeof(T);
  if (packed_bytes > (2 << 20) && c.batch * c.area() < 64 * cells) share = Share::kJobs;
  if (share == Share::kPartOfEveryJob || cells >= torch::stable::get_num_threads()) {
    convolve<CellPanels<T>>(kernels, c, groups, share, [&](int64_t cell, int64_t group, CellPanels<T>& own) {
      if (!own.panels) own.panels = std::make_unique<Panels<T>>(groups, length, c.spare / cells);
      if (own.claim(cell, group)) pack(*own.panels, 0, cell, group);
      return std::pair(own.panels->row(group, 0), own.panels->width(group));
    });
  } else {
    const Panels<T> panels(groups, cells * length, c.spare);
    torch::stable::parallel_for(0, cells * groups.groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        pack(panels, i / groups.groups * length, i / groups.groups, i % groups.groups);
    });
    convolve<int>(kernels, c, groups, share, [&](int64_t cell, int64_t group, int) {
      return std::pair(panels.row(group, cell * length), panels.width(group));
    });
  }
}

// With the filters of a contiguous weight [Gh, Gw, channels, summed channels, kh, kw]; every block belongs to
// one cell.
template <typename T>
void convolve_forward(const TapConvolution<T>& c, const T* weight, int64_t cells, int64_t channels,
                      const std::vector<int64_t>& offsets) {
  const auto& kernels = tile_kernels<T>();
  const int64_t length = offsets.size();  // of a filter
  int64_t most = 0;
  for (const AxisBlock& row : c.rows)
    for (const AxisBlock& column : c.columns) most = std::max(most, c.batch * row.count * column.count);
  if (length >= kernels.lanes && most <= kFewPositions)
    return convolve_few(kernels, c, weight, channels, offsets);
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (has_pair_products()) {
      const PairedMap source = pair_up(c.source, {c.batch, c.summed, c.source_height, c.source_width}, 1);
      const TapConvolution<BFloat16Pair> paired{
          c.rows,       c.columns,      c.source_step_y, c.source_step_x,    c.batch,
          c.grid_width, c.kernel_width, c.taps,          (c.summed + 1) / 2, source.map,
          c.result,     c.bias,         c.spare / 2,     c.source_height,    c.source_width};
      return convolve_packed(paired, weight, cells, channels, c.summed);
    }
  }
  convolve_packed(c, weight, cells, channels, c.summed);
}

}  // namespace faceattr
