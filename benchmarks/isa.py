"""locally_shared_conv2d against the best recipe on one instruction set.

python benchmarks/isa.py avx2|avx512|native [THREADS [DTYPE [WORD]]]; float32 where no dtype is named; with a word, the
rows alone whose names have it. Starts itself anew with torch and its libraries held to that instruction set; native: to
none. Medians of interleaved rounds; with one thread of CPU time, which other programs on the machine change less.
"""

import os
import statistics
import sys
import time
from functools import partial

LIMITS = {
    "avx2": {
        "FACEATTR_CPU_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "avx512": {"FACEATTR_CPU_ISA": "avx512", "ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "native": {},
}

# N, C, O, input, kernel, stride, grid, channels_last
SHAPES = [
    (32, 512, 512, (7, 7), 1, 1, (7, 7), False),
    (32, 128, 128, (14, 14), 1, 1, (14, 14), False),
    (128, 64, 64, (8, 8), 1, 1, (8, 8), False),
    (32, 64, 64, (8, 8), 1, 1, (8, 8), True),
    (32, 256, 256, (7, 7), 3, 1, (5, 5), False),
    (32, 128, 128, (28, 28), 1, 1, (7, 7), False),
    (32, 128, 128, (56, 56), 3, 1, (2, 2), False),
    (64, 256, 256, (4, 4), 2, 2, (2, 2), False),
    (32, 1, 1, (64, 64), 3, 1, (1, 1), False),
]


def name(shape):
    n, c, o, size, kernel, stride, grid, last = shape
    text = f"{n} x {c} -> {o}, {size[0]}x{size[1]}, kernel {kernel}, grid {grid[0]}x{grid[1]}"
    return text + (f", stride {stride}" if stride > 1 else "") + (", channels_last" if last else "")


def measure(functions, clock, seconds):
    """Medians in milliseconds, a round of each after the other."""
    times = {key: [] for key in functions}
    for function in functions.values():
        function()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for key, function in functions.items():
            start = clock()
            function()
            times[key].append(1e3 * (clock() - start))
    return {key: statistics.median(values) for key, values in times.items()}


def gradients(function, leaves, stride, grad):
    import torch

    return torch.autograd.grad(function(*leaves, stride), leaves, grad)


def main(isa, threads, dtype, word):
    import torch
    from recipes import LOCALLY_SHARED
    from report import geometric_mean

    from faceattr.ops import locally_shared_conv2d

    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    dtype = getattr(torch, dtype)
    tolerance = 1e-3 if dtype == torch.float32 else 3e-2
    what = "CPU time" if threads == 1 else "wall time"
    print(f"{isa}, {dtype}, {threads} thread(s), {what}, torch {torch.__version__}\n")
    print("| | ours | best recipe | its time | best / ours | ours, both | best, both | best / ours, both |")
    print("|---|---|---|---|---|---|---|---|")
    ratios = []
    for shape in (shape for shape in SHAPES if word in name(shape)):
        n, c, o, size, kernel, stride, grid, last = shape
        torch.manual_seed(0)
        layout = torch.channels_last if last else torch.contiguous_format
        leaves = [
            torch.randn(n, c, *size).to(memory_format=layout),
            torch.randn(*grid, o, c, kernel, kernel) / (c * kernel**2) ** 0.5,
            torch.randn(*grid, o),
        ]
        leaves = [leaf.to(dtype) for leaf in leaves]
        recipes = dict(LOCALLY_SHARED)
        if c == 1:  # a layer that is a plain convolution
            recipes = {"conv2d": lambda x, w, b, stride: torch.nn.functional.conv2d(x, w[0, 0], b[0, 0], stride)}
        contenders = {"ours": locally_shared_conv2d, **recipes}
        expected = locally_shared_conv2d(*leaves, stride)
        for function in recipes.values():
            torch.testing.assert_close(function(*leaves, stride), expected, rtol=tolerance, atol=tolerance)
        with torch.no_grad():
            forward = measure({k: partial(f, *leaves, stride) for k, f in contenders.items()}, clock, 4)
        best = min((t, k) for k, t in forward.items() if k != "ours")
        grad = torch.randn_like(expected)
        leaves = [leaf.requires_grad_() for leaf in leaves]
        fast = {k: f for k, f in contenders.items() if k == "ours" or forward[k] < 3 * best[0]}
        both = measure({k: partial(gradients, f, leaves, stride, grad) for k, f in fast.items()}, clock, 6)
        best_both = min(t for k, t in both.items() if k != "ours")
        ratios.append((best[0] / forward["ours"], best_both / both["ours"]))
        print(
            f"| {name(shape)} | {forward['ours']:.3f} | {best[1]} | {best[0]:.3f} | {ratios[-1][0]:.2f} "
            f"| {both['ours']:.3f} | {best_both:.3f} | {ratios[-1][1]:.2f} |",
            flush=True,
        )
    means = [geometric_mean(column) for column in zip(*ratios, strict=True)]
    print(f"| geometric mean | | | | {means[0]:.2f} | | | {means[1]:.2f} |")


if __name__ == "__main__":
    isa, threads, dtype, word = (*sys.argv[1:], *(None, "1", "float32", "")[len(sys.argv) - 1 :])
    if any(os.environ.get(key) != value for key, value in LIMITS[isa].items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **LIMITS[isa]})
    main(isa, int(threads), dtype, word)
