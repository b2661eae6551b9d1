"""Peak memory of locally_shared_conv2d beyond its results, as a Markdown table: python benchmarks/memory.py

Each figure comes from a process of its own: the growth of its largest resident size while the operator runs, less the
results. Large blocks are mapped afresh, so every byte that is touched counts.
"""

import os
import subprocess
import sys

import torch
from bench_locally_shared_conv2d import SHAPES, name

from faceattr.ops import locally_shared_conv2d

BOUND = "bound: input + weight + output"


def resident(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def problem(shape, dtype):
    n, c, o, size, kernel, grid = shape
    leaves = torch.randn(n, c, *size), torch.randn(*grid, o, c, kernel, kernel), torch.randn(*grid, o)
    return [leaf.to(dtype) for leaf in leaves]


def peak(shape, dtype, backward):
    """Bytes beyond input, parameters and results."""
    small = (1, 8, 8, (4, 4), 1, (1, 1))
    for run in (small, shape):  # the first starts threads and loads what calls load
        leaves = [leaf.requires_grad_(backward) for leaf in problem(run, dtype)]
        output = locally_shared_conv2d(*leaves).detach() if backward else None
        grad = torch.ones_like(output) if backward else None
        graph = locally_shared_conv2d(*leaves) if backward else None
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the largest size starts anew
        before = resident("VmRSS")
        results = torch.autograd.grad(graph, leaves, grad) if backward else [locally_shared_conv2d(*leaves)]
        grown = resident("VmHWM") - before
    return grown - sum(result.nbytes for result in results)


def measured(*arguments):
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, __file__, *map(str, arguments)]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def main():
    print("\n## Peak memory beyond arguments and results, MB\n")
    print(f"| | forward | backward | forward, bfloat16 | backward, bfloat16 | {BOUND}, float32 |\n|" + " --- |" * 6)
    for index, shape in enumerate(SHAPES):
        n, c, o, (height, width), kernel, grid = shape
        bound = 4 * (n * (c * height * width + o * (height - kernel + 1) * (width - kernel + 1)))
        bound += 4 * grid[0] * grid[1] * o * c * kernel**2
        figures = [measured(index, dtype, way) for dtype in ("float32", "bfloat16") for way in (0, 1)]
        print(f"| {name(shape)} | " + " | ".join(f"{figure / 1e6:.1f}" for figure in [*figures, bound]) + " |")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(peak(SHAPES[int(sys.argv[1])], getattr(torch, sys.argv[2]), sys.argv[3] == "1"))
    else:
        main()
