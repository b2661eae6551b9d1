"""Each operator and tile path once on the GPU against float64: which are right, with a hint where they are wrong.

    python benchmarks/gpu/smoke.py [GROUP ...]      DEVICE=cpu tries the script itself

A group is a precision or a family. Run them in processes of their own, so that a kernel that kills its context does not
hide the others.
"""

import os
import sys
import time

import torch
import torch.nn.functional as F

from faceattr import ops

DEVICE = os.environ.get("DEVICE", "cuda")
LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2, "TF32": 3e-3}
# in, out, size, kernel, grid, batch: what launch_contractions and convolve_weight_grad choose on 132 multiprocessors
SHAPES = {
    "direct: C3 N=1": (40, 60, (12, 10), 3, (5, 4), 1),
    "32x64: C3 N=32": (40, 60, (12, 10), 3, (5, 4), 32),
    "32x64, 2x2: C4 N=64": (60, 80, (5, 4), 2, (4, 3), 64),
    "128x64: 96->128 N=32": (96, 128, (26, 26), 3, (4, 4), 32),
    "256x64: 64->64 N=32": (64, 64, (66, 66), 3, (8, 8), 32),
    "128x128: 128->128 N=32": (128, 128, (34, 34), 3, (8, 8), 32),
    "odd channels: 33->65 N=9": (33, 65, (26, 26), 3, (4, 4), 9),
    "unshared N=32": (40, 60, (14, 14), 3, (12, 12), 32),
}
failed = []


def say(good, label, hint=""):
    if not good:
        failed.append(label)
    print(f"{'ok  ' if good else 'FAIL'} {label}{hint}", flush=True)


def check(label, result, expected, limit):
    result, expected = result.double(), expected.double()
    difference = (result - expected).abs()
    scale = expected.abs().max().clamp_min(1e-30)
    error = (difference.max() / scale).item() if difference.numel() else 0.0
    good = error <= limit and not result.isnan().any().item()
    hint = f": error {error:.2e} (limit {limit:.0e})"
    if not good:
        wrong = ~(difference <= limit * scale)
        first, last = wrong.nonzero()[0].tolist(), wrong.nonzero()[-1].tolist()
        got, wanted = result[tuple(first)].item(), expected[tuple(first)].item()
        hint += (
            f"\n     {wrong.double().mean().item():.1%} wrong of {list(result.shape)}, first {first} last {last}; "
            f"there {got:.5g} for {wanted:.5g}; zeros {(result == 0).double().mean().item():.1%}, "
            f"NaN {result.isnan().double().mean().item():.1%}"
        )
    say(good, label, hint)


def per_cell(input, weight, bias):
    """Plain convolutions of the cells' crops, put together."""
    rows, columns = weight.shape[:2]
    reach = weight.shape[-1] - 1
    h, w = (input.shape[2] - reach) // rows, (input.shape[3] - reach) // columns
    lines = []
    for p in range(rows):
        crops = (input[:, :, p * h : p * h + h + reach, q * w : q * w + w + reach] for q in range(columns))
        lines.append(torch.cat([F.conv2d(crop, weight[p, q], bias[p, q]) for q, crop in enumerate(crops)], 3))
    return torch.cat(lines, 2)


def shared(precision, names=SHAPES, layouts=(False, True)):
    dtype = torch.float32 if precision == "TF32" else precision
    torch.backends.cudnn.allow_tf32 = precision == "TF32"
    for name in names:
        for last in layouts:
            label = f"{precision} {name}{' channels last' if last else ''}".replace("torch.", "")
            try:
                shared_shape(label, SHAPES[name], dtype, last, LIMITS[precision])
            except Exception as error:
                say(False, label, f": {type(error).__name__}: {str(error)[:300]}")
                if "CUDA error" in str(error):
                    raise


def shared_shape(label, shape, dtype, last, limit):
    inputs, outputs, size, k, grid, batch = shape
    torch.manual_seed(0)
    input = torch.randn(batch, inputs, *size, device=DEVICE).to(dtype)
    weight = (torch.randn(*grid, outputs, inputs, k, k, device=DEVICE) / (inputs * k * k) ** 0.5).to(dtype)
    bias = torch.randn(*grid, outputs, device=DEVICE).to(dtype)
    exact = [t.double().requires_grad_() for t in (input, weight, bias)]
    if last:
        input, weight = input.contiguous(memory_format=torch.channels_last), ops.channels_last_filters(weight)
    own = [t.requires_grad_() for t in (input, weight, bias)]
    expected, result = per_cell(*exact), ops.locally_shared_conv2d(*own)
    check(f"{label}, forward", result, expected, limit)
    grad = torch.randn_like(result)
    wanted = torch.autograd.grad(expected, exact, grad.double())
    got = torch.autograd.grad(result, own, grad, retain_graph=True)  # one operator
    for part, one, exact_one in zip(("input", "weight", "bias"), got, wanted, strict=True):
        check(f"{label}, gradient of {part}", one, exact_one, limit)
    alone = torch.autograd.grad(result, own, grad, create_graph=True)  # an operator each
    same = all(torch.equal(one, other) for one, other in zip(got, alone, strict=True))
    say(same, f"{label}, the same gradients from an operator each")


def interweaved():
    torch.backends.cudnn.allow_tf32 = False
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for pool, shift in ((1, 1), (2, 2)):
            torch.manual_seed(0)
            tensors = [
                torch.randn(4, 40, 27, 25).to(dtype),
                (torch.randn(5, 4, 60, 40, 3, 3) / 19).to(dtype),
                torch.randn(5, 4, 60).to(dtype),
            ]
            exact = [t.double().requires_grad_() for t in tensors]
            own = [t.to(DEVICE).requires_grad_() for t in tensors]
            expected = ops.interweaved_conv2d(*exact, shift=shift, pool=pool)
            result = ops.interweaved_conv2d(*own, shift=shift, pool=pool)
            label = f"interweaved {dtype} pool {pool}".replace("torch.", "")
            check(f"{label}, forward", result.cpu(), expected, 2 * LIMITS[dtype])
            if pool > 1 and dtype != torch.float64:
                continue  # near ties: another maximum may take the gradient
            grad = torch.randn(expected.shape).to(dtype)
            wanted = torch.autograd.grad(expected, exact, grad.double())
            got = torch.autograd.grad(result, own, grad.to(DEVICE))
            for part, one, exact_one in zip(("input", "weight", "bias"), got, wanted, strict=True):
                check(f"{label}, gradient of {part}", one.cpu(), exact_one, 2 * LIMITS[dtype])


def others():
    for dtype in (torch.float32, torch.bfloat16, torch.int8, torch.complex128):
        maps = torch.randint(0, 9, (3, 4, 3, 5, 20, 18)).to(dtype)
        equal = torch.equal(ops.interweave(maps.to(DEVICE), (1, 2)).cpu(), ops.interweave(maps, (1, 2)))
        say(equal, f"interweave {dtype}")
    noise = torch.rand(64, 57, 57)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for name, maps in {"noise": noise, "plateaus": (noise * 8).floor(), "ones": torch.ones(3, 40, 70)}.items():
            own, exact = ops.density_peaks(maps.to(DEVICE, dtype), 0.1), ops.density_peaks(maps.to(dtype), 0.1)
            equal = all(torch.equal(one.cpu(), other) for one, other in zip(own, exact, strict=True))
            say(equal, f"density_peaks {dtype} {name}")


def small():
    """Few and small: for the sanitizers."""
    for precision in (torch.bfloat16, torch.float32, "TF32"):
        shared(precision, list(SHAPES)[:2], (False,))


def large_tiles():
    shared(torch.bfloat16, list(SHAPES)[3:6], (True,))
    shared("TF32", list(SHAPES)[3:6], (True,))


GROUPS = {
    "float32": lambda: shared(torch.float32),
    "bfloat16": lambda: shared(torch.bfloat16),
    "TF32": lambda: shared("TF32"),
    "float16": lambda: shared(torch.float16, layouts=(True,)),
    "float64": lambda: shared(torch.float64, list(SHAPES)[:3] + list(SHAPES)[6:]),
    "interweaved": interweaved,
    "others": others,
    "small": small,
    "large tiles": large_tiles,
}


def main():
    for group in sys.argv[1:] or [name for name in GROUPS if name not in ("small", "large tiles")]:
        start = time.time()
        try:
            GROUPS[group]()
        except Exception as error:
            say(False, group, f": {type(error).__name__}: {str(error)[:500]}")
        print(f"-- {group}: {time.time() - start:.1f} s; failed: {failed or 'nothing'}", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
