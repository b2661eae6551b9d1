// The convolutions on CUDA tensors; instantiated once for each dtype, in convolution_<dtype>.cu.
#pragma once

#include "../common/strided.h"
#include "convolution.cuh"
#include "torch_device.h"

#define FACEATTR_CONVOLUTION(prefix, T)                                                                     \
  prefix template void convolve<T>(CudaDevice&, const Convolution&, const Map<const T>&, const Filters<T>&, \
                                   const T*, const Result<T>&, bool);                                       \
  prefix template void convolve_input_grad<T>(CudaDevice&, const Convolution&, const PackedMap<T>&,         \
                                              const PackedFilters<T>&, const Map<T>&, bool);                \
  prefix template void convolve_weight_grad<T>(CudaDevice&, const Convolution&, const PackedMap<T>&,        \
                                               const PackedMap<T>&, const WeightGrad<T>&, bool);

namespace faceattr::gpu {

FACEATTR_CONVOLUTION(extern, double)
FACEATTR_CONVOLUTION(extern, float)
FACEATTR_CONVOLUTION(extern, Half)
FACEATTR_CONVOLUTION(extern, BFloat16)

template <typename T>
Map<const T> read_map(const Tensor& t) {
  return {read_pointer<T>(t), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

template <typename T>
Map<T> write_map(const Tensor& t) {
  return {write_pointer<T>(t), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

// Filters [Gh, Gw, O, C, kh, kw] in an order that the kernels read.
class DenseFilters {
 public:
  explicit DenseFilters(const Tensor& weight)
      : channels_last_(!weight.is_contiguous() && is_dense_in_order(weight, {3, 2, 5, 4, 1, 0})),
        weight_(channels_last_ ? weight : torch::stable::contiguous(weight)) {}

  template <typename T>
  Filters<T> read() const {
    return {read_pointer<T>(weight_), channels_last_};
  }
  bool channels_last() const { return channels_last_; }

  // A gradient laid out as the filters are read.
  Tensor empty_grad() const {
    if (!channels_last_) return torch::stable::new_empty(weight_, weight_.sizes());
    const auto size = [&](int64_t dimension) { return weight_.size(dimension); };
    const std::vector<int64_t> sizes{size(0), size(1), size(4), size(5), size(2), size(3)};
    return torch::stable::transpose(torch::stable::transpose(torch::stable::new_empty(weight_, sizes), 2, 4),
                                    3, 5);
  }

 private:
  bool channels_last_;
  Tensor weight_;
};

// Whether torch lets the float32 products of a convolution be taken as TF32, at this moment, as its own do.
// The stable ABI has no such question; faceattr/ops/_library.py answers it through the dispatcher.
inline bool tf32_allowed(const Tensor& tensor) {
  if (tensor.scalar_type() != ScalarType::Float) return false;
  StableIValue answer[1];
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("faceattr::tf32_allowed", "", answer, TORCH_ABI_VERSION));
  return torch::stable::detail::to<bool>(answer[0]);
}

}  // namespace faceattr::gpu
