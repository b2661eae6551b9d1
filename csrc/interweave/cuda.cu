// The interweaved operation and its adjoint on CUDA tensors: elements of any dtype, told apart by size alone.
#include "../cuda/torch_device.h"
#include "checks.h"
#include "kernels.cuh"

namespace faceattr {
namespace {

Tensor interweave(const Tensor& maps, const std::vector<int64_t>& shift) {
  const auto g = forward_geometry(maps, shift);
  gpu::CudaDevice device(maps);
  Tensor out = torch::stable::new_empty(
      maps, std::vector<int64_t>{g.batch, g.channels, g.grid_height * g.blocks_y, g.grid_width * g.blocks_x});
  const gpu::MapsStrides strides{maps.stride(0), maps.stride(1), maps.stride(2),
                                 maps.stride(3), maps.stride(4), maps.stride(5)};
  dispatch_element_size<gpu::Element16>(maps.element_size(), "interweave", [&](auto zero) {
    using T = decltype(zero);
    gpu::interweave_forward<T>(device, g, gpu::read_pointer<T>(maps), strides, gpu::write_pointer<T>(out));
  });
  return out;
}

Tensor interweave_adjoint(const Tensor& grad, const std::vector<int64_t>& map_size,
                          const std::vector<int64_t>& grid, const std::vector<int64_t>& shift) {
  const auto g = adjoint_geometry(grad, map_size, grid, shift);
  gpu::CudaDevice device(grad);
  Tensor maps = torch::stable::new_empty(
      grad, std::vector<int64_t>{g.batch, g.grid_height, g.grid_width, g.channels, g.height, g.width});
  dispatch_element_size<gpu::Element16>(grad.element_size(), "interweave_adjoint", [&](auto zero) {
    using T = decltype(zero);
    gpu::interweave_backward<T>(device, g, gpu::read_pointer<T>(grad), grad.strides().data(),
                                gpu::write_pointer<T>(maps));
  });
  return maps;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(faceattr, CUDA, m) {
  m.impl("interweave", TORCH_BOX(&interweave));
  m.impl("interweave_adjoint", TORCH_BOX(&interweave_adjoint));
}

}  // namespace faceattr
