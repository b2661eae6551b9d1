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

// A warp takes one out channel of one cell and kDirectPositions positions; its lanes share the depth, so that
// weights are read as they lie, once.
template <typename T>
__global__ void __launch_bounds__(32 * kDirectWarps, 7)
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
  int y[kDirectPositions], x[kDirectPositions];  // in the run
#pragma unroll
  for (int i = 0; i < kDirectPositions; ++i) {
    n[i] = min(chunk * kDirectPositions + i, positions - 1);  // the last once more; not written
    x[i] = static_cast<int>(take(n[i], width));
    y[i] = static_cast<int>(take(n[i], height));
  }
  const int kernel = problem.y.kernel * problem.x.kernel, depth = problem.in_channels * kernel;
  const int64_t cell = static_cast<int64_t>(p) * problem.x.cells + q,
                filter = cell * problem.out_channels + o;
  const bool last = problem.channels_last;
  const T* weight = problem.weight + (last ? (cell * kernel * problem.out_channels + o) * problem.in_channels
                                           : filter * depth);
  const int64_t next_tap = last ? static_cast<int64_t>(problem.out_channels) * problem.in_channels : 1;
  const int fast = last ? problem.in_channels : kernel;  // what lies side by side: channels, or taps
  Sum sums[kDirectPositions] = {};
  for (int k = lane; k < depth; k += 32) {
    const int slow = k / fast, c = last ? k - slow * fast : slow, tap = last ? slow : k - slow * fast;
    const Sum w = widen(last ? weight[tap * next_tap + c] : weight[k]);
    const int top = taps_y.origin(tap / problem.x.kernel), left = taps_x.origin(tap % problem.x.kernel);
#pragma unroll
    for (int i = 0; i < kDirectPositions; ++i) {
      const int row = y[i] * problem.y.stride + top, column = x[i] * problem.x.stride + left;
      if (static_cast<unsigned>(row) < static_cast<unsigned>(problem.y.source_size) &&
          static_cast<unsigned>(column) < static_cast<unsigned>(problem.x.source_size))
        sums[i] += w * widen(problem.input[n[i] * problem.input_n + c * problem.input_c +
                                           row * problem.input_y + column * problem.input_x]);
    }
  }
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
