// Memory from torch's allocator; where there is none, an error that says how much was asked for.
// faceattr/ops/_library.py puts the operator's name before it, and makes a torch.OutOfMemoryError of it on
// CUDA.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <exception>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "checks.h"

namespace faceattr {

[[noreturn]] inline void throw_out_of_memory(double bytes) {
  std::ostringstream message;
  message.precision(0);
  message << "out of memory, asked for " << std::fixed << bytes << " bytes";
  throw std::runtime_error(message.str());
}

inline size_t element_size(torch::headeronly::ScalarType dtype) {
  return aoti_torch_dtype_element_size(static_cast<int32_t>(dtype));
}

template <typename Allocate>
torch::stable::Tensor or_out_of_memory(const Allocate& allocate, const std::vector<int64_t>& sizes,
                                       size_t element_size) {
  try {
    return allocate();
  } catch (const std::exception&) {
    double bytes = element_size;  // more than an int64 holds may have been asked for
    for (int64_t size : sizes) bytes *= size;
    throw_out_of_memory(bytes);
  }
}

// Not initialised.
inline torch::stable::Tensor empty(const std::vector<int64_t>& sizes, const torch::stable::Tensor& like,
                                   torch::headeronly::ScalarType dtype, bool channels_last = false) {
  using torch::headeronly::MemoryFormat;
  const auto format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  return or_out_of_memory(
      [&] { return torch::stable::empty(sizes, dtype, std::nullopt, like.device(), std::nullopt, format); },
      sizes, element_size(dtype));
}

inline torch::stable::Tensor empty(const std::vector<int64_t>& sizes, const torch::stable::Tensor& like) {
  return empty(sizes, like, like.scalar_type());
}

inline torch::stable::Tensor empty_map(const std::vector<int64_t>& sizes, const torch::stable::Tensor& like,
                                       bool channels_last) {
  return empty(sizes, like, like.scalar_type(), channels_last);
}

inline std::vector<int64_t> sizes_of(const torch::stable::Tensor& t) {
  return {t.sizes().begin(), t.sizes().end()};
}

inline torch::stable::Tensor dense(const torch::stable::Tensor& t) {
  return or_out_of_memory([&] { return torch::stable::contiguous(t); }, sizes_of(t), t.element_size());
}

inline torch::stable::Tensor to(const torch::stable::Tensor& t, torch::headeronly::ScalarType dtype) {
  return or_out_of_memory([&] { return torch::stable::to(t, dtype); }, sizes_of(t), element_size(dtype));
}

}  // namespace faceattr
