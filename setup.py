"""Builds the operators: `_C` (CPU, always), `_C_cuda` (where nvcc and a CUDA torch are, or FACEATTR_CUDA=1).

FACEATTR_CUDA=0 never builds CUDA. TORCH_CUDA_ARCH_LIST chooses its architectures, as for torch.
Both libraries use torch's stable ABI alone (torch 2.10 and later), so one build serves every newer torch.
"""

import os
import shutil
from pathlib import Path

import torch
from pybind11 import get_include
from setuptools import setup
from torch.utils import cpp_extension

CSRC = Path("csrc")
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]
CXX_FLAGS = ["-O3", "-fvisibility=hidden", "-ffp-contract=fast", "-Wall", "-Wextra", "-Wno-unused-parameter", *STABLE_ABI]


def wants_cuda():
    choice = os.environ.get("FACEATTR_CUDA")
    if choice not in (None, "0", "1"):
        raise SystemExit(f"FACEATTR_CUDA is {choice!r}, it must be 0 (never) or 1 (always)")
    if choice is not None:
        return choice == "1"
    return torch.version.cuda is not None and shutil.which("nvcc") is not None and any(CSRC.glob("*/cuda.cu"))


def sources(name):
    return sorted(str(path) for path in CSRC.glob(f"*/{name}"))


def headers():
    return sorted(str(path) for path in CSRC.rglob("*.h")) + sorted(str(path) for path in CSRC.rglob("*.cuh"))


cuda = wants_cuda()
cuda_architectures = os.environ.get("TORCH_CUDA_ARCH_LIST", "") if cuda else ""
extensions = [
    cpp_extension.CppExtension(
        "faceattr._C",
        [str(CSRC / "library.cpp"), *sources("cpu*.cpp")],
        extra_compile_args={"cxx": CXX_FLAGS},
        depends=headers(),
        py_limited_api=True,
    ),
    cpp_extension.CppExtension(
        "faceattr._build_info",
        [str(CSRC / "build_info.cpp")],
        include_dirs=[get_include()],
        define_macros=[("FACEATTR_CUDA_ARCHITECTURES", f'"{cuda_architectures}"')],
        extra_compile_args={"cxx": ["-O2", "-fvisibility=hidden"]},
    ),
]
if cuda:
    extensions.append(
        cpp_extension.CUDAExtension(
            "faceattr._C_cuda",
            sources("cuda.cu"),
            extra_compile_args={"cxx": [*CXX_FLAGS, "-DUSE_CUDA"], "nvcc": ["-O3", "-DUSE_CUDA", *STABLE_ABI]},
            depends=headers(),
            py_limited_api=True,
        )
    )

setup(ext_modules=extensions, cmdclass={"build_ext": cpp_extension.BuildExtension})
