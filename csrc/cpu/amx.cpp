#include "amx.h"

#include <cstring>

#if defined(__x86_64__)

#include <immintrin.h>

#define FACEATTR_ISA amx_bf16
#define FACEATTR_TARGET \
  __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define FACEATTR_VECTOR_BYTES 64
#include "registers_impl.h"

namespace faceattr {
namespace {

struct alignas(64) Shapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(Shapes) == 64);
// GCC believes that loading them reads eight bytes alone, and would not write the rest of a local variable.
const Shapes kShapes;

FACEATTR_TARGET void use(const void* shapes) {
  _tile_loadconfig(shapes);
}

FACEATTR_TARGET void store(void* shapes) {
  _tile_storeconfig(shapes);
}

}  // namespace

MatrixShapes::MatrixShapes() {
  store(before_);
  use(&kShapes);
}

// Other libraries take for granted what they have set.
MatrixShapes::~MatrixShapes() {
  use(before_);
}

FACEATTR_TARGET void matrix_products(const MatrixSegment* segments, int64_t count, float* sums,
                                     int64_t sums_step) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t s = 0; s < count; ++s) {
    const MatrixSegment& at = segments[s];
    const int64_t size = sizeof(BFloat16), row_bytes[2] = {at.row_step[0] * size, at.row_step[1] * size};
    for (int64_t i = 0; i < at.steps; ++i) {
      const int64_t down = i * kMatrixDepth / 2 * kMatrixSide;
      _tile_loadd(4, at.rows[0] + i * kMatrixDepth, row_bytes[0]);
      _tile_loadd(6, at.panels[0] + down, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, at.panels[1] + down, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, at.rows[1] + i * kMatrixDepth, row_bytes[1]);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  const int64_t row_bytes = sums_step * sizeof(float);
  _tile_stored(0, sums, row_bytes);
  _tile_stored(1, sums + kMatrixSide, row_bytes);
  _tile_stored(2, sums + kMatrixSide * sums_step, row_bytes);
  _tile_stored(3, sums + kMatrixSide * sums_step + kMatrixSide, row_bytes);
}

FACEATTR_TARGET void round_sums(const float* from, float add, BFloat16* to) {
  using amx_bf16::Register;
  for (int64_t i = 0; i < kMatrixSums; i += amx_bf16::kLanes<float>)
    amx_bf16::Convert<BFloat16>::store(to + i, amx_bf16::load_vector<Register<float>>(from + i) + add);
}

FACEATTR_TARGET void zip_sides(const BFloat16* from, const int64_t* offsets, int64_t pairs, int64_t count,
                               BFloat16Pair* to) {
  const __mmask16 here = (1u << count) - 1;
  for (int64_t k = 0; k < pairs; ++k, to += kMatrixSide) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(here, from + offsets[2 * k]));
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(here, from + offsets[2 * k + 1]));
    _mm512_mask_storeu_epi32(to, here, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }
}

}  // namespace faceattr

#else

#include <cstdlib>

namespace faceattr {

// Nothing has matrix products there.
MatrixShapes::MatrixShapes() {
  std::abort();
}
MatrixShapes::~MatrixShapes() {
  std::abort();
}
void matrix_products(const MatrixSegment*, int64_t, float*, int64_t) {
  std::abort();
}
void round_sums(const float*, float, BFloat16*) {
  std::abort();
}
void zip_sides(const BFloat16*, const int64_t*, int64_t, int64_t, BFloat16Pair*) {
  std::abort();
}

}  // namespace faceattr

#endif
