// Convolutions whose filters change from place to place, as matrix products.
//
// Both directions have one shape. The result's positions are cut, on each axis, into runs inside which every
// tap of the filter belongs to one cell; a block computes positions of one run by columns, summing over taps
// and channels:
//   forward          rows: positions (n, y, x) of a cell        columns: out channels  depth: (u, v, in
//   channel) input gradient   rows: positions with the same cells        columns: in channels   depth: (u, v,
//   out channel)
// The input gradient thus gathers: no position is written twice, and no product with zero is taken. The run
// is the outermost part of the block's index, each with its own weights; halos are read in place.
#pragma once

#include "tile.cuh"

namespace faceattr::gpu {

constexpr int kMostRuns = 64;  // on one axis in one launch; they travel as kernel arguments

enum class Direction { kForward, kInputGrad };

// One axis of a convolution. All numbers fit 31 bits (checked by the caller), products of two of them may
// not.
struct Axis {
  int source_size;  // positions of what is read
  int stride, dilation, padding, kernel;
  int shift;  // how much farther the next cell looks (interweaved), else 0
  int cells;
  bool every_cell;  // input gradient: every cell looks at every position (interweaved)
  // Runs of result positions start[i], start[i] + step, ... ; cell[i] is theirs (forward).
  int run_count, step;
  int start[kMostRuns], length[kMostRuns], cell[kMostRuns];
};

// Taps of one axis as a run sees them.
template <Direction direction>
struct AxisTaps {
  const Axis& axis;
  int run;

  __device__ int count() const {
    return direction == Direction::kInputGrad && axis.every_cell ? axis.cells * axis.kernel : axis.kernel;
  }

  // Source position that tap t reads for the run's first position; its k-th reads k * step farther.
  __device__ int origin(int t) const {
    if constexpr (direction == Direction::kForward)
      return axis.start[run] * axis.stride + t * axis.dilation - axis.padding + axis.cell[run] * axis.shift;
    return numerator(t) / axis.stride;
  }

  __device__ int step() const { return direction == Direction::kForward ? axis.stride : 1; }

  // Whether any position of the run reads anything at tap t.
  __device__ bool reads(int t) const {
    if constexpr (direction == Direction::kForward) return true;
    const int first = numerator(t);
    return first % axis.stride == 0 && first / axis.stride < axis.source_size &&
           first / axis.stride + axis.length[run] > 0;
  }

  __device__ int cell(int t) const {
    if constexpr (direction == Direction::kForward) return axis.cell[run];
    if (axis.every_cell) return t / axis.kernel;
    int64_t cell = static_cast<int64_t>(min(max(origin(t), 0), axis.source_size - 1)) * axis.cells;
    take(cell, axis.source_size);
    return static_cast<int>(cell);
  }

  __device__ int kernel_index(int t) const {
    return direction == Direction::kInputGrad && axis.every_cell ? t % axis.kernel : t;
  }

 private:
  __device__ int numerator(int t) const {
    const int shift = axis.every_cell ? t / axis.kernel * axis.shift : 0;
    return axis.start[run] + axis.padding - shift - kernel_index(t) * axis.dilation;
  }
};

// A tap that reads something, as settled for a run.
struct Tap {
  int origin, cell, kernel_index;
};

// Lists the taps of a run that read something, in order; a warp's work. Returns their number.
template <Direction direction>
__device__ int list_taps(const AxisTaps<direction>& taps, Tap* list) {
  const int lane = threadIdx.x % 32, candidates = taps.count();
  int count = 0;
  for (int first = 0; first < candidates; first += 32) {
    const int t = first + lane;
    const bool reads = t < candidates && taps.reads(t);
    const unsigned reading = __ballot_sync(0xffffffffu, reads);
    if (reads)
      list[count + __popc(reading & ((1u << lane) - 1))] = {taps.origin(t), taps.cell(t),
                                                            taps.kernel_index(t)};
    count += __popc(reading);
  }
  return count;
}

// The taps of both axes, in shared memory behind the stages.
struct TapLists {
  Tap *y, *x;
  int* counts;  // of y, of x

  __device__ TapLists(unsigned char* memory, int most_y, int most_x)
      : y(reinterpret_cast<Tap*>(memory)), x(y + most_y), counts(reinterpret_cast<int*>(x + most_x)) {}

  static int64_t bytes(int64_t most) { return most * sizeof(Tap) + 2 * sizeof(int); }
};

// Strides count elements. A source has its channels side by side, padded with zeros to whole vectors; p and q
// are the cell, where each cell has a map of its own.
template <typename T>
struct Contraction {
  const T* source;
  int64_t source_n, source_p, source_q;
  int source_y, source_x;
  const T* weight;  // [cells, kernel taps, columns, depth]
  const T* bias;    // [cells, columns] or null
  void* result;     // T, or accumulate_t<T> where `result_is_sum`
  bool result_is_sum;
  int64_t result_n, result_c, result_p, result_q, result_y, result_x;
  int batch, columns, depth;
  Axis y, x;
  int64_t row_tiles, column_tiles;
};

// Brings the tiles of a contraction: each thread copies one vector of some lines, always the same place of
// the line. What changes with the tap alone is settled once a tap: the copies between cost a few
// instructions.
template <typename Tile, Direction direction>
struct ContractionLoader {
  using T = typename Tile::Element;
  static constexpr int kVector = Tile::kVector, kVectors = Tile::kDepth / kVector;
  static constexpr int kLines = Tile::kThreads / kVectors;  // lines that the block copies at once
  static constexpr int kRowCopies = Tile::kRows / kLines, kColumnCopies = Tile::kColumns / kLines;
  static constexpr int kLineBytes = Tile::template line_bytes<Layout::kDepthInner>(0);
  static constexpr int kNowhere = -(1 << 30);  // far outside any source, also after adding an origin

  const Contraction<T>& problem;
  const Tap *list_y, *list_x;
  int count_y, count_x;
  int row_y[kRowCopies], row_x[kRowCopies];  // source position of the row, less the tap's origin
  int64_t row_bytes[kRowCopies];             // from the tap's origin in the first image to the row's source
  int64_t first_weight;                      // offset of this thread's first column in a tap's weights
  unsigned columns_inside;                   // bit i: whether this thread's column i exists
  int tap_y, tap_x, channel;                 // where this thread's next vector lies in the depth
  // Address of that vector for the first row and for this thread's first column; bit i: whether row or column
  // i reads it.
  uintptr_t source_at, weight_at;
  unsigned rows_read, columns_read;

  __device__ ContractionLoader(const Contraction<T>& problem, const TapLists& lists, int run_y, int run_x,
                               int64_t first_row, int first_column)
      : problem(problem),
        list_y(lists.y),
        list_x(lists.x),
        count_y(lists.counts[1] > 0 ? lists.counts[0] : 0),
        count_x(lists.counts[1]),
        columns_inside(0),
        source_at(reinterpret_cast<uintptr_t>(problem.source)),
        weight_at(reinterpret_cast<uintptr_t>(problem.weight)) {
    const int height = problem.y.length[run_y], width = problem.x.length[run_x];
    const int step_y = AxisTaps<direction>{problem.y, run_y}.step(),
              step_x = AxisTaps<direction>{problem.x, run_x}.step();
    const int64_t rows = static_cast<int64_t>(problem.batch) * height * width;
#pragma unroll
    for (int i = 0; i < kRowCopies; ++i) {
      int64_t row = first_row + line() + i * kLines;
      const bool inside = row < rows;
      row_x[i] = static_cast<int>(take(row, width)) * step_x;
      row_y[i] = static_cast<int>(take(row, height)) * step_y;
      row_bytes[i] = (row * problem.source_n + static_cast<int64_t>(row_y[i]) * problem.source_y +
                      static_cast<int64_t>(row_x[i]) * problem.source_x) *
                     static_cast<int64_t>(sizeof(T));
      if (!inside) row_y[i] = kNowhere;
    }
#pragma unroll
    for (int i = 0; i < kColumnCopies; ++i)
      if (first_column + line() + i * kLines < problem.columns) columns_inside |= 1u << i;
    first_weight = static_cast<int64_t>(first_column + line()) * problem.depth;
    tap_y = tap_x = 0;
    channel = threadIdx.x % kVectors * kVector;
    settle();
  }

  __device__ static int line() { return threadIdx.x / kVectors; }

  __device__ int64_t stages() const {
    const int64_t depth = static_cast<int64_t>(count_y) * count_x * problem.depth;
    return (depth + Tile::kDepth - 1) / Tile::kDepth;
  }

  // Moves on to the tap that `channel` lies in, and settles what depends on the tap alone.
  __device__ void settle() {
    while (channel >= problem.depth && tap_y < count_y) {
      channel -= problem.depth;
      if (++tap_x == count_x) {
        tap_x = 0;
        ++tap_y;
      }
    }
    rows_read = columns_read = 0;
    if (tap_y >= count_y) return;
    const Tap y = list_y[tap_y], x = list_x[tap_x];
#pragma unroll
    for (int i = 0; i < kRowCopies; ++i)
      if (static_cast<unsigned>(row_y[i] + y.origin) < static_cast<unsigned>(problem.y.source_size) &&
          static_cast<unsigned>(row_x[i] + x.origin) < static_cast<unsigned>(problem.x.source_size))
        rows_read |= 1u << i;
    columns_read = columns_inside;
    const int64_t source = y.cell * problem.source_p + x.cell * problem.source_q +
                           static_cast<int64_t>(y.origin) * problem.source_y +
                           static_cast<int64_t>(x.origin) * problem.source_x + channel;
    const int64_t cell = static_cast<int64_t>(y.cell) * problem.x.cells + x.cell;
    const int64_t tap = (cell * problem.y.kernel + y.kernel_index) * problem.x.kernel + x.kernel_index;
    const int64_t weight = tap * problem.columns * problem.depth + first_weight + channel;
    source_at = reinterpret_cast<uintptr_t>(problem.source) + source * sizeof(T);
    weight_at = reinterpret_cast<uintptr_t>(problem.weight) + weight * sizeof(T);
  }

  __device__ void load(unsigned char* rows, unsigned char* columns) {
    const int at = line() * kLineBytes + threadIdx.x % kVectors * 16;
#pragma unroll
    for (int i = 0; i < kRowCopies; ++i)
      copy_async_16(rows + at + i * kLines * kLineBytes,
                    reinterpret_cast<const void*>(source_at + row_bytes[i]), rows_read >> i & 1);
    const int64_t apart = static_cast<int64_t>(problem.depth) * (kLines * sizeof(T));
#pragma unroll
    for (int i = 0; i < kColumnCopies; ++i)
      copy_async_16(columns + at + i * kLines * kLineBytes,
                    reinterpret_cast<const void*>(weight_at + i * apart), columns_read >> i & 1);
    channel += Tile::kDepth;
    source_at += Tile::kDepth * sizeof(T);
    weight_at += Tile::kDepth * sizeof(T);
    if (channel >= problem.depth) settle();
  }

  __device__ void used(const unsigned char*) {}
};

template <typename Tile, Direction direction>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResident)
    contract(const __grid_constant__ Contraction<typename Tile::Element> problem, int64_t first_block) {
  using T = typename Tile::Element;
  using Warp = typename WarpOf<Tile, Layout::kDepthInner>::type;
  static_assert(Tile::kThreads >= 64, "two warps list the taps");
  int64_t block = first_block + blockIdx.x;
  const int first_column = static_cast<int>(take(block, problem.column_tiles)) * Tile::kColumns;
  const int64_t first_row = take(block, problem.row_tiles) * Tile::kRows;
  const int run_x = static_cast<int>(take(block, problem.x.run_count)), run_y = static_cast<int>(block);
  const int height = problem.y.length[run_y], width = problem.x.length[run_x];
  const int64_t rows = static_cast<int64_t>(problem.batch) * height * width;
  if (first_row >= rows) return;  // runs differ in length

  const AxisTaps<direction> taps_y{problem.y, run_y}, taps_x{problem.x, run_x};
  TapLists lists(shared_memory() + Tile::template shared_bytes<Layout::kDepthInner>(), taps_y.count(),
                 taps_x.count());
  if (threadIdx.x < 64) {
    const int count = threadIdx.x < 32 ? list_taps(taps_y, lists.y) : list_taps(taps_x, lists.x);
    if (threadIdx.x % 32 == 0) lists.counts[threadIdx.x / 32] = count;
  }
  __syncthreads();
  Warp warp;
  {
    ContractionLoader<Tile, direction> loader(problem, lists, run_y, run_x, first_row, first_column);
    multiply_tiles<Tile, Layout::kDepthInner>(loader, loader.stages(), warp);
  }

  // Each row's place in the result, -1 past the end.
  auto* offsets = reinterpret_cast<int64_t*>(shared_memory());
  for (int i = threadIdx.x; i < Tile::kRows; i += Tile::kThreads) {
    int64_t row = first_row + i;
    const bool inside = row < rows;
    const int64_t x = problem.x.start[run_x] + take(row, width) * problem.x.step;
    const int64_t y = problem.y.start[run_y] + take(row, height) * problem.y.step;
    offsets[i] = inside ? row * problem.result_n + y * problem.result_y + x * problem.result_x : -1;
  }
  __syncthreads();
  const int p = problem.y.cell[run_y], q = problem.x.cell[run_x];
  const int64_t cell_offset = p * problem.result_p + q * problem.result_q;
  const T* bias = problem.bias
                      ? problem.bias + (static_cast<int64_t>(p) * problem.x.cells + q) * problem.columns
                      : nullptr;
  const int warp_row = threadIdx.x / 32 / Tile::kWarpsAcross * Warp::kRows;
  const int lane_column =
      first_column + threadIdx.x / 32 % Tile::kWarpsAcross * Warp::kColumns + Warp::first_column();
  const int columns = problem.columns - lane_column;
  using Sum = typename Warp::Sum;
  if (bias)
    warp.add_to_columns([&](int column) {
      return column < columns ? static_cast<Sum>(widen(bias[lane_column + column])) : Sum(0);
    });
  auto write = [&](auto* result, auto round) {
    warp.for_each_row([&](int row, const auto& for_each) {
      const int64_t offset = offsets[warp_row + row];
      if (offset < 0) return;
      auto* to = result + offset + cell_offset + lane_column * problem.result_c;
      int at = 0;
      for_each([&](int column, Sum sum) {
        to += (column - at) * problem.result_c;
        at = column;
        if (column < columns) *to = round(sum);
      });
    });
  };
  if (problem.result_is_sum)
    write(static_cast<Sum*>(problem.result), [](Sum sum) { return sum; });
  else
    write(static_cast<T*>(problem.result), [](Sum sum) { return narrow<T>(sum); });
}

// Weight and bias gradient: rows are out channels, columns in channels of one tap, the depth the positions of
// a cell. The depth is split among `splits` blocks; reduce_parts adds their sums in a fixed order.
template <typename T>
struct WeightContraction {
  const T* grad;  // channels side by side, padded to whole vectors, as `input`'s
  int64_t grad_n, grad_p, grad_q;
  int grad_y, grad_x;
  const T* input;
  int64_t input_n;
  int input_y, input_x;
  accumulate_t<T>* weight_parts;  // [splits, cells, kernel taps, out channels, in channels]
  accumulate_t<T>* bias_parts;    // [splits, cells, out channels]
  int batch, out_channels, in_channels, out_padded, in_padded;
  Axis y, x;  // forward: the runs are cells
  int splits, row_tiles, column_tiles;
};

template <typename Tile>
struct WeightLoader {
  using T = typename Tile::Element;
  using Sum = accumulate_t<T>;
  static_assert(Tile::kRows == Tile::kColumns, "rows and columns are copied alike");
  static constexpr int kVector = Tile::kVector, kVectors = Tile::kRows / kVector;
  static constexpr int kLines = Tile::kThreads / kVectors, kCopies = Tile::kDepth / kLines;
  static constexpr int kLineBytes = Tile::template line_bytes<Layout::kDepthOuter>(Tile::kRows);

  const WeightContraction<T>& problem;
  int height, width, start_y, start_x, origin_y, origin_x;
  int64_t grad_cell;
  int n[kCopies], i[kCopies], j[kCopies];  // position of each of this thread's lines
  int step_n, step_i, step_j;              // kDepth positions
  int row_channel, column_channel;
  bool sums_bias;
  Sum bias_sum = 0;

  __device__ WeightLoader(const WeightContraction<T>& problem, int run_y, int run_x, int tap, int first_row,
                          int first_column, int64_t first_stage)
      : problem(problem),
        height(problem.y.length[run_y]),
        width(problem.x.length[run_x]),
        start_y(problem.y.start[run_y]),
        start_x(problem.x.start[run_x]) {
    const AxisTaps<Direction::kForward> taps_y{problem.y, run_y}, taps_x{problem.x, run_x};
    origin_y = taps_y.origin(tap / problem.x.kernel);
    origin_x = taps_x.origin(tap % problem.x.kernel);
    grad_cell = problem.y.cell[run_y] * problem.grad_p + problem.x.cell[run_x] * problem.grad_q;
#pragma unroll
    for (int k = 0; k < kCopies; ++k) {
      int64_t position = first_stage * Tile::kDepth + threadIdx.x / kVectors + k * kLines;
      j[k] = static_cast<int>(take(position, width));
      i[k] = static_cast<int>(take(position, height));
      n[k] = static_cast<int>(position);
    }
    step_j = Tile::kDepth % width;
    step_i = Tile::kDepth / width % height;
    step_n = Tile::kDepth / width / height;
    row_channel = first_row + threadIdx.x % kVectors * kVector;
    column_channel = first_column + threadIdx.x % kVectors * kVector;
    sums_bias = tap == 0 && first_column == 0;
  }

  __device__ void load(unsigned char* rows, unsigned char* columns) {
    const int at = threadIdx.x / kVectors * kLineBytes + threadIdx.x % kVectors * 16;
#pragma unroll
    for (int k = 0; k < kCopies; ++k) {
      const bool live = n[k] < problem.batch;
      const bool row_valid = live && row_channel < problem.out_padded;
      const int64_t row = n[k] * problem.grad_n + grad_cell +
                          static_cast<int64_t>(start_y + i[k]) * problem.grad_y +
                          static_cast<int64_t>(start_x + j[k]) * problem.grad_x + row_channel;
      copy_async_16(rows + at + k * kLines * kLineBytes, problem.grad + (row_valid ? row : 0), row_valid);
      const int y = i[k] * problem.y.stride + origin_y, x = j[k] * problem.x.stride + origin_x;
      const bool column_valid = live && column_channel < problem.in_padded &&
                                static_cast<unsigned>(y) < static_cast<unsigned>(problem.y.source_size) &&
                                static_cast<unsigned>(x) < static_cast<unsigned>(problem.x.source_size);
      const int64_t column = n[k] * problem.input_n + static_cast<int64_t>(y) * problem.input_y +
                             static_cast<int64_t>(x) * problem.input_x + column_channel;
      copy_async_16(columns + at + k * kLines * kLineBytes, problem.input + (column_valid ? column : 0),
                    column_valid);
      n[k] += step_n;
      i[k] += step_i;
      j[k] += step_j;
      if (j[k] >= width) {
        j[k] -= width;
        ++i[k];
      }
      if (i[k] >= height) {
        i[k] -= height;
        ++n[k];
      }
    }
  }

  // The bias gradient is the sum of the gradients that pass by.
  __device__ void used(const unsigned char* rows) {
    if (!sums_bias || threadIdx.x >= Tile::kRows) return;
#pragma unroll
    for (int k = 0; k < Tile::kDepth; ++k)
      bias_sum += widen(*reinterpret_cast<const T*>(rows + k * kLineBytes + threadIdx.x * sizeof(T)));
  }
};

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResident)
    contract_weight(const __grid_constant__ WeightContraction<typename Tile::Element> problem,
                    int64_t first_block) {
  using Warp = typename WarpOf<Tile, Layout::kDepthOuter>::type;
  int64_t block = first_block + blockIdx.x;
  const int first_column = static_cast<int>(take(block, problem.column_tiles)) * Tile::kColumns;
  const int first_row = static_cast<int>(take(block, problem.row_tiles)) * Tile::kRows;
  const int taps = problem.y.kernel * problem.x.kernel, tap = static_cast<int>(take(block, taps));
  const int split = static_cast<int>(take(block, problem.splits));
  const int run_x = static_cast<int>(take(block, problem.x.run_count)), run_y = static_cast<int>(block);

  const int64_t positions =
      static_cast<int64_t>(problem.batch) * problem.y.length[run_y] * problem.x.length[run_x];
  const int64_t all_stages = (positions + Tile::kDepth - 1) / Tile::kDepth;
  int64_t share = all_stages + problem.splits - 1;
  take(share, problem.splits);
  const int64_t first_stage = min(split * share, all_stages),
                end_stage = min(first_stage + share, all_stages);
  Warp warp;
  WeightLoader<Tile> loader(problem, run_y, run_x, tap, first_row, first_column, first_stage);
  multiply_tiles<Tile, Layout::kDepthOuter>(loader, end_stage - first_stage, warp);

  const int64_t cells = static_cast<int64_t>(problem.y.cells) * problem.x.cells;
  const int64_t part =
      split * cells + static_cast<int64_t>(problem.y.cell[run_y]) * problem.x.cells + problem.x.cell[run_x];
  if (loader.sums_bias && threadIdx.x < Tile::kRows &&
      first_row + static_cast<int>(threadIdx.x) < problem.out_channels)
    problem.bias_parts[part * problem.out_channels + first_row + threadIdx.x] = loader.bias_sum;
  const int warp_row = first_row + threadIdx.x / 32 / Tile::kWarpsAcross * Warp::kRows;
  const int lane_column =
      first_column + threadIdx.x / 32 % Tile::kWarpsAcross * Warp::kColumns + Warp::first_column();
  warp.for_each_row([&](int row, const auto& for_each) {
    row += warp_row;
    if (row >= problem.out_channels) return;
    auto* line = problem.weight_parts +
                 ((part * taps + tap) * problem.out_channels + row) * problem.in_channels + lane_column;
    for_each([&](int column, typename Warp::Sum sum) {
      if (lane_column + column < problem.in_channels) line[column] = sum;
    });
  });
}

// Adds the splits in order and writes the gradients as the parameters lie: weight [cells, O, C, taps], bias
// [cells, O].
template <typename T>
__global__ void __launch_bounds__(256, 4)
    reduce_parts(const accumulate_t<T>* weight_parts, const accumulate_t<T>* bias_parts, int splits,
                 int64_t cells, int taps, int out_channels, int in_channels, T* weight, T* bias,
                 int64_t first_block) {
  const int64_t weights = cells * taps * out_channels * in_channels, biases = cells * out_channels;
  const int64_t i = (first_block + blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < weights) {
    accumulate_t<T> sum = 0;
    for (int s = 0; s < splits; ++s) sum += weight_parts[s * weights + i];
    int64_t cell = i;
    const int64_t c = take(cell, in_channels), o = take(cell, out_channels), tap = take(cell, taps);
    weight[((cell * out_channels + o) * in_channels + c) * taps + tap] = narrow<T>(sum);
  } else if (i - weights < biases) {
    accumulate_t<T> sum = 0;
    for (int s = 0; s < splits; ++s) sum += bias_parts[s * biases + i - weights];
    bias[i - weights] = narrow<T>(sum);
  }
}

// result[b, line, row] = source[b, row, line], rows padded with zeros to `padded`: channels side by side. A
// line is (outer, inner); `inner_first` numbers the result's lines inner * outers + outer.
template <typename T>
struct Packing {
  const T* source;
  int64_t source_batch, source_row, source_outer, source_inner;
  int64_t batch, outers, inners;
  int rows, padded;
  bool inner_first;
  T* result;

  __host__ __device__ int64_t line_tiles() const { return (outers * inners + 31) / 32; }
  __host__ __device__ int row_tiles() const { return (padded + 31) / 32; }
  __host__ __device__ int64_t blocks() const { return batch * line_tiles() * row_tiles(); }
};

// Two packings in one launch: they come before nearly every product, and a launch costs as much as a small
// one.
template <typename T>
__global__ void __launch_bounds__(256, 6)
    pack(const __grid_constant__ Packing<T> first, const __grid_constant__ Packing<T> second,
         int64_t first_block) {
  T(*tile)[33] = reinterpret_cast<T(*)[33]>(shared_memory());
  int64_t block = first_block + blockIdx.x;
  const bool is_first = block < first.blocks();
  if (!is_first) block -= first.blocks();
  const Packing<T>& p = is_first ? first : second;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int64_t lines = p.outers * p.inners;
  const int64_t first_line = take(block, p.line_tiles()) * 32;
  const int first_row = static_cast<int>(take(block, p.row_tiles())) * 32;
  const int64_t b = block, line = first_line + lane;
  int64_t outer = line;
  const int64_t inner = take(outer, p.inners);
  const int64_t from = b * p.source_batch + outer * p.source_outer + inner * p.source_inner;
  for (int r = warp; r < 32; r += warps)
    tile[r][lane] =
        line < lines && first_row + r < p.rows ? p.source[from + (first_row + r) * p.source_row] : T{};
  __syncthreads();
  if (first_row + lane >= p.padded) return;
  for (int l = warp; l < 32 && first_line + l < lines; l += warps) {
    int64_t to = first_line + l;
    if (p.inner_first) {
      const int64_t inner_of_line = take(to, p.inners);
      to += inner_of_line * p.outers;
    }
    p.result[(b * lines + to) * p.padded + first_row + lane] = tile[lane][l];
  }
}

}  // namespace faceattr::gpu
