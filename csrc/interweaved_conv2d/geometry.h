// Sizes of the interweaved convolution; no torch inside.
#pragma once

#include <cstdint>

namespace faceattr {

// Cell (p, q) responds at rows i*stride_y + p*shift_y (columns likewise), i < response_height; its responses
// are max-pooled over pool_y x pool_x neighbours and land at out[.., i*Gh + p, j*Gw + q], i < blocks_y.
struct InterweavedGeometry {
  int64_t batch, in_channels, in_height, in_width, out_channels;
  int64_t grid_height, grid_width, kernel_height, kernel_width;
  int64_t stride_y, stride_x, dilation_y, dilation_x, shift_y, shift_x, pool_y, pool_x;
  int64_t blocks_y, blocks_x, response_height, response_width;
};

// Rows (columns) at which every cell's filter stays inside the input.
inline int64_t interweaved_responses(int64_t size, int64_t kernel, int64_t stride, int64_t dilation,
                                     int64_t cells, int64_t shift) {
  const int64_t span = size - dilation * (kernel - 1) - 1 - (cells - 1) * shift;
  return span < 0 ? 0 : span / stride + 1;
}

}  // namespace faceattr
