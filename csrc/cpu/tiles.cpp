// Hands out the inner loops of the chosen instruction set.
#include <cstdlib>

#include "isa.h"
#include "tile_kernels.h"

namespace faceattr {

namespace baseline {
template <typename T>
const TileKernels<T>& kernels();
}
#if defined(__x86_64__)
namespace avx2 {
template <typename T>
const TileKernels<T>& kernels();
}
namespace avx512 {
template <typename T>
const TileKernels<T>& kernels();
}
namespace avx512_bf16 {
template <typename T>
const TileKernels<T>& kernels();
}
#endif

template <typename T>
const TileKernels<T>& tile_kernels() {
#if defined(__x86_64__)
  if (cpu_isa() >= Isa::avx512) return avx512::kernels<T>();
  if (cpu_isa() == Isa::avx2) return avx2::kernels<T>();
#endif
  return baseline::kernels<T>();
}

bool has_pair_products() {
  return cpu_isa() >= Isa::avx512_bf16;
}

template <>
const TileKernels<BFloat16Pair>& tile_kernels<BFloat16Pair>() {
#if defined(__x86_64__)
  return avx512_bf16::kernels<BFloat16Pair>();
#else
  std::abort();  // nothing has pair products there
#endif
}
template const TileKernels<float>& tile_kernels<float>();
template const TileKernels<double>& tile_kernels<double>();
template const TileKernels<Half>& tile_kernels<Half>();
template const TileKernels<BFloat16>& tile_kernels<BFloat16>();

}  // namespace faceattr
