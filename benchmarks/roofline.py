"""What the shapes of on_gpu.py could cost at best, and what the kernels' plan for them predicts; runs anywhere.

    python benchmarks/roofline.py [A100|H200] [backward]

prints a Markdown table for csrc/PERFORMANCE.md, and its means. The plan repeats launch_contractions of
csrc/common/convolution.cuh.
"""

import itertools
import math
import sys
from dataclasses import dataclass
from statistics import geometric_mean

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
    """A GPU by its data sheet; bandwidths in TB/s, that of the L2 assumed."""

    multiprocessors: int
    bandwidth: float
    l2: float
    precisions: tuple


GPUS = {
    "A100": Gpu(
        108,
        1.9,
        4.0,
        (
            Precision("float32", 4, 19.5, 0.65, 0.8),
            Precision("TF32", 4, 156, 0.5, 0.6),
            Precision("bfloat16", 2, 312, 0.5, 0.6),
        ),
    ),
    "H200": Gpu(
        132,
        4.3,
        5.5,
        (
            Precision("float32", 4, 67, 0.6, 0.75),
            Precision("TF32", 4, 495, 0.35, 0.5),
            Precision("bfloat16", 2, 990, 0.4, 0.5),
        ),
    ),
}


def padded(n, multiple):
    return math.ceil(n / multiple) * multiple


def runs(size, kernel, grid, forward):
    """Runs of positions that see the same filters, along one axis: (positions, taps that read something) of each."""
    out = size - kernel + 1
    if forward:
        return [(out // grid, kernel)] * grid
    cells = [tuple(min(max(i - u, 0), out - 1) * grid // out for u in range(kernel)) for i in range(size)]
    found = []
    for _, group in itertools.groupby(range(size), cells.__getitem__):
        positions = list(group)
        taps = sum(positions[0] - u < out and positions[-1] - u >= 0 for u in range(kernel))
        found.append((len(positions), taps))
    return found


@dataclass(frozen=True)
class Plan:
    """Blocks of a product, how often they fill the chip, its work with all padding, and what the L2 gives it."""

    text: str
    waves: float
    flops: float
    copied: float

    def microseconds(self, precision, gpu):
        return {"arithmetic": self.flops / precision.rate / precision.share / 1e6, "L2": self.copied / gpu.l2 / 1e6}


def idle(blocks, gpu):
    """How much longer it takes because some multiprocessors have a block less than others."""
    return math.ceil(blocks / gpu.multiprocessors) * gpu.multiprocessors / blocks


def plan_of(rows, columns, channels, precision, gpu):
    """The plan for runs of (positions, taps), batch included, as launch_contractions chooses it."""
    longest = max(positions for positions, _ in rows)
    lines = len(rows) * math.ceil(longest / 128)
    large, wide = (lines * math.ceil(columns / width) for width in (64, 128))
    rounds_large, rounds_wide = (math.ceil(blocks / gpu.multiprocessors) for blocks in (large, wide))
    if large < gpu.multiprocessors or 4 * padded(longest, 128) > 5 * padded(longest, 32):
        tile, resident = (32, 64), 4
    elif precision.name != "float32" and 8 * rounds_wide <= 5 * rounds_large:
        tile, resident = (128, 128), 2
    else:
        tile, resident = (128, 64), 3
    blocks = flops = copied = 0
    depth = padded(channels * precision.bytes, 16)
    for positions, taps in rows:
        own = math.ceil(positions / tile[0]) * math.ceil(columns / tile[1])
        blocks += own
        flops += own * math.prod(tile) * 2 * taps * channels
        copied += own * sum(tile) * 64 * math.ceil(taps * depth / 64)
    waves = blocks / (gpu.multiprocessors * resident)
    least = sum(positions * taps for positions, taps in rows) * columns * 2 * channels
    text = f"{tile[0]}x{tile[1]}, {blocks} blocks, {flops / least:.2f}x padded"
    return Plan(text, waves, flops * idle(blocks, gpu), copied)


def weight_plan(cell_rows, cells, taps, outputs, inputs, precision, gpu):
    """Splits and plan of the weight gradient, as convolve_weight_grad chooses them."""
    depth, tensor_cores = 64 // precision.bytes, precision.name != "float32"

    def count(tile):
        products = taps * math.ceil(outputs / tile) * math.ceil(inputs / tile) * cells
        splits = min(math.ceil(264 / products), max(cell_rows // (4 * depth), 1))
        return products * splits, splits

    wide = tensor_cores and min(outputs, inputs) > 64 and count(128)[0] >= 132
    tile, resident = (128, 2) if wide else (64, 4)
    blocks, splits = count(tile)
    stages = math.ceil(math.ceil(cell_rows / depth) / splits)
    # The small tile's instructions round the products halve what the tensor cores reach.
    flops = blocks * stages * tile**2 * depth * 2 * (2 if tensor_cores and not wide else 1)
    text = f"{tile}x{tile}, {blocks} blocks, {splits} splits"
    waves = blocks / (gpu.multiprocessors * resident)
    return splits, Plan(text, waves, flops * idle(blocks, gpu), blocks * stages * 2 * tile * 64)


def row(name, batch, precision, gpu, forward):
    """One line of a table: a forward pass, or the gradients of input, weight and bias."""
    inputs, outputs, size, kernel, grid = SHAPES[name]
    out_size = [n - kernel + 1 for n in size]
    positions, cells, taps = batch * math.prod(out_size), math.prod(grid), kernel**2
    cell_rows = positions // cells
    products = positions * outputs * inputs * taps
    element = precision.bytes
    input_bytes, output_bytes = batch * inputs * math.prod(size) * element, positions * outputs * element
    weight_bytes = cells * outputs * inputs * taps * element
    packing = 2 * weight_bytes + 2 * (input_bytes if forward else input_bytes + 2 * output_bytes)
    axes = [runs(n, kernel, g, forward) for n, g in zip(size, grid, strict=True)]
    rows = [(batch * y * x, taps_y * taps_x) for (y, taps_y), (x, taps_x) in itertools.product(*axes)]
    times, others = {}, packing / gpu.bandwidth / 1e6
    passes = 1 if forward else 2
    arithmetic = passes * 2 * products / precision.rate / 1e6
    least_bytes = passes * (input_bytes + weight_bytes) + output_bytes
    memory = least_bytes / gpu.bandwidth / 1e6
    if forward and products <= DIRECT_PRODUCTS:
        waves = math.ceil(cells * outputs * math.ceil(cell_rows / 4) / 4) / (gpu.multiprocessors * 8)
        # Weights and inputs come from L2 once per warp; a wave of dependent loads is about a launch long.
        texts, launches = [f"direct | {waves:.2f}"], 1 + math.ceil(waves)
        others, times = 0, {"memory": 0}
    elif forward:
        plan = plan_of(rows, outputs, inputs, precision, gpu)
        texts, launches = [f"{plan.text} | {plan.waves:.2f}"], 2
        times = {**plan.microseconds(precision, gpu), "memory": memory}
    else:
        to_input = plan_of(rows, inputs, outputs, precision, gpu)
        splits, to_weight = weight_plan(cell_rows, cells, taps, outputs, inputs, precision, gpu)
        texts, launches = [f"{plan.text} | {plan.waves:.2f}" for plan in (to_input, to_weight)], 5
        for plan in (to_input, to_weight):
            each = plan.microseconds(precision, gpu)
            limit = max(each, key=each.get)
            times[limit] = times.get(limit, 0) + each[limit]
        others += weight_bytes / element * (8 * splits + element) / gpu.bandwidth / 1e6  # adding the splits
    slowest = max(times.values()) if forward else sum(times.values())
    predicted = launches * LAUNCH + others + slowest
    parts = {**times, "launches": launches * LAUNCH, "packing": others}
    plain = passes * LAUNCH + max(
        arithmetic / precision.cudnn_share, passes * (input_bytes + output_bytes) / gpu.bandwidth / 1e6
    )
    bound = "arithmetic" if arithmetic > memory else "memory"
    floors = f"{passes * 2 * products / 1e9:.3f} | {least_bytes / 1e6:.1f} | {arithmetic:.1f} | {memory:.1f} | {bound}"
    outcome = f"{max(parts, key=parts.get)} | {predicted:.0f} | {predicted / plain:.1f}"
    return f"| {name} | {batch} | {precision.name} | {floors} | {' | '.join(texts)} | {outcome} |"


def main():
    gpu = GPUS[sys.argv[1] if len(sys.argv) > 1 else "H200"]
    forward = "backward" not in sys.argv
    header = ["shape", "N", "precision", "GFLOP", "least MB", "arithmetic, us", "memory, us", "bound"]
    header += ["plan", "waves"] if forward else ["to the input", "waves", "to the weight", "waves"]
    header += ["limited by", "predicted, us", "to plain conv2d"]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    ratios = {precision.name: [] for precision in gpu.precisions}
    for name in SHAPES:
        for batch in (1, 32, 256):
            for precision in gpu.precisions:
                line = row(name, batch, precision, gpu, forward)
                print(line)
                if batch >= 32:
                    ratios[precision.name].append(float(line.split("|")[-2]))
    means = ", ".join(f"{geometric_mean(values):.1f} ({name})" for name, values in ratios.items())
    print(f"\nTo plain conv2d, geometric mean at N of 32 and more: {means}")


if __name__ == "__main__":
    main()
