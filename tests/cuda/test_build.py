"""What the CUDA compiler makes of the kernels: `make test-cuda-build` (pytest -m cuda_build). Needs nvcc, no GPU."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from . import toolchain

MOST_LISTED = 3072  # taps of both axes
ANY_GPU = 99 * 1024  # bytes of shared memory that a block may have on each

pytestmark = [
    pytest.mark.cuda_build,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc"),
]


def least_share(kernel):
    """Floor under the share of the arithmetic in the main loop, on its way through a stage that begins no window.

    A tensor-core instruction does 2048 products a warp.
    """
    opcode = toolchain.opcode_of(kernel.name)
    if opcode == "HMMA":
        # What is read ahead takes registers that addresses could have; on sm_120 ptxas makes them anew most often.
        gradient = {" 128x128": 0.13, " 64x256": 0.12, " 64x128": 0.08, " 64x64": 0.05}
        forward = {" 256x64": 0.25, " 128x128": 0.25, " 128x64": 0.17, " 32x64": 0.05}
        floors = gradient if "weight" in kernel.name else forward
        floor = next(floor for tile, floor in floors.items() if tile in kernel.name)
        return 0.75 * floor if kernel.architecture == "sm_120" else floor
    if kernel.architecture == "sm_120":  # there ptxas folds the loop over a stage's parts into the one that copies
        return {"FFMA": 0.3, "DFMA": 0.1}[opcode]
    return {"FFMA": 0.65, "DFMA": 0.5}[opcode]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return toolchain.build(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(scope="module")
def kernels(built):
    return toolchain.resources(built[1])


def test_every_kernel_is_there_for_every_architecture(kernels):
    names = {
        architecture: {kernel.name for kernel in kernels if kernel.architecture == architecture}
        for architecture in toolchain.ARCHITECTURES
    }
    assert names["sm_80"] == names["sm_90"] == names["sm_120"]
    for element in ("double, fma", "float, fma", "float, tf32", "Half, tensor cores", "BFloat16, tensor cores"):
        for ending in (", forward>", ", input gradient>"):
            found = [n for n in names["sm_90"] if n.startswith(f"contract<{element}") and n.endswith(ending)]
            assert len(found) == (2 if "fma" in element else 4), (element, ending)  # small, large, wide, tall
        assert any(n.startswith(f"contract_weight<{element}") for n in names["sm_90"])


def test_nothing_lives_in_local_memory(kernels):
    assert [k for k in kernels if k.spills or k.stack] == []


def test_products_stay_within_their_budgets(kernels):
    """The budget stands beside each tile: kResident blocks of a multiprocessor."""
    for kernel in (k for k in kernels if k.is_product):
        registers, shared, _ = toolchain.LIMITS[kernel.architecture]
        assert kernel.registers <= registers // (kernel.threads * kernel.resident), kernel
        # sm_120 has less shared memory than the budgets were made for, and with the tall tile sm_80 takes less at once.
        if kernel.architecture == "sm_90" or (kernel.architecture == "sm_80" and "256x64" not in kernel.name):
            assert kernel.resident * (kernel.shared_bytes + 1024) <= shared, kernel
            assert kernel.occupancy >= kernel.resident * kernel.threads / 2048, kernel


def test_a_window_for_each_tap_fits_any_gpu():
    """With the longest lists of taps, in the tiles that every GPU uses."""
    for rows in (32, 64, 128):
        assert toolchain.contraction_bytes(rows, 64, rows, 1, MOST_LISTED) <= ANY_GPU


@pytest.mark.parametrize("architecture", toolchain.ARCHITECTURES)
def test_main_loops_do_arithmetic(built, kernels, architecture):
    if toolchain.find_tool("cuobjdump") is None or toolchain.find_tool("nvdisasm") is None:
        pytest.skip("no cuobjdump and nvdisasm: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    codes = toolchain.disassemble(built[0], architecture)
    for kernel in (k for k in kernels if k.is_product and k.architecture == architecture):
        opcode = toolchain.opcode_of(kernel.name)
        share = toolchain.main_loop_share(codes[kernel.name], opcode)
        assert share >= least_share(kernel), (kernel.name, share)
        if opcode == "HMMA":
            assert any(name.startswith("LDSM") or "tf32" in kernel.name for _, name, *_ in codes[kernel.name])
        assert any(name.startswith("LDGSTS") for _, name, *_ in codes[kernel.name]), "no asynchronous copies"
        assert not any(name.startswith(("LDL", "STL")) for _, name, *_ in codes[kernel.name])
        # Shared memory is read as such: an address of unknown space costs a look-up.
        assert not any(name.split(".")[0] in ("LD", "ST") for _, name, *_ in codes[kernel.name]), kernel.name


@pytest.mark.parametrize("architecture", toolchain.ARCHITECTURES)
def test_kernels_await_their_turn(built, architecture):
    """Before it they neither touch global memory nor let the next launch start nor end: csrc/cuda/device.cuh.

    Those of the convolutions end before in blocks past the last of a short run.
    """
    if toolchain.find_tool("cuobjdump") is None or toolchain.find_tool("nvdisasm") is None:
        pytest.skip("no cuobjdump and nvdisasm: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    for name, code in toolchain.disassemble(built[0], architecture).items():
        turns = {opcode for _, opcode, *_ in code} & {"ACQBULK", "PREEXIT"}
        if architecture == "sm_80" or name.startswith("interweave"):  # that has no early starts, or is launched alone
            assert not turns, name
            continue
        assert turns == {"ACQBULK", "PREEXIT"}, name
        before = toolchain.opcodes_before(code, "ACQBULK")
        assert not before & {"LDG", "STG", "LDGSTS", "LD", "ST", "ATOM", "ATOMG", "RED", "REDG", "PREEXIT"}, name
        assert "EXIT" not in before or name.startswith(("contract<", "convolve_direct<")), name


def test_no_kernel_adds_atomically(built):
    if toolchain.find_tool("cuobjdump") is None or toolchain.find_tool("nvdisasm") is None:
        pytest.skip("no cuobjdump and nvdisasm: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    for name, code in toolchain.disassemble(built[0], "sm_90").items():
        assert not any(opcode.startswith(("ATOM", "RED.")) for _, opcode, *_ in code), name


def test_needs_only_the_stable_abi(built):
    """Every symbol that torch must bring is one that its stable headers declare for the target version."""
    listing = subprocess.run(["nm", "-D", "--undefined-only", built[0]], text=True, capture_output=True, check=True)
    symbols = {line.split()[-1].split("@")[0] for line in listing.stdout.splitlines()}
    headers = Path(torch.__file__).parent / "include" / "torch" / "csrc"
    declared = "".join(
        path.read_text() for path in [*headers.glob("inductor/aoti_torch/c/*.h"), *headers.glob("stable/c/*.h")]
    )
    # aoti_torch_dtype_float32 and its like are declared by macros.
    macros = {f"aoti_torch_dtype_{name}" for name in re.findall(r"torch_dtype_(\w+)", declared)}
    foreign = [
        symbol
        for symbol in symbols
        if not re.search(rf"\b{re.escape(symbol)}\b", declared)
        and symbol not in macros
        and not symbol.startswith(("cuda", "__cuda"))
    ]
    assert not [s for s in foreign if "torch" in s or "c10" in s or "at::" in toolchain.demangle(s)]
    assert "aoti_torch_get_current_cuda_stream" in symbols
