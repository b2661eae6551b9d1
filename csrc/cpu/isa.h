// Which instruction set the CPU kernels use: the best that the machine has, or the one that FACEATTR_CPU_ISA
// names.
#pragma once

namespace faceattr {

enum class Isa { baseline, avx2, avx512, avx512_bf16, amx_bf16 };

// Chosen at the first call; throws std::runtime_error where FACEATTR_CPU_ISA asks for what is not there.
Isa cpu_isa();

}  // namespace faceattr
