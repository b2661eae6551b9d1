"""Ours, cuDNN's plain convolution and Triton on the key shapes, seconds a row: forward, and each gradient by itself.

    python benchmarks/gpu/key_rows.py OUTPUT.md [SHAPE:N:PRECISION ...]      DEVICE=cpu tries the script itself

A row that fails, or hangs for half a minute, costs itself alone: the rows are made by a worker, which is begun anew.
"""

import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))
import on_gpu  # noqa: E402
from on_gpu import DEVICE, FORMATS, PRECISIONS, SHAPES, Candidate, input_sets, laid_out, one_cell, timed  # noqa: E402

on_gpu.ROUNDS = 7
SILENCE = float(os.environ.get("SILENCE", 30))  # seconds of a worker before it is taken for hung
LARGE = [("64->64", 256), ("128->128", 256), ("96->128", 256), ("64->64", 32), ("128->128", 32), ("96->128", 32)]
SMALL = [("C3", 256), ("C3", 32), ("C4", 256), ("C4", 32), ("C3", 1), ("C4", 1), ("unshared", 32), ("unshared", 256)]
KEY = [f"{s}:{n}:{p}" for p in ("bfloat16", "TF32", "float32") for s, n in LARGE + SMALL]
TRITON_TILES = [(128, 64, 64, 4, 3), (128, 128, 64, 8, 3), (256, 64, 64, 8, 3)]  # rows, columns, depth, warps, stages
PRODUCTS = {"forward": 1, "to the input": 1, "to the weight": 1, "both gradients": 2}
HEADER = ["shape", "N", "precision", "what", "ours", "ours, last", "plain", "plain, last", "without bias", "Triton"]
HEADER += ["ours / plain", "ours / without bias", "TFLOP/s", "of the peak"]
PEAK = {"float32": 67e12, "TF32": 495e12, "bfloat16": 990e12}
NONE = [1, 1], [0, 0], [1, 1]


def attempt(function, sets, *arguments):
    """The candidate, or None where it cannot run; a CUDA error ends the worker."""
    try:
        return Candidate(function, sets, *arguments)
    except Exception as error:
        if "CUDA error" in str(error):
            raise
        print("     ", type(error).__name__, str(error)[:200].replace("\n", " "), flush=True)


def is_last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last)


def with_grads(sets, shape):
    found = []
    for tensors in sets:
        input = tensors[0]
        grad = torch.randn(input.shape[0], shape.out_channels, *shape.out_size, device=DEVICE, dtype=input.dtype)
        memory_format = torch.channels_last if is_last(input) else torch.contiguous_format
        found.append([*tensors, grad.contiguous(memory_format=memory_format)])
    return found


def our_input_grad(input, weight, bias, grad, shape):
    operator = torch.ops.faceattr.locally_shared_conv2d_input_grad
    return operator(grad, weight, list(input.shape[2:]), *NONE, is_last(input))


def our_weight_grad(input, weight, bias, grad, shape):
    operator = torch.ops.faceattr.locally_shared_conv2d_weight_grad
    return operator(grad, input, list(shape.grid), [shape.kernel] * 2, *NONE)


def our_grads(input, weight, bias, grad, shape):
    return torch.ops.faceattr.locally_shared_conv2d_backward(grad, input, weight, *NONE)


def plain_grads(*mask):
    def run(input, weight, bias, grad, shape):
        backward = torch.ops.aten.convolution_backward
        return backward(grad, input, weight, [bias.numel()], *NONE, False, [0, 0], 1, mask)

    return run


def without_bias(input, weight, bias, shape):
    return F.conv2d(input, weight)


def triton_candidates(sets, shape, dtype, tf32):
    """Our shape's forward pass in Triton, a few tiles; what it gives is compared with ours."""
    from triton_rival import locally_shared

    wanted = on_gpu.ours(*sets[0], shape)
    for rows, columns, depth, warps, stages in TRITON_TILES:
        depth = (depth if shape.in_channels % 64 == 0 else depth // 2) // (2 if dtype.itemsize == 4 else 1)
        tile = {"BM": rows, "BN": columns, "BK": depth, "warps": warps, "stages": stages}

        def run(input, weight, bias, shape, tile=tile):
            return locally_shared(input, weight, bias, precision="tf32" if tf32 else "ieee", **tile)

        if candidate := attempt(run, sets, shape):
            off = (run(*sets[0], shape).float() - wanted.float()).abs().max().item()
            print(f"      triton {rows}x{columns}: off by {off:.3g}", flush=True)
            yield f"triton {rows}x{columns}", candidate


def rows_of(shape, batch, precision):
    dtype, tf32 = PRECISIONS[precision]
    torch.backends.cudnn.allow_tf32 = tf32
    sets = {ending: input_sets(shape, batch, dtype, kind, False) for ending, kind in FORMATS.items()}
    found = {}
    for ending, kind in FORMATS.items():
        own, plain = laid_out(sets[ending], kind), one_cell(sets[ending], kind)
        found["forward", "ours" + ending] = attempt(on_gpu.ours, own, shape)
        found["forward", "plain" + ending] = attempt(on_gpu.plain_convolution, plain, shape)
        found["forward", "bare" + ending] = attempt(without_bias, plain, shape)
        own, plain = with_grads(own, shape), with_grads(plain, shape)
        found["to the input", "ours" + ending] = attempt(our_input_grad, own, shape)
        found["to the input", "plain" + ending] = attempt(plain_grads(True, False, False), plain, shape)
        found["to the weight", "ours" + ending] = attempt(our_weight_grad, own, shape)
        found["to the weight", "plain" + ending] = attempt(plain_grads(False, True, True), plain, shape)
        found["to the weight", "bare" + ending] = attempt(plain_grads(False, True, False), plain, shape)
        found["both gradients", "ours" + ending] = attempt(our_grads, own, shape)
        found["both gradients", "plain" + ending] = attempt(plain_grads(True, True, True), plain, shape)
        found["both gradients", "bare" + ending] = attempt(plain_grads(True, True, False), plain, shape)
    if DEVICE == "cuda" and precision != "float32" and (shape.name, batch) in LARGE:
        last = laid_out(sets[", last"], torch.channels_last)
        found.update((("forward", name), one) for name, one in triton_candidates(last, shape, dtype, tf32))
    timed({key: candidate for key, candidate in found.items() if candidate})
    us = {key: candidate.milliseconds * 1e3 for key, candidate in found.items() if candidate}
    out = batch * shape.out_size[0] * shape.out_size[1] * shape.out_channels
    for what, products in PRODUCTS.items():
        times = {name: time for (product, name), time in us.items() if product == what}

        def best(start, times=times):
            return min((time for name, time in times.items() if name.startswith(start)), default=float("nan"))

        own, rival = best("ours"), min((n for n in times if n.startswith("triton")), key=times.get, default=None)
        rate = 2 * products * out * shape.in_channels * shape.kernel**2 / own * 1e6
        cells = [f"{times.get(n, float('nan')):.1f}" for n in ("ours", "ours, last", "plain", "plain, last")]
        cells += [f"{best('bare'):.1f}", f"{times[rival]:.1f} ({rival})" if rival else ""]
        ratios = [f"{own / best('plain'):.2f}", f"{own / best('bare'):.2f}"]
        share = f"{rate / PEAK[precision]:.0%}" if precision in PEAK else ""
        yield [shape.name, batch, precision, what, *cells, *ratios, f"{rate / 1e12:.1f}", share]


def work(output, keys):
    """Makes the rows in this process."""
    torch.backends.cudnn.benchmark = True
    for key in keys:
        name, batch, precision = key.split(":")
        start = time.time()
        print(f"++ {key}", flush=True)
        try:
            for row in rows_of(next(s for s in SHAPES if s.name == name), int(batch), precision):
                line = "| " + " | ".join(map(str, row)) + " |"
                print(line, flush=True)
                with open(output, "a") as file:
                    file.write(line + "\n")
        except Exception as error:
            print(f"FAIL {key}: {type(error).__name__}: {str(error)[:300]}", flush=True)
            if "CUDA error" in str(error):
                sys.exit(1)
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
        print(f"-- {key}: {time.time() - start:.1f} s", flush=True)


def supervise(command, keys):
    """Has `command` make the rows; where it dies or falls silent, another goes on after the row that it was at."""
    lost = []
    while keys:
        worker = subprocess.Popen([*command, *keys], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = queue.Queue()
        threading.Thread(target=_read, args=(worker, lines), daemon=True).start()
        begun = 0
        while True:
            try:
                line = lines.get(timeout=SILENCE)
            except queue.Empty:
                print(f"FAIL {keys[max(begun - 1, 0)]}: silent for {SILENCE:.0f} s", flush=True)
                worker.kill()
                break
            if line is None:
                break
            print(line, end="", flush=True)
            begun += line.startswith("++ ")
        if worker.wait() == 0:
            return lost
        lost.append(keys[max(begun - 1, 0)])
        keys = keys[max(begun, 1) :]
    return lost


def _read(worker, lines):
    for line in worker.stdout:
        lines.put(line)
    lines.put(None)


def main():
    output, *keys = [argument for argument in sys.argv[1:] if argument != "--work"]
    if "--work" in sys.argv:
        return work(output, keys)
    lines = [f"{on_gpu.machine()}; microseconds, medians of graph replays", "", f"| {' | '.join(HEADER)} |"]
    Path(output).write_text("\n".join([*lines, "|" + "---|" * len(HEADER)]) + "\n")
    lost = supervise([sys.executable, __file__, "--work", output], keys or KEY)
    print(f"rows lost: {lost or 'none'}", flush=True)
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
