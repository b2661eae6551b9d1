// The convolution for shapes so small that a launch costs more than the arithmetic: one launch, nothing
// packed.
#pragma once

#include "axis.cuh"

namespace faceattr::gpu {

template <typename T>
struct DirectConvolution {
  const T* input;
  int64_t input_n, input_c, input_y, input_x;
  const T* weight;     // [cells, O, C, kernel taps] or, channels last, [cells, kernel taps, O, C]
  bool channels_last;  // the weight
  const T* bias;       // [cells, O] or null
  void* result;        // as Contraction's
  bool result_is_sum;
  int64_t result_n, result_c, result_p, result_q, result_y, result_x;
  int batch, in_channels, out_channels;
  Axis y, x;       // forward
  int64_t chunks;  // of a cell's positions
};

constexpr int kDirectPositions = 4, kDirectWarps = 4;

// A number by its digits: (high * middles + middle) * lows + low.
struct Digits {
  int high, middle, low;

  __device__ static Digits of(int number, int lows, int middles) {
    return {number / lows / middles, number / lows % middles, number % lows};
  }

  __device__ void add(const Digits& other, int lows, int middles) {
    low += other.low;
    middle += other.middle;
    high += other.high;
    if (low >= lows) {
      low -= lows;
      ++middle;
    }
    if (middle >= middles) {
      middle -= middles;
      ++high;
    }
  }
};

// A warp takes one out channel of one cell and kDirectPositions positions; its lanes share the depth, so that
// weights are read as they lie, once.
template <typename T>
__global__ void __launch_bounds__(32 * kDirectWarps, 5)
    convolve_direct(const __grid_constant__ DirectConvolution<T> problem, int64_t first_block) {
  using Sum = accumulate_t<T>;
  const int lane = threadIdx.x % 32;
  int64_t task = (first_block + blockIdx.x) * kDirectWarps + threadIdx.x / 32;
  const int64_t chunk = take(task, problem.chunks);
  const int o = static_cast<int>(take(task, problem.out_channels));
  const int run_x = static_cast<int>(take(task, problem.x.run_count)), run_y = static_cast<int>(task);
  if (run_y >= problem.y.run_count) return;
  const AxisTaps<Direction::kForward> taps_y{problem.y, run_y}, taps_x{problem.x, run_x};
  const int height = problem.y.length[run_y], width = problem.x.length[run_x];
  const int64_t positions = static_cast<int64_t>(problem.batch) * height * width;
  const int p = problem.y.cell[run_y], q = problem.x.cell[run_x];

  int64_t n[kDirectPositions];
  int y[kDirectPositions], x[kDirectPositions];         // in the run
  int row[kDirectPositions], column[kDirectPositions];  // of the source at the first tap
  const T* from[kDirectPositions];                      // its first channel
#pragma unroll
  for (int i = 0; i < kDirectPositions; ++i) {
    n[i] = min(chunk * kDirectPositions + i, positions - 1);  // the last once more; not written
    x[i] = static_cast<int>(take(n[i], width));
    y[i] = static_cast<int>(take(n[i], height));
    row[i] = taps_y.origin(0) + y[i] * problem.y.stride;
    column[i] = taps_x.origin(0) + x[i] * problem.x.stride;
    from[i] = problem.input + n[i] * problem.input_n + row[i] * problem.input_y + column[i] * problem.input_x;
  }
  const int kernel = problem.y.kernel * problem.x.kernel, depth = problem.in_channels * kernel;
  const int64_t cell = static_cast<int64_t>(p) * problem.x.cells + q,
                filter = cell * problem.out_channels + o;
  const bool last = problem.channels_last;
  const T* weight = problem.weight + (last ? (cell * kernel * problem.out_channels + o) * problem.in_channels
                                           : filter * depth);
  const int64_t next_tap = last ? static_cast<int64_t>(problem.out_channels) * problem.in_channels : 1,
                next_channel = last ? 1 : kernel;
  // Step k of the depth is a number of three digits: (u, v, c) where filters lie channels last, else (c, u,
  // v). A lane adds 32 at each turn: no division but these.
  const int low = last ? problem.in_channels : problem.x.kernel,
            middle = last ? problem.x.kernel : problem.y.kernel;
  const Digits step = Digits::of(32, low, middle);
  Digits k = Digits::of(lane, low, middle);
  await_turn();
  Sum sums[kDirectPositions] = {};
#pragma unroll 4
  for (int turn = lane; turn < depth; turn += 32) {
    const int c = last ? k.low : k.high, v = last ? k.middle : k.low, u = last ? k.high : k.middle;
    k.add(step, low, middle);
    const Sum w = widen(weight[(u * problem.x.kernel + v) * next_tap + c * next_channel]);
    const int down = u * problem.y.dilation, right = v * problem.x.dilation;
    const int64_t offset = c * problem.input_c + down * problem.input_y + right * problem.input_x;
#pragma unroll
    for (int i = 0; i < kDirectPositions; ++i)
      if (static_cast<unsigned>(row[i] + down) < static_cast<unsigned>(problem.y.source_size) &&
          static_cast<unsigned>(column[i] + right) < static_cast<unsigned>(problem.x.source_size))
        sums[i] += w * widen(from[i][offset]);
  }
  __syncwarp();  // lanes take different numbers of turns
#pragma unroll
  for (int i = 0; i < kDirectPositions; ++i)
    for (int distance = 16; distance > 0; distance /= 2)
      sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], distance);
  if (lane != 0) return;
  const Sum bias = problem.bias ? widen(problem.bias[filter]) : Sum(0);
#pragma unroll
  for (int i = 0; i < kDirectPositions; ++i) {
    if (chunk * kDirectPositions + i >= positions) break;
    const int64_t at = n[i] * problem.result_n + o * problem.result_c + p * problem.result_p +
                       q * problem.result_q + (problem.y.start[run_y] + y[i]) * problem.result_y +
                       (problem.x.start[run_x] + x[i]) * problem.result_x;
    if (problem.result_is_sum)
      static_cast<Sum*>(problem.result)[at] = sums[i] + bias;
    else
      static_cast<T*>(problem.result)[at] = narrow<T>(sums[i] + bias);
  }
}

}  // namespace faceattr::gpu
