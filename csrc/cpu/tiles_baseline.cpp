// The inner loops with what every machine has: 16-byte vectors (SSE2, NEON).
#include <utility>

#include "tile_kernels.h"

#define FACEATTR_ISA baseline
#define FACEATTR_TARGET
#define FACEATTR_VECTOR_BYTES 16
#define FACEATTR_REGISTERS 16
#include "tile_kernels_impl.h"
