// From a tensor's dtype to a C++ type: dispatch_floating(dtype, op, [&](auto zero) { using T =
// decltype(zero); ... }).
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "checks.h"

namespace faceattr {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;

// Sums are taken in float32, in float64 for float64.
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

constexpr char kFloatingNeeded[] = ": input must be float64, float32, float16 or bfloat16";

inline void check_floating(const torch::stable::Tensor& tensor, const char* op) {
  const ScalarType dtype = tensor.scalar_type();
  check(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
            dtype == ScalarType::BFloat16,
        op, kFloatingNeeded);
}

template <typename F>
void dispatch_floating(ScalarType dtype, const char* op, const F& body) {
  switch (dtype) {
    case ScalarType::Float:
      return body(float{});
    case ScalarType::Double:
      return body(double{});
    case ScalarType::Half:
      return body(Half{});
    case ScalarType::BFloat16:
      return body(BFloat16{});
    default:
      check(false, op, kFloatingNeeded);
  }
}

}  // namespace faceattr
