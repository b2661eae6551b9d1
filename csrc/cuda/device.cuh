// What the kernels use of CUDA beyond the language, in few functions, so that the kernels above them compile
// with g++ as well: there tests/emulator/emulator.h gives the same functions.
#pragma once

#include <cstdint>

#ifndef __CUDACC__
#include "emulator.h"
#endif

namespace faceattr::gpu {

#ifdef __CUDACC__

// What must be so; the emulator ends the program where it is not.
__device__ inline void expect(bool, const char*) {}

__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];
  return dynamic_shared_memory;
}

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ inline float half_to_float(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

__device__ inline uint16_t float_to_half(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

__device__ inline float bfloat16_to_float(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

__device__ inline uint16_t float_to_bfloat16(float value) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// Nearest, ties away from zero: mma.sync alone would cut the lower bits off.
__device__ inline float rounded_to_tf32(float value) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
  return __uint_as_float(rounded);
}

__device__ inline uint32_t float_bits(float value) {
  return __float_as_uint(value);
}

// Copies 16 bytes from global to shared memory in the background; zeros where not `valid` (`from` is not read
// then).
__device__ inline void copy_async_16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
               "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
               : "memory");
}

__device__ inline void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for this thread's copies but for the latest `kInFlight` groups.
template <int kInFlight>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kInFlight) : "memory");
}

// Four matrices of 8 rows of 16 bytes; matrix i's rows are named by lanes 8i .. 8i+7. Lane l gets of each the
// 32-bit word l%4 of row l/4.
__device__ inline void load_matrices(uint32_t (&result)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same of the transposed 8x8 matrices of 16-bit elements.
__device__ inline void load_matrices_transposed(uint32_t (&result)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
               : "r"(shared_address(row))
               : "memory");
}

// c += a b on the tensor cores; fragments as in the PTX ISA under mma.m16n8k16 and mma.m16n8k8.
#define FACEATTR_MULTIPLY(name, shape)                                                           \
  __device__ inline void name(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { \
    asm volatile("mma.sync.aligned." shape                                                       \
                 " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"              \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                \
  }
FACEATTR_MULTIPLY(multiply_half, "m16n8k16.row.col.f32.f16.f16.f32")
FACEATTR_MULTIPLY(multiply_bfloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
FACEATTR_MULTIPLY(multiply_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef FACEATTR_MULTIPLY

// Waits until the launch before this one is done and all that it wrote can be read.
__device__ inline void wait_for_launch_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the launch after this one start, once every block has said so or is done.
__device__ inline void let_next_launch_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif  // __CUDACC__

// --- Launches that start early (programmatic dependent launch; sm_90 and later)
//
// An operator's first launch starts when all before it in the stream is done. Each later one may start when
// every block of the launch before has come to its turn or is done, so that indices, lists and barriers are
// made while that ends. The rule:
//
//   - Before its turn a kernel uses its arguments and shared memory alone: it neither reads nor writes what
//     lies in global memory, nor asks for copies from there.
//   - Every thread of a launch's first block awaits its turn; another block may end before if it has nothing
//     to do. So no launch is done before the one before it, and whoever waits for the last waits for all: for
//     C the end of B is that of A.
//   - A kernel lets the next one start only at its own turn: no more than two are ever under way.
__device__ inline void await_turn() {
  wait_for_launch_before();
  let_next_launch_start();
}

// Stored numbers; sums are taken in accumulate_t.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <typename T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <typename T>
using accumulate_t = typename Accumulator<T>::type;

__device__ inline float widen(Half value) {
  return half_to_float(value.bits);
}
__device__ inline float widen(BFloat16 value) {
  return bfloat16_to_float(value.bits);
}
__device__ inline float widen(float value) {
  return value;
}
__device__ inline double widen(double value) {
  return value;
}

template <typename T>
__device__ T narrow(accumulate_t<T> value) {
  return value;
}
template <>
__device__ inline Half narrow<Half>(float value) {
  return {float_to_half(value)};
}
template <>
__device__ inline BFloat16 narrow<BFloat16>(float value) {
  return {float_to_bfloat16(value)};
}

// Takes the innermost digit off a mixed-radix index: index % extent, and index /= extent. In 32 bits where
// they suffice: a GPU divides 64-bit numbers in a hundred instructions.
__device__ inline int64_t take(int64_t& index, int64_t extent) {
  int64_t digit;
  if (index <= INT32_MAX && extent <= INT32_MAX) {
    const uint32_t small_index = static_cast<uint32_t>(index), small_extent = static_cast<uint32_t>(extent);
    const uint32_t quotient = small_index / small_extent;
    digit = small_index - quotient * small_extent;
    index = quotient;
  } else {
    digit = index % extent;
    index /= extent;
  }
  return digit;
}

// 16 bytes of elements, moved at once.
template <typename T>
struct alignas(16) Vector {
  T at[16 / sizeof(T)];
};

}  // namespace faceattr::gpu
