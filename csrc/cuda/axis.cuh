// One axis of a convolution as its launches see it: runs of positions of the result inside which every tap of
// the filter belongs to one cell, and the taps of a run.
#pragma once

#include "device.cuh"

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

}  // namespace faceattr::gpu
