"""The CPU operators in clang's C++, which is what macOS and, as clang-cl, Windows build them with.

Needs clang 14 or later, for instance Debian's. Only what the compiler says is tested, not what it makes.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

CSRC = Path(__file__).parent.parent / "csrc"
COMPILER = next(
    filter(None, map(shutil.which, ["clang++", *(f"clang++-{version}" for version in range(25, 13, -1))])), None
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CSRC.is_dir(), reason="runs in the source folder"),
    pytest.mark.skipif(COMPILER is None, reason="needs clang"),
]


@pytest.mark.parametrize(
    "source",
    sorted({*CSRC.glob("cpu/*.cpp"), *CSRC.glob("*/cpu*.cpp")}),
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_compiles_without_a_warning(source):
    flags = [
        "-std=c++20",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        "-Werror",
        "-DTORCH_TARGET_VERSION=0x020a000000000000",
    ]
    includes = [option for path in include_paths() for option in ("-isystem", path)]
    subprocess.run([COMPILER, *flags, *includes, "-fsyntax-only", os.fspath(source)], check=True)
