// Density peaks on the CPU: for each foreground position the nearest one of strictly higher density.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>

#include "../common/dtypes.h"

namespace faceattr {
namespace {

using torch::stable::Tensor;

template <typename T, typename D>
void search(const T* density, int64_t height, int64_t width, double threshold, D* distance, int64_t* parent) {
  const D farthest = static_cast<D>(std::sqrt(static_cast<double>(height * height + width * width)));
  for (int64_t i = 0; i < height * width; ++i) {
    const T own = density[i];
    distance[i] = 0;
    parent[i] = -1;
    if (!(static_cast<double>(own) > threshold)) continue;
    int64_t nearest = INT64_MAX;
    for (int64_t j = 0; j < height * width; ++j) {
      if (!(density[j] > own)) continue;
      const int64_t dy = j / width - i / width, dx = j % width - i % width, squared = dy * dy + dx * dx;
      if (squared >= nearest) continue;
      nearest = squared;
      parent[i] = j;
    }
    distance[i] = parent[i] < 0 ? farthest : static_cast<D>(std::sqrt(static_cast<double>(nearest)));
  }
}

std::tuple<Tensor, Tensor> density_peaks(const Tensor& density, double threshold) {
  const char* op = "density_peaks";
  check(density.dim() >= 2, op, ": density has shape ", shape_text(density.sizes()),
        ", it must be [..., H, W]");
  const int64_t height = density.size(density.dim() - 2), width = density.size(density.dim() - 1);
  const int64_t area = height * width, maps = area > 0 ? density.numel() / area : 0;
  const Tensor dense = torch::stable::contiguous(density);
  const auto dtype = density.scalar_type();
  Tensor distance = torch::stable::new_empty(
      dense, density.sizes(), dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float);
  Tensor parent = torch::stable::new_empty(dense, density.sizes(), ScalarType::Long);
  dispatch_floating(dtype, op, [&](auto zero) {
    using T = decltype(zero);
    using D = accumulate_t<T>;
    torch::stable::parallel_for(0, maps, 1, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) {
        const int64_t at = m * area;
        search(dense.const_data_ptr<T>() + at, height, width, threshold, distance.mutable_data_ptr<D>() + at,
               parent.mutable_data_ptr<int64_t>() + at);
      }
    });
  });
  return {distance, parent};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(faceattr, CPU, m) {
  m.impl("density_peaks", TORCH_BOX(&density_peaks));
}

}  // namespace faceattr
