// An operator's launches: which may start early, and portions where there are more blocks than a grid holds.
#pragma once

#include <algorithm>
#include <cstdint>

namespace faceattr::gpu {

class Launches {
 public:
  // Calls f(first block, blocks, whether it may start early) for portions of at most `most` of a kernel's
  // blocks. By the rule in device.cuh all may but an operator's first launch and a kernel's later portions:
  // those may consist of blocks that have nothing to do and await nothing.
  template <typename F>
  void in_portions(int64_t blocks, int64_t most, const F& f) {
    for (int64_t first = 0; first < blocks; first += most) {
      const bool early = any_ && first == 0;
      any_ = true;
      f(first, std::min(blocks - first, most), early);
    }
  }

 private:
  bool any_ = false;  // so far
};

}  // namespace faceattr::gpu
