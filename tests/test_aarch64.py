"""The CPU kernels for aarch64: cross-compiled, vectorised with NEON, and the inner loops right under qemu.

Needs Debian's g++-aarch64-linux-gnu and qemu-user. The operators themselves would need torch for aarch64.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"
COMPILER, DUMP, EMULATOR = "aarch64-linux-gnu-g++", "aarch64-linux-gnu-objdump", "qemu-aarch64"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CSRC.is_dir(), reason="runs in the source folder"),
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"needs {COMPILER}"),
]


def compile_objects(folder, sources, *options):
    """With the flags of setup.py."""
    flags = ["-std=c++20", "-fPIC", "-ffp-contract=fast", "-DTORCH_TARGET_VERSION=0x020a000000000000", *options]
    includes = [f"-I{path}" for path in include_paths()]
    objects = [folder / f"{source.parent.name}_{source.stem}.o" for source in sources]
    for source, target in zip(sources, objects, strict=True):
        subprocess.run([COMPILER, *flags, *includes, "-c", source, "-o", target], check=True)
    return objects


def test_inner_loops(tmp_path):
    sources = [ROOT / "tests/aarch64/tiles.cpp", *(CSRC / f"cpu/{name}.cpp" for name in ("isa", "tiles"))]
    objects = compile_objects(tmp_path, sources, "-O1")
    [baseline] = compile_objects(tmp_path, [CSRC / "cpu/tiles_baseline.cpp"], "-O3")
    code = subprocess.run([DUMP, "-d", baseline], capture_output=True, text=True, check=True).stdout
    assert len(re.findall(r"\bfmla\s+v\d+\.4s", code)) > 100 and len(re.findall(r"\bfmla\s+v\d+\.2d", code)) > 100
    program = tmp_path / "tiles"
    subprocess.run([COMPILER, "-static", *objects, baseline, "-o", program], check=True)
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"compiled; to run it needs {EMULATOR}")
    ran = subprocess.run([EMULATOR, program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
    assert int(re.match(r"(\d+) comparisons, 0 failures", ran.stdout)[1]) > 1000


def test_library(tmp_path):
    """All of it compiles, and lacks nothing that it should hold itself."""
    sources = sorted([CSRC / "library.cpp", *CSRC.glob("cpu/*.cpp"), *CSRC.glob("*/cpu*.cpp")])
    objects = compile_objects(tmp_path, sources, "-O0")
    library = tmp_path / "_C.so"
    subprocess.run([COMPILER, "-shared", *objects, "-o", library], check=True)
    symbols = subprocess.run(
        ["aarch64-linux-gnu-nm", "-DuC", library], capture_output=True, text=True, check=True
    ).stdout
    assert "aoti_torch" in symbols and "faceattr::" not in symbols
