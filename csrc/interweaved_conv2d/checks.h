// Arguments to geometry, with every check that keeps a kernel inside its tensors; shared by CPU and CUDA.
#pragma once

#include <optional>

#include "../common/checks.h"
#include "geometry.h"

namespace faceattr {

using torch::stable::Tensor;

inline InterweavedGeometry interweaved_geometry(const char* op, const Tensor& input, const Tensor& weight,
                                                const std::optional<Tensor>& bias,
                                                const std::vector<int64_t>& stride,
                                                const std::vector<int64_t>& dilation,
                                                const std::vector<int64_t>& shift,
                                                const std::vector<int64_t>& pool) {
  check_dim(input, 4, op, "input", "[N, C, H, W]");
  check_dim(weight, 6, op, "weight", "[Gh, Gw, O, C, kh, kw]");
  check_like(weight, input, op, "weight");
  check(weight.size(3) == input.size(1), op, ": weight has ", weight.size(3), " input channels, input has ",
        input.size(1));
  check(weight.size(0) > 0 && weight.size(1) > 0 && weight.size(4) > 0 && weight.size(5) > 0, op,
        ": weight has an empty grid or kernel, its shape is ", shape_text(weight.sizes()));
  if (bias) {
    check(bias->dim() == 3 && bias->size(0) == weight.size(0) && bias->size(1) == weight.size(1) &&
              bias->size(2) == weight.size(2),
          op, ": bias has shape ", shape_text(bias->sizes()), ", with this weight it must be [",
          weight.size(0), ", ", weight.size(1), ", ", weight.size(2), "]");
    check_like(*bias, weight, op, "bias");
  }
  check_pair(stride, 1, op, "stride");
  check_pair(dilation, 1, op, "dilation");
  check_pair(shift, 0, op, "shift");
  check_pair(pool, 1, op, "pool");
  InterweavedGeometry g{input.size(0),
                        input.size(1),
                        input.size(2),
                        input.size(3),
                        weight.size(2),
                        weight.size(0),
                        weight.size(1),
                        weight.size(4),
                        weight.size(5),
                        stride[0],
                        stride[1],
                        dilation[0],
                        dilation[1],
                        shift[0],
                        shift[1],
                        pool[0],
                        pool[1],
                        0,
                        0,
                        0,
                        0};
  g.response_height =
      interweaved_responses(g.in_height, g.kernel_height, g.stride_y, g.dilation_y, g.grid_height, g.shift_y);
  g.response_width =
      interweaved_responses(g.in_width, g.kernel_width, g.stride_x, g.dilation_x, g.grid_width, g.shift_x);
  g.blocks_y = g.response_height - (g.pool_y - 1);
  g.blocks_x = g.response_width - (g.pool_x - 1);
  check(g.blocks_y > 0 && g.blocks_x > 0, op, ": input of ", g.in_height, "x", g.in_width,
        " is too small for a grid of ", g.grid_height, "x", g.grid_width, " cells with kernel ",
        g.kernel_height, "x", g.kernel_width, ", dilation (", g.dilation_y, ", ", g.dilation_x, "), shift (",
        g.shift_y, ", ", g.shift_x, ") and pool (", g.pool_y, ", ", g.pool_x, ")");
  return g;
}

inline void check_grad(const char* op, const Tensor& grad, const Tensor& input,
                       const InterweavedGeometry& g) {
  check_dim(grad, 4, op, "grad", "[N, O, Gh*Dy, Gw*Dx]");
  check_like(grad, input, op, "grad");
  check(grad.size(0) == g.batch && grad.size(1) == g.out_channels &&
            grad.size(2) == g.grid_height * g.blocks_y && grad.size(3) == g.grid_width * g.blocks_x,
        op, ": grad has shape ", shape_text(grad.sizes()), ", the output's is [", g.batch, ", ",
        g.out_channels, ", ", g.grid_height * g.blocks_y, ", ", g.grid_width * g.blocks_x, "]");
}

}  // namespace faceattr
