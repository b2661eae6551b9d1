// What this build holds; read by `faceattr info`.
#include <pybind11/pybind11.h>
#include <torch/headeronly/version.h>

PYBIND11_MODULE(_build_info, m) {
  m.doc() = "How the kernels were built.";
  m.attr("compiler") = __VERSION__;
  m.attr("torch_built_with") = TORCH_VERSION;
  m.attr("cuda_architectures") = FACEATTR_CUDA_ARCHITECTURES;
}
