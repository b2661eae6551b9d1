// The interweaved operation and its adjoint on the GPU: a thread an element written, elements told apart by
// size alone.
#pragma once

#include "../cuda/device.cuh"
#include "geometry.h"

namespace faceattr::gpu {

struct alignas(16) Element16 {
  uint64_t low, high;
};

constexpr int kInterweaveThreads = 256;

// Strides of maps [N, Gh, Gw, C, H, W].
struct MapsStrides {
  int64_t n, p, q, c, y, x;
};

template <typename T>
__global__ void __launch_bounds__(kInterweaveThreads, 6)
    interweave(const __grid_constant__ InterweaveGeometry g, const T* maps,
               const __grid_constant__ MapsStrides s, T* out, int64_t first_block) {
  const int64_t index = (first_block + blockIdx.x) * blockDim.x + threadIdx.x;
  int64_t n = index;
  const int64_t q = take(n, g.grid_width), j = take(n, g.blocks_x), p = take(n, g.grid_height),
                i = take(n, g.blocks_y);
  const int64_t c = take(n, g.channels);
  if (n >= g.batch) return;
  out[index] =
      maps[n * s.n + p * s.p + q * s.q + c * s.c + (i + p * g.shift_y) * s.y + (j + q * g.shift_x) * s.x];
}

// Each element of the maps went to one place or to none.
template <typename T>
__global__ void __launch_bounds__(kInterweaveThreads, 6)
    interweave_adjoint(const __grid_constant__ InterweaveGeometry g, const T* grad, int64_t stride_n,
                       int64_t stride_c, int64_t stride_y, int64_t stride_x, T* maps, int64_t first_block) {
  const int64_t index = (first_block + blockIdx.x) * blockDim.x + threadIdx.x;
  int64_t n = index;
  const int64_t x = take(n, g.width), y = take(n, g.height), c = take(n, g.channels);
  const int64_t q = take(n, g.grid_width), p = take(n, g.grid_height);
  if (n >= g.batch) return;
  const int64_t i = y - p * g.shift_y, j = x - q * g.shift_x;
  const bool was_read = i >= 0 && i < g.blocks_y && j >= 0 && j < g.blocks_x;
  maps[index] = was_read ? grad[n * stride_n + c * stride_c + (i * g.grid_height + p) * stride_y +
                                (j * g.grid_width + q) * stride_x]
                         : T{};
}

template <typename T, typename Device>
void interweave_forward(Device& device, const InterweaveGeometry& g, const T* maps,
                        const MapsStrides& strides, T* out) {
  const int64_t count = g.batch * g.channels * g.grid_height * g.blocks_y * g.grid_width * g.blocks_x;
  device.launch(interweave<T>, (count + kInterweaveThreads - 1) / kInterweaveThreads, kInterweaveThreads, 0,
                g, maps, strides, out);
}

template <typename T, typename Device>
void interweave_backward(Device& device, const InterweaveGeometry& g, const T* grad, const int64_t* strides,
                         T* maps) {
  const int64_t count = g.batch * g.grid_height * g.grid_width * g.channels * g.height * g.width;
  device.launch(interweave_adjoint<T>, (count + kInterweaveThreads - 1) / kInterweaveThreads,
                kInterweaveThreads, 0, g, grad, strides[0], strides[1], strides[2], strides[3], maps);
}

}  // namespace faceattr::gpu
