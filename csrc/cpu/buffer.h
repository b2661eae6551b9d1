// Memory for what a kernel packs or keeps for itself.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "../common/memory.h"

namespace faceattr {

constexpr size_t kHugePage = 2 << 20;

struct Free {
  std::align_val_t alignment{};
  void operator()(void* p) const { ::operator delete(p, alignment); }
};
template <typename T>
using Buffer = std::unique_ptr<T[], Free>;

// Not initialised; starts on a cache line, a large one on a huge page: the kernel hands these out faster, and
// kernels that stride over them miss fewer translations.
template <typename T>
Buffer<T> make_buffer(int64_t elements) {
  const size_t bytes = (elements * sizeof(T) / 64 + 1) * 64;
  const bool large = bytes >= 2 * kHugePage;
  const std::align_val_t alignment{large ? kHugePage : 64};
  void* p = ::operator new(bytes, alignment, std::nothrow);
  if (!p) throw_out_of_memory(static_cast<double>(elements) * sizeof(T));
#ifdef __linux__
  if (large) madvise(p, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return Buffer<T>(static_cast<T*>(p), Free{alignment});
}

}  // namespace faceattr
