// Arguments to geometry, with every check that keeps a kernel inside its tensors; shared by CPU and CUDA.
#pragma once

#include "../common/checks.h"
#include "geometry.h"

namespace faceattr {

using torch::stable::Tensor;

inline InterweaveGeometry interweave_geometry(const char* op, int64_t batch, int64_t grid_height,
                                              int64_t grid_width, int64_t channels, int64_t height,
                                              int64_t width, const std::vector<int64_t>& shift) {
  check_pair(shift, 0, op, "shift");
  InterweaveGeometry g{batch, grid_height, grid_width, channels, height, width, shift[0], shift[1], 0, 0};
  g.blocks_y = interweave_blocks(height, grid_height, shift[0]);
  g.blocks_x = interweave_blocks(width, grid_width, shift[1]);
  check(g.blocks_y > 0 && g.blocks_x > 0, op, ": maps of ", height, "x", width,
        " are too small for a grid of ", grid_height, "x", grid_width, " cells shifted by (", shift[0], ", ",
        shift[1], ")");
  return g;
}

inline InterweaveGeometry forward_geometry(const Tensor& maps, const std::vector<int64_t>& shift) {
  const char* op = "interweave";
  check_dim(maps, 6, op, "maps", "[N, Gh, Gw, C, H, W]");
  check(maps.size(1) > 0 && maps.size(2) > 0, op, ": maps has an empty grid, its shape is ",
        shape_text(maps.sizes()));
  return interweave_geometry(op, maps.size(0), maps.size(1), maps.size(2), maps.size(3), maps.size(4),
                             maps.size(5), shift);
}

inline InterweaveGeometry adjoint_geometry(const Tensor& grad, const std::vector<int64_t>& map_size,
                                           const std::vector<int64_t>& grid,
                                           const std::vector<int64_t>& shift) {
  const char* op = "interweave_adjoint";
  check_dim(grad, 4, op, "grad", "[N, C, Gh*H', Gw*W']");
  check_pair(map_size, 1, op, "map_size");
  check_pair(grid, 1, op, "grid");
  const auto g =
      interweave_geometry(op, grad.size(0), grid[0], grid[1], grad.size(1), map_size[0], map_size[1], shift);
  check(grad.size(2) == g.grid_height * g.blocks_y && grad.size(3) == g.grid_width * g.blocks_x, op,
        ": grad has shape ", shape_text(grad.sizes()), ", the interweaved map's is [", g.batch, ", ",
        g.channels, ", ", g.grid_height * g.blocks_y, ", ", g.grid_width * g.blocks_x, "]");
  return g;
}

// Calls body with an element of so many bytes: copies need no more of a dtype than its size. Element16 is the
// caller's type of 16 bytes.
template <typename Element16, typename F>
void dispatch_element_size(size_t bytes, const char* op, const F& body) {
  switch (bytes) {
    case 1:
      return body(uint8_t{});
    case 2:
      return body(uint16_t{});
    case 4:
      return body(uint32_t{});
    case 8:
      return body(uint64_t{});
    case 16:
      return body(Element16{});
    default:
      check(false, op, ": elements of ", bytes, " bytes are not supported");
  }
}

}  // namespace faceattr
