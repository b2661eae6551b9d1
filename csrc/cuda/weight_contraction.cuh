// Weight and bias gradient as a matrix product: rows are out channels, columns in channels of each tap, the
// depth the positions of a cell. The depth may be split among blocks; reduce_parts adds their sums in a fixed
// order.
#pragma once

#include "axis.cuh"
#include "pipeline.cuh"

namespace faceattr::gpu {

// Where the gradients of weight and bias go; strides in elements.
template <typename T>
struct WeightGrad {
  T* weight;
  int64_t cell, out, in, tap;
  T* bias;  // [cells, O]
};

template <typename T>
struct WeightContraction {
  const T* grad;  // channels side by side, padded to whole vectors, as `input`'s
  int64_t grad_n, grad_p, grad_q;
  int grad_y, grad_x;
  const T* input;
  int64_t input_n;
  int input_y, input_x;
  WeightGrad<T> result;           // written where there is one split
  accumulate_t<T>* weight_parts;  // else [splits, cells, out channels, columns]
  accumulate_t<T>* bias_parts;    // and [splits, cells, out channels]
  int batch, out_channels, out_padded, in_channels, in_padded;
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
    // A loop of unknown length: of an `if` the instructions would be issued, predicated off, by every block.
    const int steps = sums_bias && threadIdx.x < Tile::kRows ? Tile::kDepth : 0;
#pragma unroll 1
    for (int first = 0; first < steps; first += 8)
#pragma unroll
      for (int k = 0; k < 8; ++k)
        bias_sum +=
            widen(*reinterpret_cast<const T*>(rows + (first + k) * kRowBytes + threadIdx.x * sizeof(T)));
  }
};

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResident)
    contract_weight(const __grid_constant__ WeightContraction<typename Tile::Element> problem,
                    int64_t first_block) {
  using T = typename Tile::Element;
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
  await_turn();
  multiply_tiles<Tile, Layout::kDepthOuter, Layout::kDepthOuter>(
      loader, static_cast<int>(end_stage - first_stage), warp);

  const int64_t cell = static_cast<int64_t>(problem.y.cell[run_y]) * problem.x.cells + problem.x.cell[run_x];
  const int64_t part = split * problem.y.cells * problem.x.cells + cell;
  const bool is_whole = problem.splits == 1;
  if (loader.sums_bias && threadIdx.x < Tile::kRows &&
      first_row + static_cast<int>(threadIdx.x) < problem.out_channels) {
    const int64_t at = part * problem.out_channels + first_row + threadIdx.x;
    if (is_whole)
      problem.result.bias[at] = narrow<T>(loader.bias_sum);
    else
      problem.bias_parts[at] = loader.bias_sum;
  }
  const int warp_row = first_row + threadIdx.x / 32 / Tile::kWarpsAcross * Warp::kRows;
  const int64_t lane_column =
      first_column + threadIdx.x / 32 % Tile::kWarpsAcross * Warp::kColumns + Warp::first_column();
  if (is_whole) {
    warp.for_each_column([&](int column, const auto& sums) {
      int64_t tap = lane_column + column;
      if (tap >= problem.columns) return;
      const int64_t c = take(tap, problem.in_padded);
      if (c >= problem.in_channels) return;
      T* to = problem.result.weight + cell * problem.result.cell + tap * problem.result.tap +
              c * problem.result.in + warp_row * problem.result.out;
      sums.for_each([&](int row, typename Warp::Sum sum) {
        if (warp_row + row < problem.out_channels) to[row * problem.result.out] = narrow<T>(sum);
      });
    });
    return;
  }
  warp.for_each_row([&](int row, const auto& sums) {
    row += warp_row;
    if (row >= problem.out_channels) return;
    auto* line = problem.weight_parts + (part * problem.out_channels + row) * problem.columns + lane_column;
    sums.for_each([&](int column, typename Warp::Sum sum) {
      if (lane_column + column < problem.columns) line[column] = sum;
    });
  });
}

// Adds the splits in order and writes the gradients as they are wanted.
template <typename T>
__global__ void __launch_bounds__(256, 4)
    reduce_parts(const accumulate_t<T>* weight_parts, const accumulate_t<T>* bias_parts, int64_t splits,
                 int64_t cells, int taps, int out_channels, int in_channels, int in_padded,
                 WeightGrad<T> result, int64_t first_block) {
  const int64_t weights = cells * out_channels * taps * in_padded, biases = cells * out_channels;
  const int64_t i = (first_block + blockIdx.x) * blockDim.x + threadIdx.x;
  await_turn();
  if (i < weights) {
    int64_t cell = i;
    const int64_t c = take(cell, in_padded), tap = take(cell, taps), out = take(cell, out_channels);
    if (c >= in_channels) return;
    accumulate_t<T> sum = 0;
    for (int64_t s = 0; s < splits; ++s) sum += weight_parts[s * weights + i];
    result.weight[cell * result.cell + out * result.out + c * result.in + tap * result.tap] = narrow<T>(sum);
  } else if (i - weights < biases) {
    accumulate_t<T> sum = 0;
    for (int64_t s = 0; s < splits; ++s) sum += bias_parts[s * biases + i - weights];
    result.bias[i - weights] = narrow<T>(sum);
  }
}

}  // namespace faceattr::gpu
