// Sizes and cells of a locally shared convolution; no torch inside, so that CPU, CUDA and emulator share it.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define FACEATTR_HOST_DEVICE __host__ __device__
#else
#define FACEATTR_HOST_DEVICE
#endif

namespace faceattr {

struct LocallySharedGeometry {
  int64_t batch, in_channels, in_height, in_width;
  int64_t out_channels, out_height, out_width;
  int64_t grid_height, grid_width, kernel_height, kernel_width;
  int64_t stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x;
};

// Rows (columns) of the output for `in` rows of input: as torch.nn.functional.conv2d.
FACEATTR_HOST_DEVICE inline int64_t conv_output_size(int64_t in, int64_t kernel, int64_t stride,
                                                     int64_t padding, int64_t dilation) {
  const int64_t span = in + 2 * padding - dilation * (kernel - 1) - 1;
  return span < 0 ? 0 : span / stride + 1;
}

// Cell that owns output row (column) `position` of `size`, with `cells` cells.
FACEATTR_HOST_DEVICE inline int64_t cell_of(int64_t position, int64_t cells, int64_t size) {
  return position * cells / size;
}

// First output row (column) of cell `cell`; the cell ends where the next begins.
FACEATTR_HOST_DEVICE inline int64_t cell_begin(int64_t cell, int64_t cells, int64_t size) {
  return (cell * size + cells - 1) / cells;
}

// The output rows and columns of cell `index` of the grid.
struct Cell {
  int64_t top, bottom, left, right;

  Cell(const LocallySharedGeometry& g, int64_t index)
      : top(cell_begin(index / g.grid_width, g.grid_height, g.out_height)),
        bottom(cell_begin(index / g.grid_width + 1, g.grid_height, g.out_height)),
        left(cell_begin(index % g.grid_width, g.grid_width, g.out_width)),
        right(cell_begin(index % g.grid_width + 1, g.grid_width, g.out_width)) {}

  int64_t height() const { return bottom - top; }
  int64_t width() const { return right - left; }
};

// The most output positions of a cell, in all images.
inline int64_t positions_of_cell(const LocallySharedGeometry& g) {
  return g.batch * ((g.out_height + g.grid_height - 1) / g.grid_height) *
         ((g.out_width + g.grid_width - 1) / g.grid_width);
}

}  // namespace faceattr
