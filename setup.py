"""Builds the operators: `_C` (CPU, always), `_C_cuda` (where nvcc and a CUDA torch are, or FACEATTR_CUDA=1).

FACEATTR_SANITIZE=address builds the CPU operators with AddressSanitizer and UndefinedBehaviorSanitizer,
FACEATTR_SANITIZE=thread with ThreadSanitizer (make test-sanitize).
FACEATTR_CUDA=0 never builds CUDA. TORCH_CUDA_ARCH_LIST chooses its architectures, as for torch; by default those of the
GPUs that are there, without any 8.0, 9.0 and 12.0, the latter two also as PTX, for the generations between and after.
With a torch without CUDA, FACEATTR_CUDA=1 compiles and links the library to check it: such a torch cannot load it.
Both libraries use torch's stable ABI alone (torch 2.10 and later), so one build serves every newer torch; what of
Python there is uses its limited API, so it serves every CPython from 3.10 on too.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import torch
from setuptools import Extension, setup
from torch.utils import cpp_extension

CSRC = Path("csrc")
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]
# Fused multiply-adds also where -std= asks for ISO C++, which would turn them off. The kernels are written in the
# vector types of GCC and clang: on Windows, CXX has to be clang-cl.
OPTIMISED = ["/clang:-O3", "/clang:-ffp-contract=fast"] if os.name == "nt" else ["-O3", "-g0", "-ffp-contract=fast"]
VISIBILITY = [] if os.name == "nt" else ["-fvisibility=hidden"]
CXX_FLAGS = [*OPTIMISED, *VISIBILITY, "-Wall", "-Wextra", "-Wno-unused-parameter", *STABLE_ABI]
SANITIZE = {
    None: [],
    "address": [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-fno-omit-frame-pointer",
        "-O1",
        "-g1",
    ],
    "thread": ["-fsanitize=thread", "-fno-omit-frame-pointer", "-O1", "-g1"],
}[os.environ.get("FACEATTR_SANITIZE")]


def wants_cuda():
    choice = os.environ.get("FACEATTR_CUDA")
    if choice not in (None, "0", "1"):
        raise SystemExit(f"FACEATTR_CUDA is {choice!r}, it must be 0 (never) or 1 (always)")
    if choice is not None:
        return choice == "1"
    return torch.version.cuda is not None and shutil.which("nvcc") is not None


def sources(*patterns):
    return sorted({str(path) for pattern in patterns for path in CSRC.glob(pattern)})


def cuda_home():
    """CUDA_HOME, or where nvcc says that it is: on the PATH, where torch looks, may be only a script that calls it."""
    if os.environ.get("CUDA_HOME"):
        return os.environ["CUDA_HOME"]
    dryrun = subprocess.run(["nvcc", "--dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
    return str(Path(re.search(r"_HERE_=(\S+)", dryrun)[1]).parent)


def cuda_extension():
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX;12.0+PTX")
    options = {
        "sources": sources("*/*.cu"),
        "extra_compile_args": {"cxx": [*CXX_FLAGS, "-DUSE_CUDA"], "nvcc": ["-O3", "-DUSE_CUDA", *STABLE_ABI]},
        "depends": headers(),
        "py_limited_api": True,
    }
    cpp_extension.CUDA_HOME = home = cuda_home()
    if torch.version.cuda is not None:
        return cpp_extension.CUDAExtension("faceattr._C_cuda", **options)
    return cpp_extension.CppExtension(
        "faceattr._C_cuda",
        include_dirs=[f"{home}/include"],
        library_dirs=[f"{home}/lib64"],
        libraries=["cudart"],
        **options,
    )


def headers():
    return sorted(str(path) for path in CSRC.rglob("*.h")) + sorted(str(path) for path in CSRC.rglob("*.cuh"))


cuda = cuda_extension() if wants_cuda() else None
cuda_architectures = os.environ.get("TORCH_CUDA_ARCH_LIST", "") if cuda else ""
extensions = [
    cpp_extension.CppExtension(
        "faceattr._C",
        [str(CSRC / "library.cpp"), *sources("cpu/*.cpp", "*/cpu*.cpp")],
        extra_compile_args={"cxx": CXX_FLAGS + SANITIZE},
        extra_link_args=SANITIZE,
        depends=headers(),
        py_limited_api=True,
    ),
    Extension(
        "faceattr._build_info",
        [str(CSRC / "build_info.cpp")],
        include_dirs=cpp_extension.include_paths(),
        define_macros=[
            ("FACEATTR_CUDA_ARCHITECTURES", f'"{cuda_architectures}"'),
            ("Py_LIMITED_API", "0x030A0000"),
        ],
        extra_compile_args={"cxx": [*OPTIMISED, *VISIBILITY]},
        py_limited_api=True,
    ),
]
if cuda:
    extensions.append(cuda)

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": cpp_extension.BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},  # one wheel for every CPython from 3.10 on
)
