// Products of bfloat16 matrices by AMX, whose tiles hold 16 x 16 sums and add 32 products to each at a time.
#pragma once

#include <cstdint>

#include "isa.h"
#include "tile_kernels.h"

namespace faceattr {

inline bool has_matrix_products() {
  return cpu_isa() == Isa::amx_bf16;
}

constexpr int64_t kMatrixSide = 16, kMatrixDepth = 32;

// A stretch of the sums, `steps` times kMatrixDepth products long: of two times kMatrixSide rows, row_step
// elements apart, and two panels of columns, [depth / 2][kMatrixSide].
struct MatrixSegment {
  const BFloat16* rows[2];
  int64_t row_step[2];
  const BFloat16Pair* panels[2];
  int64_t steps;
};

// While there is one, tiles have the shapes that matrix_products takes, in this thread.
class MatrixShapes {
 public:
  MatrixShapes();
  ~MatrixShapes();
  MatrixShapes(const MatrixShapes&) = delete;
  MatrixShapes& operator=(const MatrixShapes&) = delete;

 private:
  alignas(64) uint8_t before_[64];
};

constexpr int64_t kMatrixSums = 2 * kMatrixSide;  // rows and columns
// sums[i * sums_step + j] = row i times column j, i and j < kMatrixSums, over all segments.
void matrix_products(const MatrixSegment* segments, int64_t count, float* sums, int64_t sums_step);

// to[i], rounded, = from[i] + add for i < kMatrixSums.
void round_sums(const float* from, float add, BFloat16* to);

// to[k * kMatrixSide + i] = {from[offsets[2 * k] + i], from[offsets[2 * k + 1] + i]} for i < count and k <
// pairs; count <= kMatrixSide.
void zip_sides(const BFloat16* from, const int64_t* offsets, int64_t pairs, int64_t count, BFloat16Pair* to);

}  // namespace faceattr
