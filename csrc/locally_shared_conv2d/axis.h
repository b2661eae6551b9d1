// Rows or columns of a locally shared convolution.
#pragma once

#include "geometry.h"

namespace faceattr {

struct Axis {
  int64_t in, out, cells, kernel, stride, padding, dilation;
};

inline Axis rows_of(const LocallySharedGeometry& g) {
  return {g.in_height, g.out_height, g.grid_height, g.kernel_height, g.stride_y, g.padding_y, g.dilation_y};
}

inline Axis columns_of(const LocallySharedGeometry& g) {
  return {g.in_width, g.out_width, g.grid_width, g.kernel_width, g.stride_x, g.padding_x, g.dilation_x};
}

// Elements that padding the panels may take: the inputs' and outputs'.
inline int64_t spare_elements(const LocallySharedGeometry& g) {
  return g.batch * (g.in_channels * g.in_height * g.in_width + g.out_channels * g.out_height * g.out_width);
}

}  // namespace faceattr
