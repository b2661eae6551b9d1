// Arguments to geometry, with every check that keeps a kernel inside its tensors; shared by CPU and CUDA.
#pragma once

#include <optional>

#include "../common/checks.h"
#include "geometry.h"

namespace faceattr {

using torch::stable::Tensor;

inline LocallySharedGeometry locally_shared_geometry(const char* op, int64_t batch, int64_t in_channels,
                                                     int64_t in_height, int64_t in_width,
                                                     int64_t out_channels, const std::vector<int64_t>& grid,
                                                     const std::vector<int64_t>& kernel_size,
                                                     const std::vector<int64_t>& stride,
                                                     const std::vector<int64_t>& padding,
                                                     const std::vector<int64_t>& dilation) {
  check_pair(grid, 1, op, "grid");
  check_pair(kernel_size, 1, op, "kernel_size");
  check_pair(stride, 1, op, "stride");
  check_pair(padding, 0, op, "padding");
  check_pair(dilation, 1, op, "dilation");
  LocallySharedGeometry g{batch,     in_channels, in_height,  in_width,       out_channels,   0,
                          0,         grid[0],     grid[1],    kernel_size[0], kernel_size[1], stride[0],
                          stride[1], padding[0],  padding[1], dilation[0],    dilation[1]};
  g.out_height = conv_output_size(in_height, kernel_size[0], stride[0], padding[0], dilation[0]);
  g.out_width = conv_output_size(in_width, kernel_size[1], stride[1], padding[1], dilation[1]);
  check(g.out_height > 0 && g.out_width > 0, op, ": input of ", in_height, "x", in_width,
        " is smaller than the kernel of ", kernel_size[0], "x", kernel_size[1], " with dilation (",
        dilation[0], ", ", dilation[1], ") and padding (", padding[0], ", ", padding[1], ")");
  check(grid[0] <= g.out_height && grid[1] <= g.out_width, op, ": weight has a grid of ", grid[0], "x",
        grid[1], " cells, the output only ", g.out_height, "x", g.out_width,
        " positions; every cell needs at least one");
  return g;
}

inline void check_weight(const char* op, const Tensor& weight) {
  check_dim(weight, 6, op, "weight", "[Gh, Gw, O, C, kh, kw]");
}

inline void check_bias(const char* op, const std::optional<Tensor>& bias, const Tensor& weight) {
  if (!bias) return;
  check(bias->dim() == 3 && bias->size(0) == weight.size(0) && bias->size(1) == weight.size(1) &&
            bias->size(2) == weight.size(2),
        op, ": bias has shape ", shape_text(bias->sizes()), ", with this weight it must be [", weight.size(0),
        ", ", weight.size(1), ", ", weight.size(2), "]");
  check_like(*bias, weight, op, "bias");
}

inline LocallySharedGeometry forward_geometry(const char* op, const Tensor& input, const Tensor& weight,
                                              const std::optional<Tensor>& bias,
                                              const std::vector<int64_t>& stride,
                                              const std::vector<int64_t>& padding,
                                              const std::vector<int64_t>& dilation) {
  check_dim(input, 4, op, "input", "[N, C, H, W]");
  check_weight(op, weight);
  check_like(weight, input, op, "weight");
  check(weight.size(3) == input.size(1), op, ": weight has ", weight.size(3), " input channels, input has ",
        input.size(1));
  check_bias(op, bias, weight);
  return locally_shared_geometry(op, input.size(0), input.size(1), input.size(2), input.size(3),
                                 weight.size(2), {weight.size(0), weight.size(1)},
                                 {weight.size(4), weight.size(5)}, stride, padding, dilation);
}

inline void check_grad(const char* op, const Tensor& grad, const LocallySharedGeometry& g) {
  check_dim(grad, 4, op, "grad", "[N, O, Ho, Wo]");
  check(grad.size(0) == g.batch && grad.size(1) == g.out_channels && grad.size(2) == g.out_height &&
            grad.size(3) == g.out_width,
        op, ": grad has shape ", shape_text(grad.sizes()), ", the output's is [", g.batch, ", ",
        g.out_channels, ", ", g.out_height, ", ", g.out_width, "]");
}

inline LocallySharedGeometry input_grad_geometry(const char* op, const Tensor& grad, const Tensor& weight,
                                                 const std::vector<int64_t>& input_size,
                                                 const std::vector<int64_t>& stride,
                                                 const std::vector<int64_t>& padding,
                                                 const std::vector<int64_t>& dilation) {
  check_dim(grad, 4, op, "grad", "[N, O, Ho, Wo]");
  check_weight(op, weight);
  check_like(weight, grad, op, "weight");
  check_pair(input_size, 1, op, "input_size");
  const auto g = locally_shared_geometry(op, grad.size(0), weight.size(3), input_size[0], input_size[1],
                                         weight.size(2), {weight.size(0), weight.size(1)},
                                         {weight.size(4), weight.size(5)}, stride, padding, dilation);
  check_grad(op, grad, g);
  return g;
}

inline LocallySharedGeometry weight_grad_geometry(const char* op, const Tensor& grad, const Tensor& input,
                                                  const std::vector<int64_t>& grid,
                                                  const std::vector<int64_t>& kernel_size,
                                                  const std::vector<int64_t>& stride,
                                                  const std::vector<int64_t>& padding,
                                                  const std::vector<int64_t>& dilation) {
  check_dim(grad, 4, op, "grad", "[N, O, Ho, Wo]");
  check_dim(input, 4, op, "input", "[N, C, H, W]");
  check_like(grad, input, op, "grad");
  const auto g = locally_shared_geometry(op, input.size(0), input.size(1), input.size(2), input.size(3),
                                         grad.size(1), grid, kernel_size, stride, padding, dilation);
  check_grad(op, grad, g);
  return g;
}

}  // namespace faceattr
