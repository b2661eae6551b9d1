// One wording for errors: "operator: what came, what is needed", raised in Python as RuntimeError.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace faceattr {

template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

template <typename Sizes>
std::string shape_text(const Sizes& sizes) {
  std::ostringstream text;
  text << "[";
  for (size_t i = 0; i < sizes.size(); ++i) text << (i ? ", " : "") << sizes[i];
  text << "]";
  return text.str();
}

inline void check_dim(const torch::stable::Tensor& tensor, int64_t dim, const char* op, const char* name,
                      const char* layout) {
  check(tensor.dim() == dim, op, ": ", name, " has shape ", shape_text(tensor.sizes()), ", it must be ",
        layout);
}

inline void check_pair(const std::vector<int64_t>& pair, int64_t least, const char* op, const char* name) {
  check(pair.size() == 2, op, ": ", name, " has ", pair.size(), " values, it must have 2");
  const int64_t most = INT32_MAX;  // products of two such values never overflow int64
  check(std::min(pair[0], pair[1]) >= least && std::max(pair[0], pair[1]) <= most, op, ": ", name, " is (",
        pair[0], ", ", pair[1], "), both values must be at least ", least, " and at most ", most);
}

inline void check_like(const torch::stable::Tensor& tensor, const torch::stable::Tensor& input,
                       const char* op, const char* name) {
  check(tensor.scalar_type() == input.scalar_type(), op, ": ", name,
        " and input have different dtypes, convert one to the other's");
  check(tensor.device() == input.device(), op, ": ", name,
        " and input are on different devices, move one to the other's");
}

}  // namespace faceattr
