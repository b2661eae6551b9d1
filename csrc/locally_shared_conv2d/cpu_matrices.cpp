// A cell's outputs are its filters, [channels][filter], which are read as they lie, times what its positions
// read, unfolded: [filter][positions], as pairs. Positions are unfolded two tiles at a time, so that they
// stay in the cache.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "../cpu/buffer.h"
#include "../cpu/tap_convolution.h"
#include "matrices.h"

namespace faceattr {
namespace {

constexpr int64_t kSide = kMatrixSide, kDepth = kMatrixDepth;
constexpr int64_t kBlock = 4 * kSide;  // positions that a thread takes at least

// In all images.
int64_t count_positions(const LocallySharedGeometry& g, const Cell& cell) {
  return g.batch * cell.height() * cell.width();
}

// Up to kSide positions of a cell, image by image and row by row: where each lies in the output, and its
// first tap in the input.
struct Side {
  int64_t count, out[kSide], in[kSide], y[kSide], x[kSide];
  bool inside = true;                      // no tap is in the padding
  int64_t runs = 0, run_begin[kSide + 1];  // positions whose inputs and outputs lie side by side

  template <typename Input, typename Output>
  Side(const LocallySharedGeometry& g, const Cell& cell, int64_t first, const Strided4<Input>& input,
       const Strided4<Output>& output)
      : count(std::clamp<int64_t>(count_positions(g, cell) - first, 0, kSide)) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = first + i, n = at / (cell.height() * cell.width());
      const int64_t row = cell.top + at / cell.width() % cell.height(),
                    column = cell.left + at % cell.width();
      y[i] = row * g.stride_y - g.padding_y, x[i] = column * g.stride_x - g.padding_x;
      out[i] = n * output.n + row * output.h + column * output.w;
      in[i] = n * input.n + y[i] * input.h + x[i] * input.w;
      inside &= y[i] >= 0 && x[i] >= 0 && y[i] + (g.kernel_height - 1) * g.dilation_y < g.in_height &&
                x[i] + (g.kernel_width - 1) * g.dilation_x < g.in_width;
      if (i == 0 || in[i] != in[i - 1] + 1 || out[i] != out[i - 1] + 1) run_begin[runs++] = i;
    }
    run_begin[runs] = count;
  }

  // Whether a tap of position i is in the input, and not in its padding.
  bool reads(const LocallySharedGeometry& g, int64_t i, int64_t tap) const {
    const int64_t row = y[i] + tap / g.kernel_width * g.dilation_y;
    const int64_t column = x[i] + tap % g.kernel_width * g.dilation_x;
    return row >= 0 && row < g.in_height && column >= 0 && column < g.in_width;
  }
};

template <typename Input>
std::vector<int64_t> filter_offsets(const LocallySharedGeometry& g, const Strided4<Input>& input) {
  return filter_offsets(input, g.in_channels, g.kernel_height, g.kernel_width, g.dilation_y, g.dilation_x);
}

// panel[k / 2][i] = what the elements k and k + 1 of filters meet at position i; zeros beyond them and beyond
// the last position. offsets: where a filter's inputs lie from its first one.
void unfold(const LocallySharedGeometry& g, const Side& side, Strided4<const BFloat16> input,
            const std::vector<int64_t>& offsets, int64_t depth, BFloat16Pair* panel) {
  const int64_t length = offsets.size(), pairs = length / 2, taps = g.kernel_height * g.kernel_width;
  const BFloat16 zero(0.f);
  if (side.count < kSide || 2 * pairs < depth)
    std::memset(static_cast<void*>(panel), 0, depth / 2 * kSide * sizeof(BFloat16Pair));
  if (side.inside && side.runs <= kSide / 4) {
    for (int64_t r = 0; r < side.runs; ++r)
      zip_sides(input.data + side.in[side.run_begin[r]], offsets.data(), pairs,
                side.run_begin[r + 1] - side.run_begin[r], panel + side.run_begin[r]);
    for (int64_t i = 0; i < side.count && length % 2; ++i)
      panel[pairs * kSide + i].first = input.data[side.in[i] + offsets[length - 1]];
    return;
  }
  for (int64_t i = 0; i < side.count; ++i) {
    const BFloat16* from = input.data + side.in[i];
    BFloat16Pair* to = panel + i;
    if (side.inside) {
      for (int64_t k = 0; k < pairs; ++k, to += kSide) *to = {from[offsets[2 * k]], from[offsets[2 * k + 1]]};
      if (length % 2) to->first = from[offsets[length - 1]];
      continue;
    }
    const auto element = [&](int64_t k) { return side.reads(g, i, k % taps) ? from[offsets[k]] : zero; };
    for (int64_t k = 0; k < pairs; ++k, to += kSide) *to = {element(2 * k), element(2 * k + 1)};
    if (length % 2) to->first = element(length - 1);
  }
}

// Filters of one cell, two tiles of them at a time: as they lie, but for their ends, which do not fill a
// tile's depth, and for the last ones, which do not fill its rows; these stand in memory of their own, among
// zeros.
class Filters {
 public:
  Filters(int64_t channels, int64_t length)
      : channels_(channels),
        length_(length),
        whole_(length / kDepth * kDepth),
        full_(channels / kSide * kSide),
        ends_(make_buffer<BFloat16>(ceil_div(channels, kSide) * kSide * kDepth)),
        last_(make_buffer<BFloat16>(kSide * whole_)) {}

  void take(const BFloat16* filters) {
    if (filters == filters_) return;
    filters_ = filters;
    const int64_t rows = ceil_div(channels_, kSide) * kSide;
    if (whole_ < length_) std::memset(static_cast<void*>(ends_.get()), 0, rows * kDepth * sizeof(BFloat16));
    for (int64_t o = 0; o < channels_ && whole_ < length_; ++o)
      std::memcpy(static_cast<void*>(ends_.get() + o * kDepth), filters + o * length_ + whole_,
                  (length_ - whole_) * sizeof(BFloat16));
    if (full_ < channels_) std::memset(static_cast<void*>(last_.get()), 0, kSide * whole_ * sizeof(BFloat16));
    for (int64_t o = full_; o < channels_; ++o)
      std::memcpy(static_cast<void*>(last_.get() + (o - full_) * whole_), filters + o * length_,
                  whole_ * sizeof(BFloat16));
  }

  // Of the filters from `first` on times two panels.
  void multiply(int64_t first, const BFloat16Pair* const (&panels)[2], float* sums) const {
    MatrixSegment segments[2] = {
        {{}, {}, {panels[0], panels[1]}, whole_ / kDepth},
        {{}, {kDepth, kDepth}, {panels[0] + whole_ / 2 * kSide, panels[1] + whole_ / 2 * kSide}, 1}};
    for (int i = 0; i < 2; ++i) {
      // Where there is no second tile, the first one again.
      const int64_t o = first + i * kSide < channels_ ? first + i * kSide : first;
      segments[0].rows[i] = o < full_ ? filters_ + o * length_ : last_.get();
      segments[0].row_step[i] = o < full_ ? length_ : whole_;
      segments[1].rows[i] = ends_.get() + o * kDepth;
    }
    matrix_products(segments, whole_ < length_ ? 2 : 1, sums, kMatrixSums);
  }

 private:
  int64_t channels_, length_, whole_, full_;
  Buffer<BFloat16> ends_, last_;
  const BFloat16* filters_ = nullptr;
};

// The sums of `channels` filters at two sides' positions, rounded, to where they belong.
void write(const float* sums, const BFloat16* bias, int64_t channels, const Side (&sides)[2],
           BFloat16* output, int64_t channel_step) {
  alignas(64) BFloat16 rounded[kMatrixSums][kMatrixSums];
  for (int64_t o = 0; o < channels; ++o)
    round_sums(sums + o * kMatrixSums, bias ? static_cast<float>(bias[o]) : 0.f, rounded[o]);
  for (int j = 0; j < 2; ++j) {
    const Side& side = sides[j];
    if (channel_step == 1) {
      for (int64_t i = 0; i < side.count; ++i)
        for (int64_t o = 0; o < channels; ++o) output[side.out[i] + o] = rounded[o][j * kSide + i];
      continue;
    }
    for (int64_t o = 0; o < channels; ++o) {
      BFloat16* to = output + o * channel_step;
      const BFloat16* from = rounded[o] + j * kSide;
      if (side.runs > kSide / 4) {
        for (int64_t i = 0; i < side.count; ++i) to[side.out[i]] = from[i];
        continue;
      }
      for (int64_t r = 0; r < side.runs; ++r)
        std::memcpy(static_cast<void*>(to + side.out[side.run_begin[r]]), from + side.run_begin[r],
                    (side.run_begin[r + 1] - side.run_begin[r]) * sizeof(BFloat16));
    }
  }
}

}  // namespace

bool is_matrices_faster(const LocallySharedGeometry& g) {
  // Few channels do not pay for unfolding what they read.
  return has_matrix_products() && g.out_channels >= 3 * kSide &&
         g.in_channels * g.kernel_height * g.kernel_width >= kDepth && positions_of_cell(g) > kFewPositions;
}

void matrices_forward(const LocallySharedGeometry& g, Strided4<const BFloat16> input, const BFloat16* weight,
                      const BFloat16* bias, Strided4<BFloat16> output) {
  const int64_t cells = g.grid_height * g.grid_width, channels = g.out_channels;
  const std::vector<int64_t> offsets = filter_offsets(g, input);
  std::vector<int64_t> first_block(cells + 1, 0);
  const int64_t length = offsets.size(), depth = ceil_div(length, kDepth) * kDepth;
  for (int64_t cell = 0; cell < cells; ++cell)
    first_block[cell + 1] = first_block[cell] + ceil_div(count_positions(g, Cell(g, cell)), kBlock);
  // Threads take neighbouring blocks, so that a cell's filters stay in the cache; of few blocks parts of the
  // channels.
  const int64_t blocks = first_block[cells], threads = torch::stable::get_num_threads();
  const int64_t parts =
      std::min(ceil_div(channels, kMatrixSums), ceil_div(threads, std::max<int64_t>(blocks, 1)));
  const int64_t grain = 1 + 4'000'000 * parts / (length * channels * kBlock);
  torch::stable::parallel_for(0, blocks * parts, grain, [&](int64_t begin, int64_t end) {
    const MatrixShapes shapes;
    Filters filters(channels, length);
    const auto panels = make_buffer<BFloat16Pair>(kMatrixSums * depth / 2);
    alignas(64) float sums[kMatrixSums * kMatrixSums];
    int64_t cell = 0;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t block = task / parts, part = task % parts, tiles = ceil_div(channels, kMatrixSums);
      while (block >= first_block[cell + 1]) ++cell;
      filters.take(weight + cell * channels * length);
      const Cell place(g, cell);
      const int64_t positions = count_positions(g, place);
      for (int64_t j = 0; j < kBlock; j += kMatrixSums) {
        const int64_t first = (block - first_block[cell]) * kBlock + j;
        if (first >= positions) break;
        const Side sides[2] = {{g, place, first, input, output}, {g, place, first + kSide, input, output}};
        BFloat16Pair* const panel[2] = {panels.get(), panels.get() + kSide * depth / 2};
        for (int i = 0; i < 2; ++i) unfold(g, sides[i], input, offsets, depth, panel[i]);
        for (int64_t tile = part * tiles / parts; tile < (part + 1) * tiles / parts; ++tile) {
          const int64_t o = tile * kMatrixSums;
          filters.multiply(o, {panel[0], panel[1]}, sums);
          write(sums, bias ? bias + cell * channels + o : nullptr, std::min(kMatrixSums, channels - o), sides,
                output.data + o * output.c, output.c);
        }
      }
    }
  });
}

namespace {

// panel[i / 2][k] = what element first + k of filters meets at positions i and i + 1 of the sides.
void unfold_across(const LocallySharedGeometry& g, const std::vector<Side>& sides,
                   Strided4<const BFloat16> input, const std::vector<int64_t>& offsets, int64_t first,
                   BFloat16Pair* panel) {
  const int64_t taps = g.kernel_height * g.kernel_width;
  const int64_t filled = std::clamp<int64_t>(offsets.size() - first, 0, kSide);
  bool side_by_side = filled == kSide;
  for (int64_t k = 1; k < filled; ++k) side_by_side &= offsets[first + k] == offsets[first] + k;
  const BFloat16 zero(0.f);
  for (const Side& side : sides)
    for (int64_t i = 0; i < kSide; i += 2, panel += kSide) {
      if (filled < kSide || i + 1 >= side.count)
        std::memset(static_cast<void*>(panel), 0, kSide * sizeof(*panel));
      if (i >= side.count) continue;
      const int64_t here[2] = {side.in[i], i + 1 < side.count ? side.in[i + 1] : side.in[i]};
      const BFloat16 *from = input.data + here[0], *next = input.data + here[1];
      const bool both = i + 1 < side.count;
      if (both && side.inside && side_by_side) {
        zip_sides(input.data + offsets[first], here, 1, kSide, panel);
      } else if (both && side.inside && next == from + 1) {
        for (int64_t k = 0; k < filled; ++k)
          std::memcpy(static_cast<void*>(panel + k), from + offsets[first + k], sizeof(*panel));
      } else {
        for (int64_t k = 0; k < filled; ++k) {
          const int64_t at = offsets[first + k], tap = (first + k) % taps;
          panel[k] = {side.inside || side.reads(g, i, tap) ? from[at] : zero,
                      both && (side.inside || side.reads(g, i + 1, tap)) ? next[at] : zero};
        }
      }
    }
}

}  // namespace

// A cell's gradient is that of its outputs, [channels][positions], times what its positions read, unfolded:
// [positions][filter], as pairs.
void matrices_weight_grad(const LocallySharedGeometry& g, Strided4<const BFloat16> grad,
                          Strided4<const BFloat16> input, BFloat16* weight_grad, BFloat16* bias_grad) {
  constexpr int64_t most = 512, square = kMatrixSums * kMatrixSums;  // positions at a time
  const int64_t cells = g.grid_height * g.grid_width, channels = g.out_channels;
  const std::vector<int64_t> offsets = filter_offsets(g, input);
  const int64_t length = offsets.size(), columns = ceil_div(length, kMatrixSums),
                rows = ceil_div(channels, kMatrixSums);
  const int64_t parts = std::min(columns, ceil_div(2 * torch::stable::get_num_threads(), cells));
  torch::stable::parallel_for(0, cells * parts, 1, [&](int64_t begin, int64_t end) {
    const MatrixShapes shapes;
    const auto grads = make_buffer<BFloat16>(rows * kMatrixSums * most);
    std::memset(static_cast<void*>(grads.get()), 0, rows * kMatrixSums * most * sizeof(BFloat16));
    const auto panels = make_buffer<BFloat16Pair>(2 * kSide * most / 2);
    const auto all = make_buffer<float>(rows * ceil_div(columns, parts) * square);
    std::vector<Side> sides;
    std::vector<float> bias(channels);
    // Of one cell: a square of sums to where it belongs.
    const auto finish = [&](int64_t cell, int64_t row, int64_t column, const float* sums) {
      const int64_t k = column * kMatrixSums, width = std::min(kMatrixSums, length - k);
      for (int64_t i = 0, o = row * kMatrixSums; i < kMatrixSums && o < channels; ++i, ++o) {
        BFloat16* to = weight_grad + (cell * channels + o) * length + k;
        alignas(64) BFloat16 rounded[kMatrixSums];
        round_sums(sums + i * kMatrixSums, 0.f, width == kMatrixSums ? to : rounded);
        if (width < kMatrixSums) std::memcpy(static_cast<void*>(to), rounded, width * sizeof(BFloat16));
      }
    };
    for (int64_t task = begin; task < end; ++task) {
      const int64_t cell = task / parts, part = task % parts;
      const int64_t from = part * columns / parts, to = (part + 1) * columns / parts;
      const Cell place(g, cell);
      const int64_t positions = count_positions(g, place);
      std::fill(bias.begin(), bias.end(), 0.f);
      for (int64_t first = 0; first < positions; first += most) {
        const int64_t depth = ceil_div(std::min(most, positions - first), kDepth) * kDepth;
        sides.clear();
        for (int64_t i = 0; i < depth; i += kSide) sides.emplace_back(g, place, first + i, input, grad);
        for (int64_t o = 0; o < channels; ++o) {
          const BFloat16* source = grad.data + o * grad.c;
          BFloat16* row = grads.get() + o * most;
          float sum = 0;
          for (const Side& side : sides) {
            for (int64_t i = 0; i < side.count; ++i) row[i] = source[side.out[i]];
            for (int64_t i = side.count; i < kSide; ++i) row[i] = BFloat16(0.f);
            for (int64_t i = 0; i < kSide; ++i) sum += static_cast<float>(row[i]);
            row += kSide;
          }
          bias[o] += sum;
        }
        for (int64_t column = from; column < to; ++column) {
          BFloat16Pair* const panel[2] = {panels.get(), panels.get() + kSide * most / 2};
          for (int i = 0; i < 2; ++i)
            unfold_across(g, sides, input, offsets, column * kMatrixSums + i * kSide, panel[i]);
          for (int64_t row = 0; row < rows; ++row) {
            const BFloat16* top = grads.get() + row * kMatrixSums * most;
            const MatrixSegment segment{
                {top, top + kSide * most}, {most, most}, {panel[0], panel[1]}, depth / kDepth};
            alignas(64) float sums[square];
            matrix_products(&segment, 1, sums, kMatrixSums);
            float* total = all.get() + ((column - from) * rows + row) * square;
            if (first > 0)
              for (int64_t i = 0; i < square; ++i) sums[i] += total[i];
            if (first + most >= positions)
              finish(cell, row, column, sums);
            else
              std::copy(sums, sums + square, total);
          }
        }
      }
      for (int64_t o = 0; o < channels && positions == 0; ++o)
        std::fill_n(weight_grad + (cell * channels + o) * length, length, BFloat16(0.f));
      for (int64_t o = 0; o < channels && part == 0; ++o) bias_grad[cell * channels + o] = BFloat16(bias[o]);
    }
  });
}

// What a cell's positions read has the gradient of its outputs, [positions][channels], times its filters,
// [channels][filter], as pairs; all of it is added up in float32, in images with their channels innermost.
void matrices_input_grad(const LocallySharedGeometry& g, Strided4<const BFloat16> grad,
                         const BFloat16* weight, Strided4<BFloat16> input_grad) {
  const int64_t cells = g.grid_height * g.grid_width, channels = g.out_channels;
  const int64_t taps = g.kernel_height * g.kernel_width, whole = g.in_channels * taps;
  const int64_t depth = ceil_div(channels, kDepth) * kDepth;
  const int64_t area = std::max<int64_t>(1, g.out_height * g.out_width / cells);
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t images = std::clamp<int64_t>(ceil_div(2 * kMatrixSums, area), 1, ceil_div(g.batch, threads));
  const int64_t groups = ceil_div(g.batch, images),
                parts = std::min(g.in_channels, ceil_div(threads, groups));
  // A thread has some images, or of few images some of the input's channels: no two add to the same sum.
  torch::stable::parallel_for(0, groups * parts, 1, [&](int64_t begin, int64_t end) {
    const MatrixShapes shapes;
    const int64_t most = ceil_div(g.in_channels, parts),
                  panels_of_most = ceil_div(most * taps, kMatrixSums) * 2;
    const auto total = make_buffer<float>(images * g.in_height * g.in_width * most);
    const auto filters = make_buffer<BFloat16Pair>(panels_of_most * kSide * depth / 2);
    const auto grads = make_buffer<BFloat16>(kMatrixSums * depth);
    const auto products = make_buffer<float>(kMatrixSums * panels_of_most * kSide);
    std::memset(static_cast<void*>(grads.get()), 0, kMatrixSums * depth * sizeof(BFloat16));
    std::vector<int64_t> rows(channels);
    for (int64_t o = 0; o < channels; ++o) rows[o] = o * whole;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / parts, first_channel = task % parts * g.in_channels / parts;
      LocallySharedGeometry part = g;
      part.batch = std::min(images, g.batch - group * images);
      part.in_channels = (task % parts + 1) * g.in_channels / parts - first_channel;
      const int64_t length = part.in_channels * taps, panels = ceil_div(length, kMatrixSums) * 2;
      const int64_t size = g.in_height * g.in_width * part.in_channels;
      const Strided4<float> sums_of{total.get(), size, 1, g.in_width * part.in_channels, part.in_channels};
      const std::vector<int64_t> offsets = filter_offsets(part, sums_of);
      std::memset(static_cast<void*>(filters.get()), 0, panels * kSide * depth / 2 * sizeof(BFloat16Pair));
      const Strided4<const BFloat16> source{grad.data + group * images * grad.n, grad.n, grad.c, grad.h,
                                            grad.w};
      std::fill(total.get(), total.get() + part.batch * size, 0.f);
      for (int64_t cell = 0; cell < cells; ++cell) {
        const Cell place(part, cell);
        const int64_t positions = count_positions(part, place);
        if (positions == 0) continue;
        const BFloat16* of_cell = weight + cell * channels * whole + first_channel * taps;
        for (int64_t j = 0; j < panels; ++j) {
          const int64_t k = j * kSide, filled = std::clamp<int64_t>(length - k, 0, kSide);
          BFloat16Pair* panel = filters.get() + k * depth / 2;
          const int64_t pairs = filled == kSide ? channels / 2 : 0;
          zip_sides(of_cell + k, rows.data(), pairs, kSide, panel);
          for (int64_t o = 2 * pairs; o < channels; o += 2)
            for (int64_t i = 0; i < filled; ++i)
              panel[o / 2 * kSide + i] = {of_cell[rows[o] + k + i],
                                          o + 1 < channels ? of_cell[rows[o + 1] + k + i] : BFloat16(0.f)};
        }
        for (int64_t first = 0; first < positions; first += kMatrixSums) {
          const Side sides[2] = {{part, place, first, sums_of, source},
                                 {part, place, first + kSide, sums_of, source}};
          for (int64_t i = 0; i < kMatrixSums; ++i) {
            const Side& side = sides[i / kSide];
            if (i % kSide >= side.count) continue;  // what its row holds is not used
            const BFloat16* from = source.data + side.out[i % kSide];
            BFloat16* to = grads.get() + i * depth;
            for (int64_t o = 0; o < channels; ++o) to[o] = from[o * source.c];
          }
          for (int64_t j = 0; j < panels; j += 2) {
            const BFloat16Pair* panel = filters.get() + j * kSide * depth / 2;
            const MatrixSegment segment{{grads.get(), grads.get() + kSide * depth},
                                        {depth, depth},
                                        {panel, panel + kSide * depth / 2},
                                        depth / kDepth};
            matrix_products(&segment, 1, products.get() + j * kSide, panels * kSide);
          }
          // Position by position, so that the order of a sum does not depend on the threads' parts.
          for (int64_t i = 0; i < kMatrixSums; ++i) {
            const Side& side = sides[i / kSide];
            if (i % kSide >= side.count) continue;
            float* to = total.get() + side.in[i % kSide];
            const float* from = products.get() + i * panels * kSide;
            if (taps == 1 && side.inside) {
              for (int64_t k = 0; k < length; ++k) to[k] += from[k];
            } else if (side.inside) {
              for (int64_t k = 0; k < length; ++k) to[offsets[k]] += from[k];
            } else {
              for (int64_t k = 0; k < length; ++k)
                if (side.reads(g, i % kSide, k % taps)) to[offsets[k]] += from[k];
            }
          }
        }
      }
      for (int64_t n = 0; n < part.batch; ++n)
        for (int64_t c = 0; c < part.in_channels; ++c)
          for (int64_t y = 0; y < g.in_height; ++y)
            for (int64_t x = 0; x < g.in_width; ++x)
              input_grad(group * images + n, first_channel + c, y, x) = BFloat16(sums_of(n, c, y, x));
    }
  });
}

}  // namespace faceattr
