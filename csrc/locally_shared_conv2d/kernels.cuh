// Locally shared convolution on the GPU: csrc/cuda/convolution.cuh with one map that the cells divide among
// them.
#pragma once

#include "../cuda/convolution.cuh"
#include "geometry.h"

namespace faceattr::gpu {

inline Convolution convolution_of(const LocallySharedGeometry& g) {
  const Convolution c{g.batch,
                      g.in_channels,
                      g.out_channels,
                      {g.in_height, g.out_height, g.grid_height, g.kernel_height, g.stride_y, g.padding_y,
                       g.dilation_y, 0, false},
                      {g.in_width, g.out_width, g.grid_width, g.kernel_width, g.stride_x, g.padding_x,
                       g.dilation_x, 0, false}};
  check_sizes(c);
  return c;
}

// Bias [cells, O] and its gradient are contiguous, maps have any strides.
template <typename T, typename Device>
void locally_shared_forward(Device& device, const LocallySharedGeometry& g, const Map<const T>& input,
                            const Filters<T>& filters, const T* bias, const Map<T>& output, bool allow_tf32) {
  const Result<T> result{output.data, output.n, output.c, 0, 0, output.y, output.x, false};
  convolve<T>(device, convolution_of(g), input, filters, bias, result, allow_tf32);
}

template <typename T, typename Device>
void locally_shared_input_grad(Device& device, const LocallySharedGeometry& g, const Map<const T>& grad,
                               const Filters<T>& filters, const Map<T>& result, bool allow_tf32) {
  const Convolution c = convolution_of(g);
  Packer<T, Device> packer(device);
  const auto packed = packer.map(grad, g.batch, g.out_channels, g.out_height, g.out_width);
  const auto packed_filters = packer.filters(c, filters, allow_tf32);
  packer.launch();
  convolve_input_grad<T>(device, c, packed, packed_filters, result, allow_tf32);
}

template <typename T, typename Device>
void locally_shared_weight_grad(Device& device, const LocallySharedGeometry& g, const Map<const T>& grad,
                                const Map<const T>& input, const WeightGrad<T>& result, bool allow_tf32) {
  const Convolution c = convolution_of(g);
  Packer<T, Device> packer(device);
  const auto packed = packer.map(grad, g.batch, g.out_channels, g.out_height, g.out_width);
  const auto packed_input = packer.map(input, g.batch, g.in_channels, g.in_height, g.in_width);
  packer.launch();
  convolve_weight_grad<T>(device, c, packed, packed_input, result, allow_tf32);
}

// Both gradients, with one packing of `grad`.
template <typename T, typename Device>
void locally_shared_backward(Device& device, const LocallySharedGeometry& g, const Map<const T>& grad,
                             const Map<const T>& input, const Filters<T>& filters, const Map<T>& input_grad,
                             const WeightGrad<T>& weight_grad, bool allow_tf32) {
  const Convolution c = convolution_of(g);
  Packer<T, Device> packer(device);
  const auto packed = packer.map(grad, g.batch, g.out_channels, g.out_height, g.out_width);
  const auto packed_filters = packer.filters(c, filters, allow_tf32);
  const auto packed_input = packer.map(input, g.batch, g.in_channels, g.in_height, g.in_width);
  packer.launch();
  convolve_input_grad<T>(device, c, packed, packed_filters, input_grad, allow_tf32);
  convolve_weight_grad<T>(device, c, packed, packed_input, weight_grad, allow_tf32);
}

}  // namespace faceattr::gpu
