// A tensor read in place, whatever its strides.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <type_traits>
#include <vector>

#include "memory.h"

namespace faceattr {

// A map [N, C, H, W]; strides in elements.
template <typename T>
struct Strided4 {
  T* data;
  int64_t n, c, h, w;

  T& operator()(int64_t i, int64_t j, int64_t y, int64_t x) const {
    return data[i * n + j * c + y * h + x * w];
  }
};

// An empty tensor has no memory, but offsets are still added to its pointer: any but null will do.
template <typename T>
T* not_null(T* data) {
  static std::remove_const_t<T> unused;
  return data ? data : &unused;
}

template <typename T>
Strided4<const T> read4(const torch::stable::Tensor& t) {
  return {not_null(t.const_data_ptr<T>()), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

template <typename T>
Strided4<T> write4(const torch::stable::Tensor& t) {
  return {not_null(t.mutable_data_ptr<T>()), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

// Dense with its dimensions in this order, the fastest first.
inline bool is_dense_in_order(const torch::stable::Tensor& t, std::initializer_list<int64_t> dimensions) {
  int64_t expected = 1;
  for (int64_t d : dimensions) {
    if (t.size(d) != 1 && t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

// Dense in the order N, H, W, C and not also dense in the order N, C, H, W: such an input gives such an
// output.
inline bool is_channels_last(const torch::stable::Tensor& t) {
  return !t.is_contiguous() && is_dense_in_order(t, {1, 3, 2, 0});
}

}  // namespace faceattr
