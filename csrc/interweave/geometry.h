// Sizes of the interweaved map; no torch inside.
#pragma once

#include <cstdint>

namespace faceattr {

// maps [N, Gh, Gw, C, H, W] -> out [N, C, Gh*blocks_y, Gw*blocks_x];
// out[n, c, i*Gh + p, j*Gw + q] = maps[n, p, q, c, i + p*shift_y, j + q*shift_x].
struct InterweaveGeometry {
  int64_t batch, grid_height, grid_width, channels, height, width;
  int64_t shift_y, shift_x, blocks_y, blocks_x;
};

inline int64_t interweave_blocks(int64_t size, int64_t cells, int64_t shift) {
  return size - (cells - 1) * shift;
}

}  // namespace faceattr
