// What a block of a convolution reads, and where it keeps it in shared memory: windows of the source, for all
// taps where they fit, and each stage's weights.
#pragma once

#include "axis.cuh"
#include "pipeline.cuh"

namespace faceattr::gpu {

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
  const T* weight;  // [cells, kernel taps, weight_lines, weight_line]: out channels by padded in channels
  int64_t weight_lines;
  int weight_line;
  bool rounds_weight;  // to TF32; else it is rounded where it is to be
  const T* bias;       // [cells, columns] or null
  void* result;        // T, or accumulate_t<T> where `result_is_sum`
  bool result_is_sum;
  bool result_in_pairs;  // two neighbouring channels can be written at once
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

__device__ inline void round_to_tf32(unsigned char* at) {
  auto* vector = reinterpret_cast<Vector<float>*>(at);
  Vector<float> rounded = *vector;
#pragma unroll
  for (float& value : rounded.at) value = rounded_to_tf32(value);
  *vector = rounded;
}

// --- Who may touch what, when
//
// Stage s is loaded by the s-th call of load(), after the barrier of stage s - 2 (the first two: before any),
// and multiplied between its own barrier and the next. Windows are numbered w = 0, 1, ...; each serves `taps`
// stages, w * taps to (w + 1) * taps - 1. A group of taps has one window for each kDepth channels.
//
//   what                    lies in                 is written                       is read
//   columns of stage s      slot s % 3              in load(s)                       between the barriers of
//   s
//                                                                                    and s + 1
//   window w, taps > 1      slot w % 2              in load(w taps + 2 - taps) to    at its stages, the last
//   being
//                                                   load(w taps), a piece each       w taps + taps - 1
//   window w, taps = 1      slot w % 3              in load(w)                       at stage w
//   window 0                slot 0                  before load(0)                   as above
//   group g's taps          warp's list g % 2       with its first window            in the loads of its
//   stages a window's lines        the thread's sources    with the group's first window    as its windows
//   are copied
//
// So window w overwrites w - 2 (taps = 1: w - 3) from load(w taps + 2 - taps) on (taps = 1: load(w)), which
// comes after the barrier of stage w taps - taps (w - 2): the last reader of w - 2 was stage w taps - taps -
// 1 (of w - 3 stage w - 3), before it. The last piece of w is in the copies of load(w taps), for which stage
// w taps waits. Group g's list overwrites that of g - 2, whose last load came before the first window of g
// began. Sources and lists are each thread's and each warp's own: no barrier but the warp's stands between
// their writing and their reading.

// Copies the windows, a piece at each stage. A thread copies one vector of some lines, always the same place
// of the line; lines are its own from the look-up to the rounding.
template <typename Tile, Direction direction>
struct WindowLoader {
  using T = typename Tile::Element;
  using Memory = ContractionMemory<Tile>;
  static constexpr int kVector = Tile::kVector, kVectors = Tile::kDepth / kVector;
  static constexpr int kLines = Tile::kThreads / kVectors;  // lines that the block copies at once: a round
  static constexpr int kLineBytes = Memory::kLineBytes;
  static constexpr int64_t kNowhere = 1;

  const Contraction<T>& problem;
  const TapLists& lists;
  int group_y, group_x, taps;  // of each axis in a group, and all of it
  int64_t first_line;
  int lines, slots;            // of a window; windows that there is room for
  int rounds, rounds_a_stage;  // of this thread
  int64_t* sources;            // of this thread's lines: bytes, or kNowhere
  GroupTap* groups;            // two lists, of this warp

  // The window that is being copied, and this thread's vector of its next round.
  int y = 0, x = 0, channel = 0, slot = 0, group = 0;
  int round, stages_until_next;
  uintptr_t from;
  int64_t beyond_depth;  // kNowhere if it is, or 0
  unsigned char* to;

  // Copies the first window.
  __device__ WindowLoader(const Contraction<T>& problem, const TapLists& lists, const Row* rows)
      : problem(problem),
        lists(lists),
        group_y(lists.axes[0].all ? lists.counts[0] : 1),
        group_x(lists.axes[1].all ? lists.counts[1] : 1),
        taps(group_y * group_x),
        first_line(rows[0].line),
        lines(static_cast<int>(rows[Tile::kRows - 1].line - first_line) +
              lists.axes[0].span * lists.axes[1].size + lists.axes[1].span + 1),
        slots(taps == 1 ? 3 : 2),
        rounds((lines - line() + kLines - 1) / kLines),
        sources(reinterpret_cast<int64_t*>(shared_memory() + Memory::sources(problem.windows)) + line()),
        groups(reinterpret_cast<GroupTap*>(shared_memory() + Memory::groups(problem.windows)) +
               threadIdx.x / 32 * 2 * problem.windows.taps),
        stages_until_next(taps == 1 ? 1 : 2) {
    expect(lines <= problem.windows.most_lines && slots * lines <= problem.windows.memory &&
               taps <= problem.windows.taps,
           "a window is larger than its memory");
    const int all_rounds = (lines + kLines - 1) / kLines;
    rounds_a_stage = taps <= 2 ? all_rounds : (all_rounds + taps - 2) / (taps - 1);
    begin_group();
    begin_rounds();
    copy(rounds);
  }

  // This thread's line of a round, and its vector of the line.
  __device__ static int line() { return threadIdx.x / kVectors; }
  __device__ static int vector() { return threadIdx.x % kVectors * kVector; }
  __device__ static int place() { return line() * kLineBytes + threadIdx.x % kVectors * 16; }

  __device__ int stages() const {
    return lists.counts[0] * lists.counts[1] * ((problem.depth + Tile::kDepth - 1) / Tile::kDepth);
  }

  __device__ const GroupTap* taps_of(int group) const { return groups + group * problem.windows.taps; }

  __device__ int lies_at(int slot) const { return Memory::kWindows + slot * lines * kLineBytes; }

  // A stage's share of the copies.
  __device__ void load() {
    if (stages_until_next == 0) [[unlikely]] {
      begin_window();
      stages_until_next = taps;
    }
    --stages_until_next;
    copy(rounds_a_stage);
  }

  __device__ void begin_window() {
    channel += Tile::kDepth;
    if (channel >= problem.depth) {
      channel = 0;
      x += group_x;
      if (x >= lists.counts[1]) {
        x = 0;
        y += group_y;
      }
      if (y >= lists.counts[0]) return;  // that was the last; `round` stays at the end
      group ^= 1;
      begin_group();
    }
    slot = slot + 1 == slots ? 0 : slot + 1;
    begin_rounds();
  }

  // Looks up the next group's taps, and the lines of its windows; threads that share a line share that work.
  __device__ void begin_group() {
    const WindowAxis axis_y = lists.axes[0], axis_x = lists.axes[1];
    const Tap first_y = lists.y[y], first_x = lists.x[x];
    const int origin_y = axis_y.all ? axis_y.origin : first_y.origin;
    const int origin_x = axis_x.all ? axis_x.origin : first_x.origin;
    const int64_t cell = first_y.cell * problem.source_p + first_x.cell * problem.source_q;
    __syncwarp();  // the last group's are read
#pragma unroll 1
    for (int i = threadIdx.x % 32; i < taps; i += 32) {
      const Tap y_tap = lists.y[y + i / group_x], x_tap = lists.x[x + i % group_x];
      groups[group * problem.windows.taps + i] = {
          (y_tap.weight + x_tap.weight) * static_cast<int64_t>(sizeof(T)),
          ((y_tap.origin - origin_y) * axis_x.size + x_tap.origin - origin_x) * kLineBytes};
    }
#pragma unroll 1
    for (int r = threadIdx.x % kVectors; r < rounds; r += kVectors) {
      int64_t n = first_line + line() + r * kLines;
      const int source_x = origin_x + static_cast<int>(take(n, axis_x.size)) * axis_x.unit;
      const int source_y = origin_y + static_cast<int>(take(n, axis_y.size)) * axis_y.unit;
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
    const int at = channel + vector();
    round = 0;
    from = reinterpret_cast<uintptr_t>(problem.source) + at * sizeof(T);
    beyond_depth = at < problem.depth ? 0 : kNowhere;
    to = shared_memory() + lies_at(slot) + place();
  }

  __device__ void copy(int most_rounds) {
    const int end = min(round + most_rounds, rounds);
#pragma unroll 1
    for (; round < end; ++round, to += kLines * kLineBytes) {
      const int64_t source = sources[round * kLines];
      copy_async_16(to, reinterpret_cast<const void*>(from + (source & ~kNowhere)),
                    !((source | beyond_depth) & kNowhere));
    }
  }

  __device__ void round_window(int slot) {
    unsigned char* own = shared_memory() + lies_at(slot) + place();
#pragma unroll 1
    for (int r = 0; r < rounds; ++r, own += kLines * kLineBytes) round_to_tf32(own);
  }
};

// Brings the columns of each stage: weights, a line of which is a column running along the depth (forward) or
// a step of the depth running along the columns (input gradient), as they lie. Stages go through the groups
// of taps, in a group through the depth, and at each depth through the taps.
template <typename Tile, Direction direction>
struct ContractionLoader {
  using T = typename Tile::Element;
  using Windows = WindowLoader<Tile, direction>;
  static constexpr Layout kColumnLayout =
      direction == Direction::kForward ? Layout::kDepthInner : Layout::kDepthOuter;
  static constexpr bool kInner = kColumnLayout == Layout::kDepthInner;
  static constexpr int kVector = Tile::kVector;
  static constexpr int kVectors = (kInner ? Tile::kDepth : Tile::kColumns) / kVector;  // of a line
  static constexpr int kLines = Tile::kThreads / kVectors;  // lines that the block copies at once
  static constexpr int kCopies = (kInner ? Tile::kColumns : Tile::kDepth) / kLines;
  static constexpr int kLineBytes = Tile::template line_bytes<kColumnLayout>(Tile::kColumns);
  static constexpr int kSlotBytes = Tile::kColumns * ContractionMemory<Tile>::kLineBytes, kColumnsAt = 0;
  static constexpr bool kRoundsToTf32 = Tile::kUnit == Unit::kTensorCore && sizeof(T) == 4;
  static_assert(kInner || Tile::kDepth * kLineBytes <= kSlotBytes, "a stage's columns fit their slot");
  static_assert(kLines * kVectors == Tile::kThreads &&
                    kCopies * kLines == (kInner ? Tile::kColumns : Tile::kDepth),
                "every thread copies the same number of vectors");

  const Contraction<T>& problem;
  Windows windows;
  unsigned own;  // bit i: whether this thread's vector of its i-th line exists, at some depth

  // The next stage.
  const GroupTap* tap;
  int taps_left, channel = 0, slot = 0, group = 0;  // slot: of its window
  int vectors;
  uintptr_t weight;  // of this thread's vector in its first line, at tap 0
  unsigned valid;    // as `own`, at this depth

  __device__ ContractionLoader(const Contraction<T>& problem, const TapLists& lists, const Row* rows,
                               int first_column)
      : problem(problem),
        windows(problem, lists, rows),
        own(0),
        tap(windows.groups),
        taps_left(windows.taps) {
    const int line = kInner ? first_column + this->line() : this->line();
    const int element = kInner ? vector() : first_column + vector();
    weight = reinterpret_cast<uintptr_t>(problem.weight) +
             (static_cast<int64_t>(line) * problem.weight_line + element) * sizeof(T);
    if (kInner) {
#pragma unroll
      for (int i = 0; i < kCopies; ++i)
        if (line + i * kLines < problem.columns) own |= 1u << i;
    } else if (element < problem.weight_line) {
      own = (1u << kCopies) - 1;
    }
    settle_depth();
  }

  // This thread's line of those that are copied at once, and its vector of the line.
  __device__ static int line() { return threadIdx.x / kVectors; }
  __device__ static int vector() { return threadIdx.x % kVectors * kVector; }
  __device__ static int place() { return line() * kLineBytes + threadIdx.x % kVectors * 16; }

  // Bytes from the weights of one depth to those `steps` farther.
  __device__ int64_t deeper(int steps) const {
    return static_cast<int64_t>(steps) * (kInner ? 1 : problem.weight_line) * static_cast<int64_t>(sizeof(T));
  }

  __device__ void settle_depth() {
    vectors = min((problem.depth - channel) / kVector, Tile::kDepth / kVector);
    if (kInner) {
      valid = channel + vector() < problem.depth ? own : 0;
    } else {  // lines past the last out channel are zeros, though the depth is padded
      const int64_t left = problem.weight_lines - channel - line();
      const int64_t lines = left > 0 ? (left + kLines - 1) / kLines : 0;
      valid = lines < kCopies ? own & ((1u << lines) - 1) : own;
    }
  }

  __device__ Stage load(int columns_slot) {
    windows.load();
    const GroupTap now = *tap;
    const uintptr_t from = weight + now.weight;
    unsigned char* to = shared_memory() + columns_slot * kSlotBytes + place();
    const int64_t apart = static_cast<int64_t>(problem.weight_line) * (kLines * sizeof(T));
#pragma unroll
    for (int i = 0; i < kCopies; ++i)
      copy_async_16(to + i * kLines * kLineBytes, reinterpret_cast<const void*>(from + i * apart),
                    valid >> i & 1);
    const Stage stage{windows.lies_at(slot) + now.rows, vectors, taps_left == windows.taps ? slot : -1};
    ++tap;
    --taps_left;
    // A loop, though once is enough: of an `if` the instructions would be issued, predicated off, at every
    // stage.
#pragma unroll 1
    while (taps_left == 0) [[unlikely]]
      end_window();
    return stage;
  }

  // Moves on to the next window's stages.
  __device__ void end_window() {
    slot = slot + 1 == windows.slots ? 0 : slot + 1;
    channel += Tile::kDepth;
    weight += deeper(Tile::kDepth);
    if (channel >= problem.depth) {
      weight -= deeper(channel);
      channel = 0;
      group ^= 1;
    }
    tap = windows.taps_of(group);
    taps_left = windows.taps;
    settle_depth();
  }

  // float32 on the tensor cores: what this thread copied is rounded before anyone reads it.
  __device__ void arrived(const Stage& stage, int columns_slot) {
    if constexpr (kRoundsToTf32) {
      unsigned char* own_columns = shared_memory() + columns_slot * kSlotBytes + place();
#pragma unroll 1
      for (int i = problem.rounds_weight ? kCopies : 0; i > 0; --i, own_columns += kLines * kLineBytes)
        round_to_tf32(own_columns);
      if (stage.new_window >= 0) windows.round_window(stage.new_window);
    }
  }

  __device__ void used(const unsigned char*) {}
};

}  // namespace faceattr::gpu
