// The inner loops of products of pairs, with AVX-512 BF16.
#if defined(__x86_64__)

#include <immintrin.h>

#include <utility>

#include "tile_kernels.h"

#define FACEATTR_ISA avx512_bf16
#define FACEATTR_TARGET __attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define FACEATTR_VECTOR_BYTES 64
#define FACEATTR_REGISTERS 32
#define FACEATTR_PAIRS
#include "tile_kernels_impl.h"

#endif
