"""Builds the CUDA library without a GPU and reads what the compiler made of it.

    python tests/cuda/toolchain.py

prints the table of registers, memory, occupancy and instruction shares.
"""

import functools
import importlib.util
import itertools
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "benchmarks"))
from roofline import contraction_bytes, window_lines  # noqa: E402

ARCHITECTURES = {"sm_80": "8.0", "sm_90": "9.0", "sm_120": "12.0"}
# Of a multiprocessor: registers, bytes of shared memory for blocks (1 KiB a block is the system's), warps.
LIMITS = {"sm_80": (65536, 164 * 1024, 64), "sm_90": (65536, 228 * 1024, 64), "sm_120": (65536, 100 * 1024, 48)}
STAGES = 3


def find_tool(name):
    """`name` on the PATH, in triton's wheel or in nvidia's own; None where there is none."""
    if found := shutil.which(name):
        return found
    for package, places in {"triton": ["backends/nvidia/bin"], "nvidia": ["cu13/bin", "cuda_nvcc/bin"]}.items():
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations if spec else []:
            for place in places:
                if (path := Path(folder) / place / name).exists():
                    return str(path)
    return None


def build(folder):
    """Runs setup.py with FACEATTR_CUDA=1; the CUDA library and everything that the build printed."""
    environment = {
        **os.environ,
        "FACEATTR_CUDA": "1",
        "TORCH_CUDA_ARCH_LIST": ";".join(ARCHITECTURES.values()),
        "NVCC_APPEND_FLAGS": "-Xptxas=-v",
        "MAX_JOBS": os.environ.get("MAX_JOBS", "2"),
    }
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", folder / "lib", "--build-temp", folder / "temp"]
    process = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
    log = process.stdout + process.stderr
    if process.returncode != 0:
        raise RuntimeError(log[-5000:])
    (library,) = (folder / "lib" / "faceattr").glob("_C_cuda.*so")
    return library, log


def demangle(text):
    return subprocess.run(["c++filt"], input=text, text=True, capture_output=True, check=True).stdout


@dataclass
class Kernel:
    """What ptxas says of a kernel; for the matrix products also their tile.

    threads and resident are the __launch_bounds__; shared_bytes what a launch asks for, forward and input gradient for
    windows of filters of 3x3 in cells of 8x8.
    """

    architecture: str
    name: str
    registers: int
    stack: int
    spills: int
    threads: int = 0
    resident: int = 0
    shared_bytes: int = 0

    @property
    def is_product(self):
        return self.name.startswith("contract")

    @property
    def occupancy(self):
        """Share of the warps of a multiprocessor that registers and shared memory let be there."""
        registers, shared, warps = LIMITS[self.architecture]
        own_warps = self.threads // 32
        by_registers = registers // (-(-self.registers // 8) * 8 * self.threads)
        by_shared = shared // (self.shared_bytes + 1024)
        return min(by_registers, by_shared, warps // own_warps) * own_warps / warps


def short_name(signature):
    """contract<float, fma, 128x64, forward> of a demangled product, the name and type of any other kernel."""
    signature = signature.replace("faceattr::gpu::", "").removeprefix("void ")
    tile = re.match(
        r"(contract\w*)<Tile<([\w ]+), \(Unit\)(\d), (\d+), (\d+), (\d+), (\d+), (\d+)>(?:, \(Direction\)(\d))?",
        signature,
    )
    if not tile:
        return signature.split("(")[0].strip(), None
    name, element, unit, rows, columns, *warps, direction = tile.groups()
    resident = int(warps.pop())
    unit = {"0": "fma", "1": "tf32" if element == "float" else "tensor cores"}[unit]
    direction = {"0": ", forward", "1": ", input gradient", None: ""}[direction]
    size = {"float": 4, "double": 8}.get(element, 2)
    depth = 64 // size
    if name == "contract":
        lines = window_lines(int(rows), 32, ((8, 3), (8, 3)), True, True)
        shared = contraction_bytes(int(rows), int(columns), lines, 9, 6)
    else:
        lines = (int(rows) + int(columns)) * size + 2 * (16 if size == 2 else 32)
        shared = depth * (lines + 32) * STAGES
    threads = 32 * int(warps[0]) * int(warps[1])
    return f"{name}<{element}, {unit}, {rows}x{columns}{direction}>", (threads, resident, shared)


def resources(log):
    """The kernels in a build's log."""
    found = re.finditer(
        r"Compiling entry function '([^']+)' for '(sm_\d+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers",
        demangle(log),
        re.DOTALL,
    )
    kernels = []
    for signature, architecture, stack, stores, loads, registers in (match.groups() for match in found):
        name, bounds = short_name(signature)
        kernel = Kernel(architecture, name, int(registers), int(stack), int(stores) + int(loads))
        if bounds:
            kernel.threads, kernel.resident, kernel.shared_bytes = bounds
        kernels.append(kernel)
    return sorted(kernels, key=lambda kernel: (kernel.architecture, kernel.name))


@functools.cache
def disassemble(library, architecture):
    """The machine code of each kernel: a list of (address, opcode, jump target or None, whether it may also go on)."""
    environment = {**os.environ, "PATH": f"{Path(find_tool('nvdisasm')).parent}:{os.environ['PATH']}"}
    command = [find_tool("cuobjdump"), "-sass", "-arch", architecture, library]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    kernels = {}
    for part in re.split(r"Function : ", demangle(text))[1:]:
        signature, _, body = part.partition("\n")
        code = []
        for line in re.finditer(r"/\*([0-9a-f]{4,})\*/ +(@!?U?P\w+ +)?([A-Z][\w.]*)([^;]*);", body):
            address, predicate, opcode, operands = line.groups()
            target = re.search(r"0x([0-9a-f]+)", operands) if opcode.startswith(("BRA", "CALL")) else None
            conditional = predicate is not None or opcode.startswith(("CALL", "BRA.DIV"))
            conditional |= target is not None and re.search(r"\bU?P\d", operands) is not None
            code.append((int(address, 16), opcode, int(target[1], 16) if target else None, conditional))
        kernels[short_name(signature)[0]] = code
    return kernels


def opcodes_before(code, awaited):
    """Opcodes that some way from the kernel's start comes to without passing `awaited`."""
    index = {address: i for i, (address, *_) in enumerate(code)}
    found, ahead = set(), [0]
    while ahead:
        i = ahead.pop()
        _, name, target, conditional = code[i]
        if i in found or (name == awaited and not conditional):
            continue
        assert not name.startswith(("BRX", "JMX")), "a jump to anywhere"
        found.add(i)
        if target is not None:
            ahead.append(index[target])
        if conditional or (target is None and not name.startswith(("EXIT", "RET"))):
            ahead.append(i + 1)
    return {code[i][1].split(".")[0] for i in found}


def main_loop_share(code, opcode):
    """Share of `opcode` in the smallest loop that holds at least half of the kernel's.

    Of the loop counts the shortest way through it that leaves out no such instruction and no asynchronous copy: what
    runs at a change of window alone is left out, loops inside are gone through once.
    """
    total = sum(name.startswith(opcode) for _, name, _, _ in code)
    loops = []
    for end, name, target, _ in code:
        if target is None or target > end or name.startswith("CALL"):
            continue
        body = [line for line in code if target <= line[0] <= end]
        wanted = sum(name.startswith(opcode) for _, name, _, _ in body)
        if 2 * wanted >= total:
            loops.append((len(body), wanted, body))
    _, wanted, body = min(loops)
    return wanted / shortest_way(body, (opcode, "LDGSTS"))


def shortest_way(body, needed):
    """Instructions from the first to the last of `body` on the shortest way that passes all the needed ones."""
    index = {address: i for i, (address, *_) in enumerate(body)}
    passed = list(itertools.accumulate((name.startswith(needed) for _, name, _, _ in body), initial=0))
    least = [1] + [math.inf] * (len(body) - 1)
    for i, (_, name, target, conditional) in enumerate(body[:-1]):
        following = [i + 1] if conditional or (target is None and name != "EXIT") else []
        jump = index.get(target)
        if jump is not None and jump > i and passed[jump] == passed[i + 1]:
            following.append(jump)
        for j in following:
            least[j] = min(least[j], least[i] + 1)
    return least[-1]


def opcode_of(kernel_name):
    if "fma" in kernel_name:
        return "DFMA" if "double" in kernel_name else "FFMA"
    return "HMMA"


def print_table(library, log):
    codes = {architecture: disassemble(library, architecture) for architecture in ARCHITECTURES}
    print("| kernel | arch | registers | stack | spills | shared | occupancy | share of the main loop |")
    print("|---|---|---|---|---|---|---|---|")
    for kernel in resources(log):
        line = f"| {kernel.name} | {kernel.architecture} | {kernel.registers} | {kernel.stack} | {kernel.spills} | "
        if not kernel.is_product:
            print(line + " | | |")
            continue
        opcode = opcode_of(kernel.name)
        share = main_loop_share(codes[kernel.architecture][kernel.name], opcode)
        print(line + f"{kernel.shared_bytes} | {kernel.occupancy:.0%} | {opcode} {share:.0%} |")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print_table(*build(Path(temporary)))
