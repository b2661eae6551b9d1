// What this build holds; read by `faceattr info`. In Python's limited API: one file serves every CPython.
#include <Python.h>
#include <torch/headeronly/version.h>

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    "_build_info",
    "How the kernels were built.",
    0,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
};

PyMODINIT_FUNC PyInit__build_info() {
  PyObject* module = PyModule_Create(&definition);
  if (!module) return nullptr;
  if (PyModule_AddStringConstant(module, "compiler", __VERSION__) == 0 &&
      PyModule_AddStringConstant(module, "torch_built_with", TORCH_VERSION) == 0 &&
      PyModule_AddStringConstant(module, "cuda_architectures", FACEATTR_CUDA_ARCHITECTURES) == 0)
    return module;
  Py_DECREF(module);
  return nullptr;
}
