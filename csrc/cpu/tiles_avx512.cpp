// The inner loops with AVX-512.
#if defined(__x86_64__)

#include <immintrin.h>

#include <utility>

#include "tile_kernels.h"

#define FACEATTR_ISA avx512
#define FACEATTR_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define FACEATTR_VECTOR_BYTES 64
#define FACEATTR_REGISTERS 32
#include "tile_kernels_impl.h"

#endif
