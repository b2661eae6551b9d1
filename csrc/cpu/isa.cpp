#include "isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <string>

#include "../common/checks.h"

namespace faceattr {
namespace {

#if defined(__x86_64__)
// Not every compiler's __builtin_cpu_supports knows it.
bool supports_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

bool supported(Isa isa) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && supports_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (isa == Isa::avx512_bf16) return avx512 && __builtin_cpu_supports("avx512bf16");
  if (isa == Isa::avx512) return avx512;
  if (isa == Isa::avx2) return avx2;
#endif
  return isa == Isa::baseline;
}

Isa choose() {
  const struct {
    const char* name;
    Isa isa;
  } levels[] = {{"avx512_bf16", Isa::avx512_bf16},
                {"avx512", Isa::avx512},
                {"avx2", Isa::avx2},
                {"baseline", Isa::baseline}};
  const char* forced = std::getenv("FACEATTR_CPU_ISA");
  for (const auto& level : levels) {
    if (!forced && supported(level.isa)) return level.isa;
    if (!forced || std::string(forced) != level.name) continue;
    check(supported(level.isa), "FACEATTR_CPU_ISA is ", forced,
          ", which this machine does not have; unset it");
    return level.isa;
  }
  check(false, "FACEATTR_CPU_ISA is '", forced, "', it must be baseline, avx2, avx512 or avx512_bf16");
  return Isa::baseline;
}

}  // namespace

Isa cpu_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace faceattr
