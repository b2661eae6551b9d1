// Memory for what a kernel packs or keeps for itself.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "../common/memory.h"

namespace faceattr {

struct Free {
  void operator()(void* p) const { std::free(p); }
};
template <typename T>
using Buffer = std::unique_ptr<T[], Free>;

// Not initialised; starts on a cache line.
template <typename T>
Buffer<T> make_buffer(int64_t elements) {
  void* p = std::aligned_alloc(64, (elements * sizeof(T) / 64 + 1) * 64);
  if (!p) throw_out_of_memory(static_cast<double>(elements) * sizeof(T));
  return Buffer<T>(static_cast<T*>(p));
}

}  // namespace faceattr
