// Density peaks of CUDA tensors.
#include "../cuda/torch_device.h"
#include "kernels.cuh"

namespace faceattr {
namespace {

std::tuple<gpu::Tensor, gpu::Tensor> density_peaks(const gpu::Tensor& density, double threshold) {
  const char* op = "density_peaks";
  check(density.dim() >= 2, op, ": density has shape ", shape_text(density.sizes()),
        ", it must be [..., H, W]");
  const int64_t height = density.size(density.dim() - 2), width = density.size(density.dim() - 1);
  const int64_t area = height * width, maps = area > 0 ? density.numel() / area : 0;
  gpu::CudaDevice device(density);
  const auto dense = torch::stable::contiguous(density);
  const auto dtype = density.scalar_type();
  auto distance = torch::stable::new_empty(
      dense, density.sizes(), dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float);
  auto parent = torch::stable::new_empty(dense, density.sizes(), ScalarType::Long);
  gpu::dispatch_kernel_type(dtype, op, [&](auto zero) {
    using T = decltype(zero);
    gpu::density_peaks<T>(device, maps, height, width, gpu::read_pointer<T>(dense), threshold,
                          gpu::write_pointer<gpu::accumulate_t<T>>(distance),
                          gpu::write_pointer<int64_t>(parent));
  });
  return {distance, parent};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(faceattr, CUDA, m) {
  m.impl("density_peaks", TORCH_BOX(&density_peaks));
}

}  // namespace faceattr
