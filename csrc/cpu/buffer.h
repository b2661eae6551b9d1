// Memory for what a kernel packs or keeps for itself.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "../common/memory.h"

namespace faceattr {

struct Free {
  void operator()(void* p) const { std::free(p); }
};
template <typename T>
using Buffer = std::unique_ptr<T[], Free>;

// Not initialised; starts on a cache line, a large one on a huge page: the kernel hands these out faster, and
// kernels that stride over them miss fewer translations.
template <typename T>
Buffer<T> make_buffer(int64_t elements) {
  constexpr size_t huge_page = 2 << 20;
  const size_t bytes = (elements * sizeof(T) / 64 + 1) * 64;
  const bool large = bytes >= 2 * huge_page;
#ifdef __linux__
  void* p = std::aligned_alloc(large ? huge_page : 64, bytes);
  if (p && large) madvise(p, bytes / huge_page * huge_page, MADV_HUGEPAGE);
#else
  void* p = std::aligned_alloc(64, bytes);
#endif
  if (!p) throw_out_of_memory(static_cast<double>(elements) * sizeof(T));
  return Buffer<T>(static_cast<T*>(p));
}

}  // namespace faceattr
