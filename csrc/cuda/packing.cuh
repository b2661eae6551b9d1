// Packing: what the products read has its channels side by side, padded with zeros to whole vectors. What
// lies so is read in place.
#pragma once

#include "runs.cuh"

namespace faceattr::gpu {

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

// All packings of an operator in one launch: a launch costs as much as a small product.
constexpr int kMostPackings = 3;

template <typename T>
struct Packings {
  Packing<T> of[kMostPackings] = {};

  __host__ __device__ int64_t blocks() const {
    int64_t sum = 0;
    for (const Packing<T>& packing : of) sum += packing.blocks();
    return sum;
  }
};

template <typename T>
__global__ void __launch_bounds__(256, 6)
    pack(const __grid_constant__ Packings<T> packings, int64_t first_block) {
  T(*tile)[33] = reinterpret_cast<T(*)[33]>(shared_memory());
  int64_t block = first_block + blockIdx.x;
  int which = 0;
  for (; block >= packings.of[which].blocks(); ++which) block -= packings.of[which].blocks();
  const Packing<T>& p = packings.of[which];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int64_t lines = p.outers * p.inners;
  const int64_t first_line = take(block, p.line_tiles()) * 32;
  const int first_row = static_cast<int>(take(block, p.row_tiles())) * 32;
  const int64_t b = block, line = first_line + lane;
  int64_t outer = line;
  const int64_t inner = take(outer, p.inners);
  const int64_t from = b * p.source_batch + outer * p.source_outer + inner * p.source_inner;
  await_turn();
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

// --- Host side

// Strides in elements; p and q are the cell.
template <typename T>
struct Map {
  T* data;
  int64_t n, c, y, x;
};

template <typename T>
struct Result {
  T* data;
  int64_t n, c, p, q, y, x;
  bool is_sum;  // data is of accumulate_t<T>
};

// [cells, O, C, taps] or, channels last, [cells, taps, O, C].
template <typename T>
struct Filters {
  const T* data;
  bool channels_last;
};

template <typename T>
struct PackedMap {
  const T* data;
  int64_t n, p, q;
  int64_t y, x;
  int channels;  // with the padding
};

// [cells, taps, O, C]
template <typename T>
struct PackedFilters {
  const T* data;
  int in_padded;
  bool rounded;  // to TF32
};

template <typename T>
int64_t padded_channels(int64_t channels) {
  const int64_t vector = 16 / sizeof(T);
  return divide_up(channels, vector) * vector;
}

// Collects packings and launches them together.
template <typename T, typename Device>
class Packer {
 public:
  explicit Packer(Device& device) : device_(device) {}

  PackedMap<T> map(const Map<const T>& map, int64_t batch, int64_t channels, int64_t height, int64_t width) {
    const int64_t vector = 16 / sizeof(T), padded = padded_channels<T>(channels);
    require(width * padded <= INT32_MAX, "faceattr on CUDA: a row of a map may have up to 2^31 - 1 elements");
    const bool as_it_lies = map.c == 1 && channels == padded && map.n % vector == 0 && map.y % vector == 0 &&
                            map.x % vector == 0 && map.y <= INT32_MAX && map.x <= INT32_MAX &&
                            reinterpret_cast<uintptr_t>(map.data) % 16 == 0;
    if (as_it_lies) return {map.data, map.n, 0, 0, map.y, map.x, static_cast<int>(padded)};
    T* packed = device_.template workspace<T>(batch * height * width * padded);
    Packing<T> packing{};
    packing.source = map.data;
    packing.source_batch = map.n;
    packing.source_row = map.c;
    packing.source_outer = map.y;
    packing.source_inner = map.x;
    packing.batch = batch;
    packing.outers = height;
    packing.inners = width;
    packing.rows = static_cast<int>(channels);
    packing.padded = static_cast<int>(padded);
    packing.result = packed;
    packings_.of[count_++] = packing;
    return {packed, height * width * padded, 0, 0, width * padded, padded, static_cast<int>(padded)};
  }

  PackedFilters<T> filters(const Convolution& c, const Filters<T>& filters, bool rounds_to_tf32) {
    const int64_t cells = c.y.cells * c.x.cells, taps = c.y.kernel * c.x.kernel;
    const int64_t outs = c.out_channels, ins = c.in_channels, padded = padded_channels<T>(ins);
    const bool last = filters.channels_last;
    if ((last || taps == 1) && padded == ins && reinterpret_cast<uintptr_t>(filters.data) % 16 == 0)
      return {filters.data, static_cast<int>(padded), false};
    T* packed = device_.template workspace<T>(cells * taps * outs * padded);
    Packing<T> packing{};
    packing.source = filters.data;
    packing.source_row = last ? 1 : taps;
    packing.source_outer = last ? ins : ins * taps;
    packing.outers = outs;
    packing.rows = static_cast<int>(ins);
    packing.padded = static_cast<int>(padded);
    packing.rounds_to_tf32 = rounds_to_tf32;
    packing.result = packed;
    if (last) {
      packing.batch = cells * taps;
      packing.source_batch = outs * ins;
      packing.inners = 1;
    } else {
      packing.batch = cells;
      packing.source_batch = outs * ins * taps;
      packing.inners = taps;
      packing.source_inner = 1;
      packing.inner_first = true;
    }
    packings_.of[count_++] = packing;
    return {packed, static_cast<int>(padded), rounds_to_tf32};
  }

  void launch() { device_.launch(pack<T>, packings_.blocks(), 256, 32 * 33 * sizeof(T), packings_); }

 private:
  Device& device_;
  Packings<T> packings_;
  int count_ = 0;
};

}  // namespace faceattr::gpu
