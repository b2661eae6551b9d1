// Runs CUDA kernels on the CPU: a fibre for each CUDA thread, one block at a time, deterministic. Of a launch
// that may start early the first block runs up to its turn before anything of the launch before it does.
//
// csrc/cuda/device.cuh includes this where nvcc does not compile it. It stands in for what the kernels use
// of CUDA: built-in indices, barriers, shuffles, shared memory, cp.async, ldmatrix and mma.sync. Faults of a
// kernel end the program with a message: a barrier that not all threads reach, a lane outside its mask. Bad
// addresses are left to AddressSanitizer, races to ThreadSanitizer, which is told that the fibres are threads
// that only barriers order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static

// Functions that look into the variables of other fibres, as the hardware does; not a race of the kernel's.
#define EMULATOR_UNCHECKED __attribute__((no_sanitize_thread, noinline))

namespace emulator {

struct Index {
  unsigned x, y, z;
};

// Copies that a thread has asked for and not yet waited for.
struct PendingCopies {
  struct Copy {
    void* to;
    const void* from;
    int bytes;
    bool valid;
  };
  Copy copies[512];
  int group_end[32];  // copies before it belong to the groups so far
  int count, groups;
};

// Current thread's; set by the scheduler.
extern Index thread_index, block_index, block_size, grid_size;
extern PendingCopies* pending_copies;
extern unsigned char* block_shared_memory;
extern size_t most_shared_bytes;  // that a block may ask for

// Takes a launch; what of it is not done when this returns is so after the next, or after synchronize().
void begin(int64_t blocks, int threads, size_t shared_bytes, bool may_start_early,
           std::function<void()> kernel);
void synchronize();
void wait_for_launch_before();
void let_next_launch_start();
void block_barrier();
void warp_barrier(unsigned mask);
[[noreturn]] void fail(const char* message);

// Waits until every lane of `mask` is here, then lets one of them do `operation` for all: lanes[i] is lane
// i's `own`.
void collective(unsigned mask, void* own, void (*operation)(void** lanes, unsigned mask));

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared_bytes,
            bool may_start_early, const Arguments&... arguments) {
  begin(blocks, threads, shared_bytes, may_start_early, [=] { kernel(arguments...); });
}

inline int lane() {
  return thread_index.x % 32;
}

template <typename T>
struct Shuffle {
  T value, result;
  int source;

  EMULATOR_UNCHECKED static void exchange(void** lanes, unsigned mask) {
    for (int i = 0; i < 32; ++i) {
      if (!(mask >> i & 1)) continue;
      auto* own = static_cast<Shuffle*>(lanes[i]);
      if (!(mask >> own->source & 1)) fail("a shuffle reads from a lane outside its mask");
      own->result = static_cast<Shuffle*>(lanes[own->source])->value;
    }
  }
};

template <typename T>
T shuffle(unsigned mask, T value, int source) {
  Shuffle<T> own{value, value, source};
  collective(mask, &own, Shuffle<T>::exchange);
  return own.result;
}

}  // namespace emulator

inline const emulator::Index &threadIdx = emulator::thread_index, &blockIdx = emulator::block_index,
                             &blockDim = emulator::block_size, &gridDim = emulator::grid_size;

inline void __syncthreads() {
  emulator::block_barrier();
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  emulator::warp_barrier(mask);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  return emulator::shuffle(mask, value, emulator::lane() ^ distance);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
  return emulator::shuffle(mask, value, source % 32);
}

inline unsigned __ballot_sync(unsigned mask, bool vote) {
  struct Ballot {
    bool vote;
    unsigned result;

    EMULATOR_UNCHECKED static void count(void** lanes, unsigned mask) {
      unsigned votes = 0;
      for (int i = 0; i < 32; ++i)
        if (mask >> i & 1) votes |= static_cast<unsigned>(static_cast<Ballot*>(lanes[i])->vote) << i;
      for (int i = 0; i < 32; ++i)
        if (mask >> i & 1) static_cast<Ballot*>(lanes[i])->result = votes;
    }
  } own{vote, 0};
  emulator::collective(mask, &own, Ballot::count);
  return own.result;
}

inline int __popc(unsigned bits) {
  return __builtin_popcount(bits);
}

namespace faceattr::gpu {

using std::isnan;
using std::max;
using std::min;

inline void expect(bool is_so, const char* message) {
  if (!is_so) emulator::fail(message);
}

inline unsigned char* shared_memory() {
  return emulator::block_shared_memory;
}

inline void wait_for_launch_before() {
  if (emulator::pending_copies->count > 0) emulator::fail("copies are asked for before the launch's turn");
  emulator::wait_for_launch_before();
}

inline void let_next_launch_start() {
  emulator::let_next_launch_start();
}

// --- 16-bit floating point

inline float half_to_float(uint16_t bits) {
  _Float16 value;
  std::memcpy(&value, &bits, 2);
  return static_cast<float>(value);
}

inline uint16_t float_to_half(float value) {
  const _Float16 rounded = static_cast<_Float16>(value);
  uint16_t bits;
  std::memcpy(&bits, &rounded, 2);
  return bits;
}

inline uint16_t float_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (value != value) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

// Nearest, ties away from zero; the lower 13 bits are dropped.
inline float rounded_to_tf32(float value) {
  uint32_t bits = float_bits(value);
  if ((bits & 0x7f800000) != 0x7f800000) bits += 0x1000;
  bits &= 0xffffe000;
  std::memcpy(&value, &bits, 4);
  return value;
}

// --- Asynchronous copies: the bytes arrive only when they are waited for. Until then the place holds
// garbage, written at once so that a reader who is not yet done with it is found out.

inline void copy_async_16(void* to, const void* from, bool valid) {
  auto& pending = *emulator::pending_copies;
  if (pending.count == 512) emulator::fail("more than 512 copies in flight in one thread");
  if (reinterpret_cast<uintptr_t>(to) % 16 || reinterpret_cast<uintptr_t>(from) % 16)
    emulator::fail("an asynchronous copy is not aligned to 16 bytes");
  auto* words = static_cast<uint64_t*>(to);
  words[0] = words[1] = 0xffffffffffffffffu;
  pending.copies[pending.count++] = {to, from, 16, valid};
}

inline void copy_async_commit() {
  auto& pending = *emulator::pending_copies;
  if (pending.groups == 32) emulator::fail("more than 32 groups of copies in flight in one thread");
  pending.group_end[pending.groups++] = pending.count;
}

template <int kInFlight>
void copy_async_wait() {
  auto& pending = *emulator::pending_copies;
  const int done = pending.groups - kInFlight;
  if (done <= 0) return;
  const int end = pending.group_end[done - 1];
  for (int i = 0; i < end; ++i) {
    const auto& copy = pending.copies[i];
    auto* to = static_cast<uint64_t*>(copy.to);
    const auto* from = static_cast<const uint64_t*>(copy.from);
    to[0] = copy.valid ? from[0] : 0;
    to[1] = copy.valid ? from[1] : 0;
  }
  for (int i = end; i < pending.count; ++i) pending.copies[i - end] = pending.copies[i];
  for (int i = done; i < pending.groups; ++i) pending.group_end[i - done] = pending.group_end[i] - end;
  pending.count -= end;
  pending.groups -= done;
}

// --- Matrix fragments (PTX ISA, "Matrix Fragments for mma.m16n8k16" and "ldmatrix")

struct MatrixLoad {
  uint32_t row[4], result[4];

  // Matrix i consists of the rows that lanes 8i..8i+7 name. Lane l gets of each the words 2(l%4), 2(l%4)+1 of
  // row l/4.
  EMULATOR_UNCHECKED static void spread(void** lanes, unsigned) {
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 4; ++i)
        static_cast<MatrixLoad*>(lanes[l])->result[i] =
            static_cast<MatrixLoad*>(lanes[8 * i + l / 4])->row[l % 4];
  }

  EMULATOR_UNCHECKED static uint32_t half_word(const MatrixLoad* row, int index) {
    return row->row[index / 2] >> 16 * (index % 2) & 0xffff;
  }

  EMULATOR_UNCHECKED static void spread_transposed(void** lanes, unsigned) {
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 4; ++i)
        static_cast<MatrixLoad*>(lanes[l])->result[i] =
            half_word(static_cast<MatrixLoad*>(lanes[8 * i + 2 * (l % 4)]), l / 4) |
            half_word(static_cast<MatrixLoad*>(lanes[8 * i + 2 * (l % 4) + 1]), l / 4) << 16;
  }
};

inline void load_matrices_with(uint32_t (&result)[4], const void* row, void (*operation)(void**, unsigned)) {
  if (reinterpret_cast<uintptr_t>(row) % 16) emulator::fail("a row of ldmatrix is not aligned to 16 bytes");
  MatrixLoad load;
  for (int i = 0; i < 4; ++i) load.row[i] = static_cast<const uint32_t*>(row)[i];
  emulator::collective(0xffffffffu, &load, operation);
  for (int i = 0; i < 4; ++i) result[i] = load.result[i];
}

inline void load_matrices(uint32_t (&result)[4], const void* row) {
  load_matrices_with(result, row, MatrixLoad::spread);
}

inline void load_matrices_transposed(uint32_t (&result)[4], const void* row) {
  load_matrices_with(result, row, MatrixLoad::spread_transposed);
}

template <float (*kConvert)(uint16_t)>
struct Multiply16 {
  float c[4];
  uint32_t a[4], b[2];

  EMULATOR_UNCHECKED static void apply(void** lanes, unsigned) {
    float left[16][16], right[16][8];
    for (int l = 0; l < 32; ++l) {
      const auto* own = static_cast<Multiply16*>(lanes[l]);
      for (int i = 0; i < 8; ++i) {
        const uint16_t bits = own->a[i / 2] >> 16 * (i % 2) & 0xffff;
        left[l / 4 + i / 2 % 2 * 8][l % 4 * 2 + i % 2 + i / 4 * 8] = kConvert(bits);
      }
      for (int i = 0; i < 4; ++i) {
        const uint16_t bits = own->b[i / 2] >> 16 * (i % 2) & 0xffff;
        right[l % 4 * 2 + i % 2 + i / 2 * 8][l / 4] = kConvert(bits);
      }
    }
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 4; ++i) {
        float& sum = static_cast<Multiply16*>(lanes[l])->c[i];
        for (int k = 0; k < 16; ++k) sum += left[l / 4 + i / 2 * 8][k] * right[k][l % 4 * 2 + i % 2];
      }
  }
};

struct MultiplyTf32 {
  float c[4];
  uint32_t a[4], b[2];

  EMULATOR_UNCHECKED static float value(uint32_t bits) {
    union {
      uint32_t bits;
      float value;
    } word{bits & 0xffffe000};
    return word.value;
  }

  EMULATOR_UNCHECKED static void apply(void** lanes, unsigned) {
    float left[16][8], right[8][8];
    for (int l = 0; l < 32; ++l) {
      const auto* own = static_cast<MultiplyTf32*>(lanes[l]);
      for (int i = 0; i < 4; ++i) left[l / 4 + i % 2 * 8][l % 4 + i / 2 * 4] = value(own->a[i]);
      for (int i = 0; i < 2; ++i) right[l % 4 + i * 4][l / 4] = value(own->b[i]);
    }
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 4; ++i) {
        float& sum = static_cast<MultiplyTf32*>(lanes[l])->c[i];
        for (int k = 0; k < 8; ++k) sum += left[l / 4 + i / 2 * 8][k] * right[k][l % 4 * 2 + i % 2];
      }
  }
};

template <typename Operation>
void multiply_with(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  Operation own{{c[0], c[1], c[2], c[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  emulator::collective(0xffffffffu, &own, Operation::apply);
  for (int i = 0; i < 4; ++i) c[i] = own.c[i];
}

inline float bfloat16_to_float(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

inline void multiply_half(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply_with<Multiply16<half_to_float>>(c, a, b0, b1);
}

inline void multiply_bfloat16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply_with<Multiply16<bfloat16_to_float>>(c, a, b0, b1);
}

inline void multiply_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply_with<MultiplyTf32>(c, a, b0, b1);
}

}  // namespace faceattr::gpu
