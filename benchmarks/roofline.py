"""What the shapes of on_gpu.py could cost at best, and what the kernels' plan for them predicts; runs anywhere.

    python benchmarks/roofline.py [A100|H200]

prints a Markdown table for csrc/PERFORMANCE.md. The plan repeats launch_contractions of csrc/common/convolution.cuh.
"""

import math
import sys
from dataclasses import dataclass

SHAPES = {  # name: in channels, out channels, size, kernel, grid
    "C3": (40, 60, (12, 10), 3, (5, 4)),
    "C4": (60, 80, (5, 4), 2, (4, 3)),
    "96->128": (96, 128, (26, 26), 3, (4, 4)),
    "64->64": (64, 64, (66, 66), 3, (8, 8)),
    "128->128": (128, 128, (34, 34), 3, (8, 8)),
    "unshared": (40, 60, (14, 14), 3, (12, 12)),
}
LAUNCH = 2.5  # microseconds between the starts of dependent kernels in a CUDA graph; assumed
DIRECT_PRODUCTS = 1 << 23


@dataclass(frozen=True)
class Precision:
    """`rate`: TFLOP/s of the data sheet; `share`: of it that the main loop is assumed to reach, and cuDNN's."""

    name: str
    bytes: int
    rate: float
    share: float
    cudnn_share: float


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet; bandwidth in TB/s."""

    multiprocessors: int
    bandwidth: float
    precisions: tuple


GPUS = {
    "A100": Gpu(
        108,
        1.9,
        (
            Precision("float32", 4, 19.5, 0.65, 0.8),
            Precision("TF32", 4, 156, 0.4, 0.6),
            Precision("bfloat16", 2, 312, 0.35, 0.6),
        ),
    ),
    "H200": Gpu(
        132,
        4.3,
        (
            Precision("float32", 4, 67, 0.6, 0.75),
            Precision("TF32", 4, 495, 0.25, 0.5),
            Precision("bfloat16", 2, 990, 0.2, 0.5),
        ),
    ),
}


def padded(n, multiple):
    return math.ceil(n / multiple) * multiple


def row(name, batch, precision, gpu):
    """One line of the table: a forward pass."""
    inputs, outputs, size, kernel, grid = SHAPES[name]
    out_size = [n - kernel + 1 for n in size]
    positions, cells, taps = batch * math.prod(out_size), math.prod(grid), kernel**2
    cell_rows = batch * math.prod(n // g for n, g in zip(out_size, grid, strict=True))
    products = positions * outputs * inputs * taps
    element = precision.bytes
    input_bytes = batch * inputs * math.prod(size) * element
    weight_bytes = cells * outputs * inputs * taps * element
    least_bytes = input_bytes + weight_bytes + positions * outputs * element
    arithmetic = 2 * products / precision.rate / 1e6
    memory = least_bytes / gpu.bandwidth / 1e6
    if products <= DIRECT_PRODUCTS:
        plan, waves = "direct", math.ceil(cells * outputs * math.ceil(cell_rows / 4) / 4) / (gpu.multiprocessors * 8)
        # Weights and inputs come from L2 once per warp; a wave of dependent loads is about a launch long.
        predicted = LAUNCH * (1 + math.ceil(waves))
    else:
        large_rows, small_rows = padded(cell_rows, 128), padded(cell_rows, 32)
        columns = math.ceil(outputs / 64)
        large = cells * large_rows // 128 * columns >= gpu.multiprocessors and 4 * large_rows <= 5 * small_rows
        tile, resident, rows = (128, 3, large_rows) if large else (32, 4, small_rows)
        blocks = cells * rows // tile * columns
        waves = blocks / (gpu.multiprocessors * resident)
        waste = rows / cell_rows * columns * 64 / outputs
        if waves > 1:
            idle = math.ceil(waves) / waves  # the last wave is not full
        else:
            idle = max(1, gpu.multiprocessors / blocks)  # some multiprocessors have no block
        packing = 2 * (input_bytes + weight_bytes) / gpu.bandwidth / 1e6
        plan = f"{tile}x64, {blocks} blocks, {waste:.2f}x padded"
        predicted = 2 * LAUNCH + packing + max(arithmetic * waste * idle / precision.share, memory)
    plain = LAUNCH + max(
        arithmetic / precision.cudnn_share, (input_bytes + positions * outputs * element) / gpu.bandwidth / 1e6
    )
    bound = "arithmetic" if arithmetic > memory else "memory"
    floors = f"{2 * products / 1e9:.3f} | {least_bytes / 1e6:.1f} | {arithmetic:.1f} | {memory:.1f} | {bound}"
    outcome = f"{plan} | {waves:.2f} | {predicted:.0f} | {predicted / plain:.1f}"
    return f"| {name} | {batch} | {precision.name} | {floors} | {outcome} |"


def main():
    gpu = GPUS[sys.argv[1] if len(sys.argv) > 1 else "H200"]
    header = ["shape", "N", "precision", "GFLOP", "least MB", "arithmetic, us", "memory, us", "bound", "plan", "waves"]
    header += ["predicted, us", "to plain conv2d"]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for name in SHAPES:
        for batch in (1, 32, 256):
            for precision in gpu.precisions:
                print(row(name, batch, precision, gpu))


if __name__ == "__main__":
    main()
