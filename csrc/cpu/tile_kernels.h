// The vectorised inner loops of the convolutions: one set an instruction set and dtype, all from the same
// text (tile_kernels_impl.h).
#pragma once

#include <cstdint>

#include "../common/dtypes.h"

namespace faceattr {

// Two neighbours along what is summed, for machines that multiply bfloat16 by pairs.
struct BFloat16Pair {
  BFloat16 first, second;
};

// What a sum of products of T is rounded to.
template <typename T>
struct Result {
  using type = T;
};
template <>
struct Result<BFloat16Pair> {
  using type = BFloat16;
};
template <typename T>
using result_t = typename Result<T>::type;

// A stretch of a tile's sum: its rows of the panel, and where its inputs lie relative to each position.
template <typename T>
struct Segment {
  const T* panel;
  int64_t x;
};

template <typename T>
struct TileKernels {
  using A = accumulate_t<T>;
  static constexpr int kMaxVectors = 4, kMaxPositions = 12, kDotRows = 4, kMaxDotPositions = 4;

  // With V vectors of channels and R positions, kept in registers from beginning to end:
  //   out[r][m] = init[m] + sum over segments s and i < steps of
  //               s.panel[i * panel_step + m] * x[r][s.x + i * x_step],   m < V * lanes
  using Tile = void (*)(const Segment<T>* segments, int64_t segment_count, int64_t steps, int64_t panel_step,
                        int64_t x_step, const T* const* x, const A* init, A* const* out);
  // out[j][k] = sum over r < rows of g[j][r] * x[r * x_stride + k], j < kDotRows, k < length; a whole vector
  // of x is read even where length is less.
  template <typename X, typename Y>
  using Outer = void (*)(const A* const* g, const X* x, int64_t x_stride, int64_t rows, int64_t length,
                         Y* const* out);
  // to[rows[j] * to_stride + i] = from[min(i, channels - 1) * from_stride + j] for i < filled <= lanes, j <
  // columns; nothing is read from `end` on.
  using Pack = void (*)(const T* from, const T* end, int64_t from_stride, int64_t channels, int64_t filled,
                        const int64_t* rows, int64_t columns, T* to, int64_t to_stride);
  // out[r][j] = sum over k < length of rows[j][k] * x[r * x_stride + k], j < kDotRows; length >= lanes. The
  // last elements of x[r], which do not fill a vector, stand at the end of a vector of their own, after
  // zeros.
  using Dot = void (*)(const T* const* rows, int64_t length, const A* x, int64_t x_stride, A* out);
  // out[r][m * channel_step] = sums[r * width + m], rounded, for r < positions and m < channels; width:
  // channels in whole vectors. Neighbouring positions are written together.
  using Scatter = void (*)(const A* sums, int64_t width, int64_t positions, int64_t channels,
                           result_t<T>* const* out, int64_t channel_step);

  // Of BFloat16Pair alone: to[j * length + i] = {from[j * step + i], from[j * step + second + i]} for j <
  // runs and i < length.
  using Zip = void (*)(const BFloat16* from, int64_t step, int64_t second, int64_t length, int64_t runs,
                       T* to);

  int lanes;                       // elements of A in a vector
  int max_vectors;                 // of a tile
  int max_positions[kMaxVectors];  // of a tile with 1, 2, ... vectors
  Tile tile[kMaxVectors][kMaxPositions];
  int max_dot_positions;  // of a dot; BFloat16Pair has neither dot nor outer
  Dot dot[kMaxDotPositions];
  Outer<A, T> outer;   // to filters' gradients
  Outer<T, A> spread;  // from filters
  Pack pack;
  Scatter scatter;
  Zip zip;
};

// Those of cpu_isa(); of BFloat16Pair only where has_pair_products().
template <typename T>
const TileKernels<T>& tile_kernels();

bool has_pair_products();

}  // namespace faceattr
