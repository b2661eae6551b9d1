// The interweaved operation and its adjoint on the CPU: copies of elements of any dtype, told apart by size
// alone.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/strided.h"
#include "checks.h"

namespace faceattr {
namespace {

using torch::stable::parallel_for;

struct Element16 {
  uint64_t low, high;
};

// One row of the output at a time, in parallel; `s` are the strides of maps.
template <typename T>
void interweave_rows(const InterweaveGeometry& g, const T* maps, const int64_t* s, T* out) {
  const int64_t out_height = g.grid_height * g.blocks_y, out_width = g.grid_width * g.blocks_x;
  parallel_for(0, g.batch * g.channels * out_height, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / (g.channels * out_height), c = row / out_height % g.channels;
      const int64_t i = row % out_height / g.grid_height, p = row % g.grid_height;
      for (int64_t q = 0; q < g.grid_width; ++q) {
        const T* from = maps + n * s[0] + p * s[1] + q * s[2] + c * s[3] + (i + p * g.shift_y) * s[4] +
                        q * g.shift_x * s[5];
        T* to = out + row * out_width + q;
        for (int64_t j = 0; j < g.blocks_x; ++j) to[j * g.grid_width] = from[j * s[5]];
      }
    }
  });
}

template <typename T>
void adjoint_rows(const InterweaveGeometry& g, const T* grad, const int64_t* s, T* maps) {
  const int64_t rows = g.batch * g.grid_height * g.grid_width * g.channels * g.height;
  parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      int64_t rest = row;
      const int64_t y = rest % g.height;
      const int64_t c = (rest /= g.height) % g.channels;
      const int64_t q = (rest /= g.channels) % g.grid_width;
      const int64_t p = (rest /= g.grid_width) % g.grid_height;
      const int64_t n = rest / g.grid_height;
      const int64_t i = y - p * g.shift_y;
      T* to = maps + row * g.width;
      std::fill(to, to + g.width, T{});
      if (i < 0 || i >= g.blocks_y) continue;
      const T* from = grad + n * s[0] + c * s[1] + (i * g.grid_height + p) * s[2] + q * s[3];
      for (int64_t j = 0; j < g.blocks_x; ++j) to[j + q * g.shift_x] = from[j * g.grid_width * s[3]];
    }
  });
}

Tensor interweave(const Tensor& maps, const std::vector<int64_t>& shift) {
  const auto g = forward_geometry(maps, shift);
  Tensor out = empty({g.batch, g.channels, g.grid_height * g.blocks_y, g.grid_width * g.blocks_x}, maps);
  dispatch_element_size<Element16>(maps.element_size(), "interweave", [&](auto zero) {
    using T = decltype(zero);
    interweave_rows(g, static_cast<const T*>(maps.const_data_ptr()), maps.strides().data(),
                    static_cast<T*>(out.mutable_data_ptr()));
  });
  return out;
}

Tensor interweave_adjoint(const Tensor& grad, const std::vector<int64_t>& map_size,
                          const std::vector<int64_t>& grid, const std::vector<int64_t>& shift) {
  const auto g = adjoint_geometry(grad, map_size, grid, shift);
  Tensor maps = empty({g.batch, g.grid_height, g.grid_width, g.channels, g.height, g.width}, grad);
  dispatch_element_size<Element16>(grad.element_size(), "interweave_adjoint", [&](auto zero) {
    using T = decltype(zero);
    adjoint_rows(g, static_cast<const T*>(grad.const_data_ptr()), grad.strides().data(),
                 static_cast<T*>(maps.mutable_data_ptr()));
  });
  return maps;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(faceattr, CPU, m) {
  m.impl("interweave", TORCH_BOX(&interweave));
  m.impl("interweave_adjoint", TORCH_BOX(&interweave_adjoint));
}

}  // namespace faceattr
