#include "isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
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

// Linux lends a process the tiles' registers where it asks for them.
bool supports_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr unsigned bf16 = 1u << 22, tile = 1u << 24;
  constexpr long request_permission = 0x1023, tile_data = 18;
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & bf16) && (d & tile) &&
         syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}
#endif

bool supported(Isa isa) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && supports_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (isa == Isa::amx_bf16) return supported(Isa::avx512_bf16) && supports_amx();
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
  } levels[] = {{"amx_bf16", Isa::amx_bf16},
                {"avx512_bf16", Isa::avx512_bf16},
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
  check(false, "FACEATTR_CPU_ISA is '", forced,
        "', it must be baseline, avx2, avx512, avx512_bf16 or amx_bf16");
  return Isa::baseline;
}

}  // namespace

Isa cpu_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace faceattr
