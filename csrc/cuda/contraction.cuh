// Convolutions whose filters change from place to place, as matrix products.
//
// Both directions have one shape. The result's positions are cut, on each axis, into runs inside which every
// tap of the filter belongs to one cell; a block computes positions of one run by columns, summing over taps
// and channels:
//   forward          rows: positions (n, y, x) of a cell        columns: out channels  depth: (u, v, in
//   channel) input gradient   rows: positions with the same cells        columns: in channels   depth: (u, v,
//   out channel)
// The input gradient thus gathers: no position is written twice, and no product with zero is taken. The run
// is the outermost part of the block's index, each with its own weights; halos are read in place, once for
// all taps where shared memory can hold them (Window).
#pragma once

#include "pipeline.cuh"

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

// A tap of one axis that reads something, as settled for a run. `weight`: what it adds to the offset of the
// tap's weights.
struct alignas(16) Tap {
  int64_t weight;
  int origin, cell;
};

// Lists the taps of a run that read something, in order; a warp's work. Weights of the next cell are
// `next_cell` farther, of the next tap `next_tap`. Returns the number of taps.
template <Direction direction>
__device__ int list_taps(const AxisTaps<direction>& taps, int64_t next_cell, int64_t next_tap, Tap* list) {
  const int lane = threadIdx.x % 32, candidates = taps.count();
  int count = 0;
  for (int first = 0; first < candidates; first += 32) {
    const int t = first + lane;
    const bool reads = t < candidates && taps.reads(t);
    const unsigned reading = __ballot_sync(0xffffffffu, reads);
    if (reads)
      list[count + __popc(reading & ((1u << lane) - 1))] = {
          taps.cell(t) * next_cell + taps.kernel_index(t) * next_tap, taps.origin(t), taps.cell(t)};
    count += __popc(reading);
  }
  return count;
}

// What a block reads of its source, for kDepth channels: the positions that its rows meet at a group of taps,
// each once, a line each. At another tap of the group all rows lie equally many lines farther. A group is all
// taps that read something or, on an axis where a window for all would be too large, one.
struct Windows {
  uint64_t all_y[kMostRuns], all_x[kMostRuns];  // bit j of i: whether those of run (i, j) serve all taps
  int taps;                                     // most of a group
  int most_lines;                               // of one window
  int memory;      // lines that shared memory holds: of two windows, or of three of a single tap
  int64_t copied;  // lines that are copied for all taps, in the largest runs
};

// One axis of a window.
struct WindowAxis {
  bool all = false;  // whether all taps are together
  int origin = 0;    // source position of the first line then; else that is the tap's
  int unit = 1;      // source positions from line to line
  int step = 1;      // lines from one of the run's positions to the next
  int span = 0;      // lines from a position's first tap to its last
  int size = 1;      // lines of the whole run

  template <Direction direction>
  __device__ void settle(const AxisTaps<direction>& taps, const Tap* list, int count, bool all_taps) {
    const int first = list[0].origin, last = list[count - 1].origin;
    all = all_taps;
    origin = min(first, last);
    span = all ? max(first, last) - origin : 0;
    unit = all ? 1 : taps.step();
    step = all ? taps.step() : 1;
    size = (taps.axis.length[taps.run] - 1) * step + span + 1;
  }
};

// The taps of both axes, and both axes of the windows, in shared memory: they are needed at times, and by
// all.
struct TapLists {
  Tap *y, *x;
  int* counts;       // of y, of x
  WindowAxis* axes;  // y, x

  __device__ TapLists(unsigned char* memory, int most_y, int most_x)
      : y(reinterpret_cast<Tap*>(memory)),
        x(y + most_y),
        counts(reinterpret_cast<int*>(x + most_x)),
        axes(reinterpret_cast<WindowAxis*>(counts + 2)) {}

  static int64_t bytes(int64_t most) { return most * sizeof(Tap) + 2 * sizeof(int) + 2 * sizeof(WindowAxis); }
};

// Where a row's first line lies, counted from the first image's; its place in the result, -1 past the end.
struct Row {
  int64_t line, result;
};

// A tap of a group: what it adds to the address of the weights, and to that of the rows' lines.
struct alignas(16) GroupTap {
  int64_t weight;
  int rows;
};

// Strides count elements. A source has its channels side by side, padded with zeros to whole vectors; p and q
// are the cell, where each cell has a map of its own.
template <typename T>
struct Contraction {
  const T* source;
  int64_t source_n, source_p, source_q;
  int source_y, source_x;
  const T* weight;     // [cells, kernel taps, columns, depth]
  bool rounds_weight;  // to TF32; else it is rounded where it is to be
  const T* bias;       // [cells, columns] or null
  void* result;        // T, or accumulate_t<T> where `result_is_sum`
  bool result_is_sum;
  int64_t result_n, result_c, result_p, result_q, result_y, result_x;
  int batch, columns, depth;
  Axis y, x;
  int64_t row_tiles, column_tiles;
  Windows windows;
};

// Where a contraction keeps what in shared memory, in bytes: the columns of the stages; the windows, and
// where the lines lie of the one that is being copied; for each warp the taps of the group that is multiplied
// and of the one that is being copied; the rows; the lists of taps.
template <typename Tile>
struct ContractionMemory {
  static constexpr int kLineBytes = Tile::template line_bytes<Layout::kDepthInner>(0);
  static constexpr int kWindows = Tile::kStages * Tile::kColumns * kLineBytes;

  __host__ __device__ static int sources(const Windows& windows) {
    return kWindows + windows.memory * kLineBytes;
  }
  __host__ __device__ static int groups(const Windows& windows) {
    return sources(windows) + (windows.most_lines + 1) / 2 * 16;
  }
  __host__ __device__ static int rows(const Windows& windows) {
    return groups(windows) + Tile::kThreads / 32 * 2 * windows.taps * static_cast<int>(sizeof(GroupTap));
  }
  __host__ __device__ static int taps(const Windows& windows) {
    return rows(windows) + Tile::kRows * static_cast<int>(sizeof(Row));
  }
  static int64_t bytes(const Windows& windows, int64_t taps_of_both_axes) {
    return taps(windows) + TapLists::bytes(taps_of_both_axes);
  }
};

// Brings the columns of each stage and, spread over the stages before, the window that it reads. Stages go
// through the groups of taps, in a group through the depth, and at each depth through the taps. A thread
// copies one vector of some lines, always the same place of the line. The lines of a window are their
// threads' own from the look-up to the rounding, and each warp has the taps of a group to itself, so that no
// barrier stands between.
template <typename Tile, Direction direction>
struct ContractionLoader {
  using T = typename Tile::Element;
  using Memory = ContractionMemory<Tile>;
  static constexpr int kVector = Tile::kVector, kVectors = Tile::kDepth / kVector;
  static constexpr int kLines = Tile::kThreads / kVectors;  // lines that the block copies at once: a round
  static constexpr int kColumnCopies = Tile::kColumns / kLines;
  static constexpr int kLineBytes = Memory::kLineBytes;
  static constexpr int kSlotBytes = Tile::kColumns * kLineBytes, kColumnsAt = 0;
  static constexpr bool kRoundsToTf32 = Tile::kUnit == Unit::kTensorCore && sizeof(T) == 4;

  const Contraction<T>& problem;
  const TapLists& lists;
  int group_y, group_x, group_taps;  // taps of each axis in a group, and all of it
  int64_t first_line;
  int lines, slots;            // of a window; windows that there is room for
  int rounds, rounds_a_stage;  // of this thread
  int64_t* sources;            // of this thread's lines: bytes, or kNowhere
  GroupTap* groups;            // two, of this warp
  static constexpr int64_t kNowhere = 1;

  // The next stage.
  const GroupTap* tap;
  int taps_left, channel, vectors, slot, group;
  uintptr_t weight;               // of this thread's vector in its first column
  unsigned columns, own_columns;  // bit i: whether this thread's column i is read, and whether it exists

  // The window that is being copied, and this thread's vector of its next round.
  int window_y, window_x, window_channel, window_slot, window_group;
  int round, stages_until_next;
  uintptr_t window_from;
  int64_t beyond_depth;  // kNowhere if it is, or 0
  unsigned char* window_to;

  __device__ ContractionLoader(const Contraction<T>& problem, const TapLists& lists, const Row* rows,
                               int first_column)
      : problem(problem),
        lists(lists),
        group_y(lists.axes[0].all ? lists.counts[0] : 1),
        group_x(lists.axes[1].all ? lists.counts[1] : 1),
        group_taps(group_y * group_x),
        first_line(rows[0].line),
        lines(static_cast<int>(rows[Tile::kRows - 1].line - first_line) +
              lists.axes[0].span * lists.axes[1].size + lists.axes[1].span + 1),
        slots(group_taps == 1 ? 3 : 2),
        rounds((lines - line() + kLines - 1) / kLines),
        sources(reinterpret_cast<int64_t*>(shared_memory() + Memory::sources(problem.windows)) + line()),
        groups(reinterpret_cast<GroupTap*>(shared_memory() + Memory::groups(problem.windows)) +
               threadIdx.x / 32 * 2 * problem.windows.taps),
        tap(groups),
        taps_left(group_taps),
        channel(0),
        slot(0),
        group(0),
        own_columns(0),
        window_y(0),
        window_x(0),
        window_channel(0),
        window_slot(0),
        window_group(0),
        stages_until_next(group_taps == 1 ? 1 : 2) {
    expect(lines <= problem.windows.most_lines && slots * lines <= problem.windows.memory &&
               group_taps <= problem.windows.taps,
           "a window is larger than its memory");
    const int all_rounds = (lines + kLines - 1) / kLines;
    rounds_a_stage = group_taps <= 2 ? all_rounds : (all_rounds + group_taps - 2) / (group_taps - 1);
    begin_group();
    begin_rounds();
    copy_window(rounds);
    const int64_t column = first_column + line();
    weight = reinterpret_cast<uintptr_t>(problem.weight) + (column * problem.depth + vector()) * sizeof(T);
#pragma unroll
    for (int i = 0; i < kColumnCopies; ++i)
      if (column + i * kLines < problem.columns) own_columns |= 1u << i;
    settle_depth();
  }

  // This thread's line of a round, and its vector of the line.
  __device__ static int line() { return threadIdx.x / kVectors; }
  __device__ static int vector() { return threadIdx.x % kVectors * kVector; }
  __device__ static int place() { return line() * kLineBytes + threadIdx.x % kVectors * 16; }

  __device__ int stages() const {
    return lists.counts[0] * lists.counts[1] * ((problem.depth + Tile::kDepth - 1) / Tile::kDepth);
  }

  // Looks up the next group's taps, and the lines of its windows; threads that share a line share that work.
  __device__ void begin_group() {
    const WindowAxis y = lists.axes[0], x = lists.axes[1];
    const Tap first_y = lists.y[window_y], first_x = lists.x[window_x];
    const int origin_y = y.all ? y.origin : first_y.origin;
    const int origin_x = x.all ? x.origin : first_x.origin;
    const int64_t cell = first_y.cell * problem.source_p + first_x.cell * problem.source_q;
    __syncwarp();  // the last group's are read
#pragma unroll 1
    for (int i = threadIdx.x % 32; i < group_taps; i += 32) {
      const Tap y_tap = lists.y[window_y + i / group_x], x_tap = lists.x[window_x + i % group_x];
      groups[window_group * problem.windows.taps + i] = {
          (y_tap.weight + x_tap.weight) * static_cast<int64_t>(sizeof(T)),
          ((y_tap.origin - origin_y) * x.size + x_tap.origin - origin_x) * kLineBytes};
    }
#pragma unroll 1
    for (int r = threadIdx.x % kVectors; r < rounds; r += kVectors) {
      int64_t n = first_line + line() + r * kLines;
      const int source_x = origin_x + static_cast<int>(take(n, x.size)) * x.unit;
      const int source_y = origin_y + static_cast<int>(take(n, y.size)) * y.unit;
      const bool inside = n < problem.batch &&
                          static_cast<unsigned>(source_y) < static_cast<unsigned>(problem.y.source_size) &&
                          static_cast<unsigned>(source_x) < static_cast<unsigned>(problem.x.source_size);
      sources[r * kLines] =
          inside ? (n * problem.source_n + cell + static_cast<int64_t>(source_y) * problem.source_y +
                    static_cast<int64_t>(source_x) * problem.source_x) *
                       static_cast<int64_t>(sizeof(T))
                 : kNowhere;
    }
    __syncwarp();
  }

  __device__ void begin_rounds() {
    const int at = window_channel + vector();
    round = 0;
    window_from = reinterpret_cast<uintptr_t>(problem.source) + at * sizeof(T);
    beyond_depth = at < problem.depth ? 0 : kNowhere;
    window_to = shared_memory() + Memory::kWindows + window_slot * lines * kLineBytes + place();
  }

  __device__ void copy_window(int most_rounds) {
    const int end = min(round + most_rounds, rounds);
#pragma unroll 1
    for (; round < end; ++round, window_to += kLines * kLineBytes) {
      const int64_t source = sources[round * kLines];
      copy_async_16(window_to, reinterpret_cast<const void*>(window_from + (source & ~kNowhere)),
                    !((source | beyond_depth) & kNowhere));
    }
  }

  __device__ void begin_window() {
    window_channel += Tile::kDepth;
    if (window_channel >= problem.depth) {
      window_channel = 0;
      window_x += group_x;
      if (window_x >= lists.counts[1]) {
        window_x = 0;
        window_y += group_y;
      }
      if (window_y >= lists.counts[0]) return;  // that was the last; `round` stays at the end
      window_group ^= 1;
      begin_group();
    }
    window_slot = window_slot + 1 == slots ? 0 : window_slot + 1;
    begin_rounds();
  }

  __device__ void settle_depth() {
    columns = channel + vector() < problem.depth ? own_columns : 0;
    vectors = min((problem.depth - channel) / kVector, kVectors);
  }

  __device__ Stage load(int columns_slot) {
    // A window's place is free two stages after its last reader has begun.
    if (stages_until_next == 0) [[unlikely]] {
      begin_window();
      stages_until_next = group_taps;
    }
    --stages_until_next;
    copy_window(rounds_a_stage);

    const GroupTap now = *tap;
    const uintptr_t from = weight + now.weight;
    unsigned char* to = shared_memory() + columns_slot * kSlotBytes + place();
    const int64_t apart = static_cast<int64_t>(problem.depth) * (kLines * sizeof(T));
#pragma unroll
    for (int i = 0; i < kColumnCopies; ++i)
      copy_async_16(to + i * kLines * kLineBytes, reinterpret_cast<const void*>(from + i * apart),
                    columns >> i & 1);
    const Stage stage{Memory::kWindows + slot * lines * kLineBytes + now.rows, vectors,
                      taps_left == group_taps ? slot : -1};
    ++tap;
    if (--taps_left == 0) [[unlikely]]
      end_window();
    return stage;
  }

  // Moves on to the next window's stages.
  __device__ void end_window() {
    slot = slot + 1 == slots ? 0 : slot + 1;
    channel += Tile::kDepth;
    weight += Tile::kDepth * sizeof(T);
    if (channel >= problem.depth) {
      weight -= channel * sizeof(T);
      channel = 0;
      group ^= 1;
    }
    tap = groups + group * problem.windows.taps;
    taps_left = group_taps;
    settle_depth();
  }

  // float32 on the tensor cores: what this thread copied is rounded before anyone reads it.
  __device__ void arrived(const Stage& stage, int columns_slot) {
    if constexpr (kRoundsToTf32) {
      if (problem.rounds_weight) {
        unsigned char* own = shared_memory() + columns_slot * kSlotBytes + place();
#pragma unroll
        for (int i = 0; i < kColumnCopies; ++i) round_to_tf32(own + i * kLines * kLineBytes);
      }
      if (stage.new_window < 0) return;
      unsigned char* own =
          shared_memory() + Memory::kWindows + stage.new_window * lines * kLineBytes + place();
#pragma unroll 1
      for (int r = 0; r < rounds; ++r, own += kLines * kLineBytes) round_to_tf32(own);
    }
  }

  __device__ static void round_to_tf32(unsigned char* at) {
    auto* vector = reinterpret_cast<Vector<float>*>(at);
    Vector<float> rounded = *vector;
#pragma unroll
    for (float& value : rounded.at) value = rounded_to_tf32(value);
    *vector = rounded;
  }

  __device__ void used(const unsigned char*) {}
};

template <typename Tile, Direction direction>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResident)
    contract(const __grid_constant__ Contraction<typename Tile::Element> problem, int64_t first_block) {
  using T = typename Tile::Element;
  using Warp = typename WarpOf<Tile, Layout::kDepthInner, Layout::kDepthInner>::type;
  static_assert(Tile::kThreads >= 64, "two warps list the taps");
  int64_t block = first_block + blockIdx.x;
  const int first_column = static_cast<int>(take(block, problem.column_tiles)) * Tile::kColumns;
  const int64_t first_row = take(block, problem.row_tiles) * Tile::kRows;
  const int run_x = static_cast<int>(take(block, problem.x.run_count)), run_y = static_cast<int>(block);
  const int height = problem.y.length[run_y], width = problem.x.length[run_x];
  const int64_t rows = static_cast<int64_t>(problem.batch) * height * width;
  if (first_row >= rows) return;  // runs differ in length

  const AxisTaps<direction> taps_y{problem.y, run_y}, taps_x{problem.x, run_x};
  TapLists lists(shared_memory() + ContractionMemory<Tile>::taps(problem.windows), taps_y.count(),
                 taps_x.count());
  if (threadIdx.x < 64) {
    const int64_t tap = static_cast<int64_t>(problem.columns) * problem.depth;
    const int64_t row = tap * problem.x.kernel, cell = row * problem.y.kernel;
    const int count = threadIdx.x < 32 ? list_taps(taps_y, cell * problem.x.cells, row, lists.y)
                                       : list_taps(taps_x, cell, tap, lists.x);
    if (threadIdx.x % 32 == 0) lists.counts[threadIdx.x / 32] = count;
  }
  __syncthreads();

  const bool has_products = lists.counts[0] > 0 && lists.counts[1] > 0 && problem.depth > 0;
  WindowAxis y, x;
  if (has_products) {
    y.settle(taps_y, lists.y, lists.counts[0], problem.windows.all_y[run_y] >> run_x & 1);
    x.settle(taps_x, lists.x, lists.counts[1], problem.windows.all_x[run_y] >> run_x & 1);
  }
  if (threadIdx.x == 0) {
    lists.axes[0] = y;
    lists.axes[1] = x;
  }
  Row* tile_rows = reinterpret_cast<Row*>(shared_memory() + ContractionMemory<Tile>::rows(problem.windows));
  for (int i = threadIdx.x; i < Tile::kRows; i += Tile::kThreads) {
    int64_t n = min(first_row + i, rows - 1);
    const int64_t column = take(n, width), line = take(n, height);
    tile_rows[i] = {(n * y.size + line * y.step) * x.size + column * x.step,
                    first_row + i < rows
                        ? n * problem.result_n +
                              (problem.y.start[run_y] + line * problem.y.step) * problem.result_y +
                              (problem.x.start[run_x] + column * problem.x.step) * problem.result_x
                        : -1};
  }
  __syncthreads();

  Warp warp;
  const Row* warp_rows = tile_rows + threadIdx.x / 32 / Tile::kWarpsAcross * Warp::kRows;
  if (has_products) {
    ContractionLoader<Tile, direction> loader(problem, lists, tile_rows, first_column);
    warp.place_rows([&](int row) { return static_cast<int>(warp_rows[row].line - loader.first_line); });
    multiply_tiles<Tile, Layout::kDepthInner, Layout::kDepthInner>(loader, loader.stages(), warp);
  }

  const int p = problem.y.cell[run_y], q = problem.x.cell[run_x];
  const int64_t cell_offset = p * problem.result_p + q * problem.result_q;
  const T* bias = problem.bias
                      ? problem.bias + (static_cast<int64_t>(p) * problem.x.cells + q) * problem.columns
                      : nullptr;
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
      const int64_t offset = warp_rows[row].result;
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

// Weight and bias gradient: rows are out channels, columns in channels of each tap, the depth the positions
// of a cell. The depth is split among `splits` blocks; reduce_parts adds their sums in a fixed order.
template <typename T>
struct WeightContraction {
  const T* grad;  // channels side by side, padded to whole vectors, as `input`'s
  int64_t grad_n, grad_p, grad_q;
  int grad_y, grad_x;
  const T* input;
  int64_t input_n;
  int input_y, input_x;
  accumulate_t<T>* weight_parts;  // [splits, cells, out channels, columns]
  accumulate_t<T>* bias_parts;    // [splits, cells, out channels]
  int batch, out_channels, out_padded, in_padded;
  int64_t columns;  // kernel taps, in_padded of each
  Axis y, x;        // forward: the runs are cells
  int64_t splits, row_tiles, column_tiles;
};

// A position of a cell: bytes to its gradient (-1: there is no such position) and to its input at no tap;
// where that lies.
struct alignas(16) Position {
  int64_t input;
  int y, x;
  int64_t grad;
};

// The positions of a stage are looked up by the first warp and shared through a table of three stages. A
// thread copies one vector of some positions, always of the same channels and tap.
template <typename Tile>
struct WeightLoader {
  using T = typename Tile::Element;
  using Sum = accumulate_t<T>;
  static constexpr int kVector = Tile::kVector;
  static constexpr int kRowVectors = Tile::kRows / kVector, kColumnVectors = Tile::kColumns / kVector;
  static constexpr int kRowLines = Tile::kThreads / kRowVectors;  // lines that the block copies at once
  static constexpr int kColumnLines = Tile::kThreads / kColumnVectors;
  static constexpr int kRowBytes = Tile::template line_bytes<Layout::kDepthOuter>(Tile::kRows);
  static constexpr int kColumnBytes = Tile::template line_bytes<Layout::kDepthOuter>(Tile::kColumns);
  static constexpr int kColumnsAt = Tile::kDepth * kRowBytes;
  static constexpr int kSlotBytes = kColumnsAt + Tile::kDepth * kColumnBytes;
  static constexpr int kTable = Tile::kStages * kSlotBytes;
  static constexpr int kSharedBytes = kTable + 3 * Tile::kDepth * sizeof(Position);
  static_assert(Tile::kDepth <= 32 && Tile::kRows <= Tile::kThreads, "a lane a position, a thread a row");

  const WeightContraction<T>& problem;
  int stages_loaded, table;  // where in the table the next stage is
  uintptr_t grad, input;     // of this thread's vector, at offset 0
  bool row_inside, column_inside;
  int origin_y, origin_x;  // of this thread's tap
  bool sums_bias;
  Sum bias_sum = 0;
  // The first warp's: the position of this lane in the stage that is looked up next.
  int height, width, i, j;
  int64_t n, step_n, cell;
  int step_i, step_j, table_slot;

  __device__ WeightLoader(const WeightContraction<T>& problem, int run_y, int run_x, int first_row,
                          int64_t first_column, int64_t first_stage)
      : problem(problem),
        stages_loaded(0),
        table(0),
        sums_bias(first_column == 0),
        height(problem.y.length[run_y]),
        width(problem.x.length[run_x]),
        table_slot(0) {
    const int row = first_row + threadIdx.x % kRowVectors * kVector;
    row_inside = row < problem.out_padded;
    grad = reinterpret_cast<uintptr_t>(problem.grad) + row * sizeof(T);
    int64_t tap = first_column + threadIdx.x % kColumnVectors * kVector;
    column_inside = tap < problem.columns;
    const int channel = static_cast<int>(take(tap, max(problem.in_padded, 1)));
    const AxisTaps<Direction::kForward> taps_y{problem.y, run_y}, taps_x{problem.x, run_x};
    const int tap_x = static_cast<int>(take(tap, problem.x.kernel));
    origin_y =
        taps_y.origin(static_cast<int>(min(tap, int64_t(problem.y.kernel - 1))));  // none past the last
    origin_x = taps_x.origin(tap_x);
    input = reinterpret_cast<uintptr_t>(problem.input) +
            (static_cast<int64_t>(origin_y) * problem.input_y +
             static_cast<int64_t>(origin_x) * problem.input_x + channel) *
                static_cast<int64_t>(sizeof(T));
    if (threadIdx.x < 32) {
      cell = problem.y.cell[run_y] * problem.grad_p + problem.x.cell[run_x] * problem.grad_q +
             static_cast<int64_t>(problem.y.start[run_y]) * problem.grad_y +
             static_cast<int64_t>(problem.x.start[run_x]) * problem.grad_x;
      n = first_stage * Tile::kDepth + threadIdx.x;
      j = static_cast<int>(take(n, width));
      i = static_cast<int>(take(n, height));
      step_j = Tile::kDepth % width;
      step_i = Tile::kDepth / width % height;
      step_n = Tile::kDepth / width / height;
      for (int s = 0; s < 3; ++s) look_up();
    }
    __syncthreads();
  }

  __device__ static Position* positions() { return reinterpret_cast<Position*>(shared_memory() + kTable); }

  // Writes the positions of one more stage, a lane each.
  __device__ void look_up() {
    constexpr int kNowhere = -(1 << 30);  // outside any source, also after adding an origin
    constexpr auto kBytes = static_cast<int64_t>(sizeof(T));
    if (threadIdx.x >= Tile::kDepth) return;
    Position position{0, kNowhere, kNowhere, -1};
    if (n < problem.batch) {
      position.y = i * problem.y.stride;
      position.x = j * problem.x.stride;
      position.input = (n * problem.input_n + static_cast<int64_t>(position.y) * problem.input_y +
                        static_cast<int64_t>(position.x) * problem.input_x) *
                       kBytes;
      position.grad = (n * problem.grad_n + cell + static_cast<int64_t>(i) * problem.grad_y +
                       static_cast<int64_t>(j) * problem.grad_x) *
                      kBytes;
    }
    positions()[table_slot * Tile::kDepth + threadIdx.x] = position;
    table_slot = table_slot == 2 ? 0 : table_slot + 1;
    n += step_n;
    i += step_i;
    j += step_j;
    if (j >= width) {
      j -= width;
      ++i;
    }
    if (i >= height) {
      i -= height;
      ++n;
    }
  }

  __device__ Stage load(int slot) {
    unsigned char* rows = shared_memory() + slot * kSlotBytes + threadIdx.x / kRowVectors * kRowBytes +
                          threadIdx.x % kRowVectors * 16;
#pragma unroll
    for (int k = 0; k < Tile::kDepth; k += kRowLines) {
      const int64_t at = positions()[table + threadIdx.x / kRowVectors + k].grad;
      const bool valid = row_inside && at >= 0;
      copy_async_16(rows + k * kRowBytes, reinterpret_cast<const void*>(grad + (valid ? at : 0)), valid);
    }
    unsigned char* columns = shared_memory() + slot * kSlotBytes + kColumnsAt +
                             threadIdx.x / kColumnVectors * kColumnBytes + threadIdx.x % kColumnVectors * 16;
#pragma unroll
    for (int k = 0; k < Tile::kDepth; k += kColumnLines) {
      const Position& position = positions()[table + threadIdx.x / kColumnVectors + k];
      const bool inside_y =
          static_cast<unsigned>(position.y + origin_y) < static_cast<unsigned>(problem.y.source_size);
      const bool inside_x =
          static_cast<unsigned>(position.x + origin_x) < static_cast<unsigned>(problem.x.source_size);
      const bool valid = column_inside & inside_y & inside_x;  // branches would cost more
      copy_async_16(columns + k * kColumnBytes, reinterpret_cast<const void*>(input + position.input), valid);
    }
    table = table == 2 * Tile::kDepth ? 0 : table + Tile::kDepth;
    // The place of the stage before last: a barrier ago its last reader was done.
    if (++stages_loaded > 2 && threadIdx.x < 32) look_up();
    return {slot * kSlotBytes, 4, -1};
  }

  __device__ void arrived(const Stage&, int) {}

  // The bias gradient is the sum of the gradients that pass by.
  __device__ void used(const unsigned char* rows) {
    if (!sums_bias || threadIdx.x >= Tile::kRows) return;
#pragma unroll
    for (int k = 0; k < Tile::kDepth; ++k)
      bias_sum += widen(*reinterpret_cast<const T*>(rows + k * kRowBytes + threadIdx.x * sizeof(T)));
  }
};

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResident)
    contract_weight(const __grid_constant__ WeightContraction<typename Tile::Element> problem,
                    int64_t first_block) {
  using Warp = typename WarpOf<Tile, Layout::kDepthOuter, Layout::kDepthOuter>::type;
  int64_t block = first_block + blockIdx.x;
  const int64_t first_column = take(block, problem.column_tiles) * Tile::kColumns;
  const int first_row = static_cast<int>(take(block, problem.row_tiles)) * Tile::kRows;
  const int64_t split = take(block, problem.splits);
  const int run_x = static_cast<int>(take(block, problem.x.run_count)), run_y = static_cast<int>(block);

  const int64_t positions =
      static_cast<int64_t>(problem.batch) * problem.y.length[run_y] * problem.x.length[run_x];
  const int64_t all_stages = (positions + Tile::kDepth - 1) / Tile::kDepth;
  int64_t share = all_stages + problem.splits - 1;
  take(share, problem.splits);
  const int64_t first_stage = min(split * share, all_stages),
                end_stage = min(first_stage + share, all_stages);
  Warp warp;
  WeightLoader<Tile> loader(problem, run_y, run_x, first_row, first_column, first_stage);
  multiply_tiles<Tile, Layout::kDepthOuter, Layout::kDepthOuter>(
      loader, static_cast<int>(end_stage - first_stage), warp);

  const int64_t cells = static_cast<int64_t>(problem.y.cells) * problem.x.cells;
  const int64_t part =
      split * cells + static_cast<int64_t>(problem.y.cell[run_y]) * problem.x.cells + problem.x.cell[run_x];
  if (loader.sums_bias && threadIdx.x < Tile::kRows &&
      first_row + static_cast<int>(threadIdx.x) < problem.out_channels)
    problem.bias_parts[part * problem.out_channels + first_row + threadIdx.x] = loader.bias_sum;
  const int warp_row = first_row + threadIdx.x / 32 / Tile::kWarpsAcross * Warp::kRows;
  const int64_t lane_column =
      first_column + threadIdx.x / 32 % Tile::kWarpsAcross * Warp::kColumns + Warp::first_column();
  warp.for_each_row([&](int row, const auto& for_each) {
    row += warp_row;
    if (row >= problem.out_channels) return;
    auto* line = problem.weight_parts + (part * problem.out_channels + row) * problem.columns + lane_column;
    for_each([&](int column, typename Warp::Sum sum) {
      if (lane_column + column < problem.columns) line[column] = sum;
    });
  });
}

// Adds the splits in order and writes the gradients as the parameters lie: weight [cells, O, C, taps], bias
// [cells, O].
template <typename T>
__global__ void __launch_bounds__(256, 4)
    reduce_parts(const accumulate_t<T>* weight_parts, const accumulate_t<T>* bias_parts, int64_t splits,
                 int64_t cells, int taps, int out_channels, int in_channels, int in_padded, T* weight,
                 T* bias, int64_t first_block) {
  const int64_t weights = cells * out_channels * taps * in_padded, biases = cells * out_channels;
  const int64_t i = (first_block + blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < weights) {
    int64_t filter = i;
    const int64_t c = take(filter, in_padded), tap = take(filter, taps);
    if (c >= in_channels) return;
    accumulate_t<T> sum = 0;
    for (int64_t s = 0; s < splits; ++s) sum += weight_parts[s * weights + i];
    weight[(filter * in_channels + c) * taps + tap] = narrow<T>(sum);
  } else if (i - weights < biases) {
    accumulate_t<T> sum = 0;
    for (int64_t s = 0; s < splits; ++s) sum += bias_parts[s * biases + i - weights];
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
  bool inner_first, rounds_to_tf32;
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
  for (int r = warp; r < 32; r += warps) {
    T value = line < lines && first_row + r < p.rows ? p.source[from + (first_row + r) * p.source_row] : T{};
    if constexpr (sizeof(T) == 4) {
      if (p.rounds_to_tf32) value = rounded_to_tf32(value);
    }
    tile[r][lane] = value;
  }
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
