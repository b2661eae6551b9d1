"""Cases for tests/emulator/emulate.cpp: tensors in, the emulated kernels' tensors out."""

import io
import os
import struct
import subprocess
from pathlib import Path

import torch

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
NO_LIMIT = 2**31 - 1
OPERATORS = [
    "locally_shared_conv2d",
    "locally_shared_conv2d_input_grad",
    "locally_shared_conv2d_weight_grad",
    "locally_shared_conv2d_backward",
    "interweave",
    "interweave_adjoint",
    "interweaved_conv2d",
    "interweaved_conv2d_backward",
    "density_peaks",
]
SANITIZERS = {
    "plain": [],
    "bounds": ["-fsanitize=address"],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}


def build(folder, sanitizer="plain", dtypes=DTYPES, operators=OPERATORS, csrc=CSRC):
    """Compiles the kernels of `csrc` for some dtypes and operators with the emulator; the executable's path."""
    compiler = os.environ.get("CXX", "g++")
    scheduler, executable = folder / "emulator.o", folder / "emulate"
    tsan = ["-DEMULATOR_THREAD_SANITIZER"] if sanitizer == "thread" else []
    subprocess.run([compiler, "-std=c++20", "-O1", *tsan, "-c", HERE / "emulator.cpp", "-o", scheduler], check=True)
    source = folder / "emulate.cpp"  # beside the csrc it is to include
    source.write_text((HERE / "emulate.cpp").read_text().replace("../../csrc", str(csrc)))
    options = ["-std=c++20", "-O1", "-g", "-fno-strict-aliasing", "-Wall", "-Wno-unknown-pragmas", f"-I{HERE}"]
    options += [
        f"-DEMULATE_{name}={sum(1 << every.index(one) for one in chosen)}"
        for name, chosen, every in (("DTYPES", dtypes, DTYPES), ("OPERATORS", operators, OPERATORS))
    ]
    subprocess.run([compiler, *options, *SANITIZERS[sanitizer], source, scheduler, "-o", executable], check=True)
    return executable


class Case:
    """One call of an operator's CUDA code.

    arguments: ints in the order in which emulate.cpp takes them. inputs: tensors, whose whole storage is sent, or None.
    outputs: tensors that are overwritten. tf32, most_blocks, multiprocessors, shared_bytes, direct_products: see
    convolution.cuh; shared_bytes are an H200's unless told.
    """

    def __init__(
        self,
        operator,
        dtype,
        arguments,
        inputs,
        outputs,
        tf32=False,
        most_blocks=NO_LIMIT,
        multiprocessors=1,
        shared_bytes=113 * 1024,
        direct_products=0,
    ):
        self.operator, self.inputs, self.outputs, self.launches, self.early = operator, inputs, outputs, None, None
        header = [OPERATORS.index(operator), DTYPES.index(dtype), int(tf32), most_blocks, multiprocessors]
        self.header = [*header, shared_bytes, direct_products, len(arguments), *(int(a) for a in arguments)]

    def write(self, stream):
        stream.write(_numbers(*self.header, len(self.inputs)))
        for tensor in self.inputs:
            if tensor is None:
                stream.write(_numbers(-1))
                continue
            content = _storage(tensor).numpy().tobytes()
            stream.write(_numbers(len(content)) + content)
        stream.write(_numbers(len(self.outputs), *(_storage(tensor).numel() for tensor in self.outputs)))

    def read(self, stream):
        self.launches, self.early = struct.unpack("<2q", stream.read(16))
        for tensor in self.outputs:
            storage = _storage(tensor)
            if storage.numel():
                storage.copy_(torch.frombuffer(bytearray(stream.read(storage.numel())), dtype=torch.uint8))


def run(executable, cases, check=True):
    """Runs the cases in one process and fills their outputs; the finished process."""
    request = io.BytesIO()
    for case in cases:
        case.write(request)
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1", "TSAN_OPTIONS": "halt_on_error=1"}
    process = subprocess.run([executable], input=request.getvalue(), capture_output=True, env=environment)
    if check:
        assert process.returncode == 0, process.stderr.decode()[-3000:]
        answer = io.BytesIO(process.stdout)
        for case in cases:
            case.read(answer)
        assert not answer.read()
    return process


def strided(tensor):
    """A tensor as an argument of emulate.cpp: offset and strides."""
    return [tensor.storage_offset(), *tensor.stride()]


def _numbers(*values):
    return struct.pack(f"<{len(values)}q", *values)


def _storage(tensor):
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
