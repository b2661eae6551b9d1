// The inner loops with AVX2, FMA and F16C.
#if defined(__x86_64__)

#include <immintrin.h>

#include <utility>

#include "tile_kernels.h"

#define FACEATTR_ISA avx2
#define FACEATTR_TARGET __attribute__((target("avx2,fma,f16c")))
#define FACEATTR_VECTOR_BYTES 32
#define FACEATTR_REGISTERS 16
#include "tile_kernels_impl.h"

#endif
