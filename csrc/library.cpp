// Every operator's schema. Kernels register themselves: <operator>/cpu.cpp and <operator>/cuda.cu.
//
// The three convolution operators are bilinear and closed under differentiation: the gradient of each is one
// of the others (faceattr/ops/locally_shared_conv2d.py), so gradients of any order need no further kernel.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(faceattr, m) {
  m.def(
      "locally_shared_conv2d(Tensor input, Tensor weight, Tensor? bias, SymInt[2] stride, SymInt[2] padding, "
      "SymInt[2] dilation) -> Tensor");
  m.def(
      "locally_shared_conv2d_input_grad(Tensor grad, Tensor weight, SymInt[2] input_size, SymInt[2] stride, "
      "SymInt[2] padding, SymInt[2] dilation, bool channels_last) -> Tensor");
  m.def(
      "locally_shared_conv2d_weight_grad(Tensor grad, Tensor input, SymInt[2] grid, SymInt[2] kernel_size, "
      "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation) -> (Tensor, Tensor)");
  m.def(
      "locally_shared_conv2d_backward(Tensor grad, Tensor input, Tensor weight, SymInt[2] stride, "
      "SymInt[2] padding, SymInt[2] dilation) -> (Tensor, Tensor, Tensor)");

  m.def("interweave(Tensor maps, SymInt[2] shift) -> Tensor");
  m.def("interweave_adjoint(Tensor grad, SymInt[2] map_size, SymInt[2] grid, SymInt[2] shift) -> Tensor");

  m.def(
      "interweaved_conv2d(Tensor input, Tensor weight, Tensor? bias, SymInt[2] stride, SymInt[2] dilation, "
      "SymInt[2] shift, SymInt[2] pool) -> Tensor");
  m.def(
      "interweaved_conv2d_backward(Tensor grad, Tensor input, Tensor weight, Tensor? bias, SymInt[2] stride, "
      "SymInt[2] dilation, SymInt[2] shift, SymInt[2] pool) -> (Tensor, Tensor, Tensor)");

  m.def("density_peaks(Tensor density, float threshold) -> (Tensor, Tensor)");

  // Whether float32 products may be taken as TF32; the CUDA kernels ask.
  m.def("tf32_allowed() -> bool");
}

namespace {
bool no_tf32() {
  return false;
}
}  // namespace

// The answer of a process without Python. The stable ABI cannot ask torch: faceattr/ops/_library.py does, at
// BackendSelect, which comes first.
STABLE_TORCH_LIBRARY_IMPL(faceattr, CompositeExplicitAutograd, m) {
  m.impl("tf32_allowed", TORCH_BOX(&no_tf32));
}
