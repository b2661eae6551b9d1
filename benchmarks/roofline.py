"""What the shapes of on_gpu.py could cost at best, and what the kernels' plan for them predicts; runs anywhere.

    python benchmarks/roofline.py [A100|H100|H200] [backward|weight-windows] [without CHOICE ...]

prints a Markdown table for csrc/PERFORMANCE.md, and its means; `without` shows what the kernels' choices are worth:
look-ahead (a half of a stage is read while the one before is multiplied), in-place (filters are read as they lie,
backward too), together (one operator packs the gradient once), whole (a sum in one part is written where it belongs).
`weight-windows` shows what the weight gradient would gain at most if it read windows of the input, as the others do.
The plan repeats launch_contractions of csrc/cuda/convolution.cuh and csrc/cuda/windows.cuh; maps and filters lie
channels last.
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
CHOICES = {"look-ahead", "in-place", "together", "whole"}
# Assumed, in microseconds: between the starts of dependent kernels in a CUDA graph; from a block's start to its first
# product; a stage's barrier and chain of products, with the reads hidden and not.
LAUNCH, FILL, STAGE, STAGE_READS = 2.5, 1.0, 0.06, 0.10
NOT_HIDDEN = 0.85  # of the rates, where reads wait for products; assumed
DIRECT_PRODUCTS = 1 << 21


@dataclass(frozen=True)
class Precision:
    """`rate`: TFLOP/s of the data sheet; `shares`: of it that small, large, and twice as large tiles are assumed to
    reach, and cuDNN's; `winograd`: cuDNN's 3x3, as if it took all products."""

    name: str
    bytes: int
    rate: float
    shares: tuple
    cudnn_share: float
    winograd: float = 0

    def cudnn(self, kernel):
        return max(self.cudnn_share, self.winograd * (kernel == 3))


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet; bandwidths in TB/s, that of the L2 assumed; shared memory of a multiprocessor in KiB."""

    multiprocessors: int
    shared: int
    bandwidth: float
    l2: float
    precisions: tuple


# mma.sync reaches 35 to 45 % of a Hopper's rate, wgmma is needed for more; cuDNN has it. Winograd's F(2x2, 3x3) takes
# 2.25 times fewer products in float32, at 60 % of the rate.
HOPPER = (
    Precision("float32", 4, 67, (0.45, 0.6), 0.75, 2.25 * 0.6),
    Precision("TF32", 4, 495, (0.25, 0.35, 0.45), 0.5),
    Precision("bfloat16", 2, 990, (0.25, 0.35, 0.45), 0.5),
)
GPUS = {
    "A100": Gpu(
        108,
        164,
        1.9,
        4.0,
        (
            Precision("float32", 4, 19.5, (0.5, 0.65), 0.8, 2.25 * 0.6),
            Precision("TF32", 4, 156, (0.35, 0.55, 0.6), 0.6),
            Precision("bfloat16", 2, 312, (0.35, 0.55, 0.6), 0.6),
        ),
    ),
    "H100": Gpu(132, 228, 3.0, 5.5, HOPPER),
    "H200": Gpu(132, 228, 4.3, 5.5, HOPPER),
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
    """Blocks of a product, how often they fill the chip, its work with all padding, what the L2 gives it, and the
    stages of a block."""

    text: str
    waves: float
    flops: float
    copied: float
    share: float
    stages: int

    def microseconds(self, precision, gpu, choices):
        hidden = "look-ahead" in choices
        rate = precision.rate * self.share * (1 if hidden or precision.name == "float32" else NOT_HIDDEN)
        return {
            "arithmetic": self.flops / rate / 1e6,
            "L2": self.copied / gpu.l2 / 1e6,
            "latency": math.ceil(self.waves) * (FILL + self.stages * (STAGE if hidden else STAGE_READS)),
        }


def idle(blocks, gpu):
    """How much longer it takes because some multiprocessors have a block less than others."""
    return math.ceil(blocks / gpu.multiprocessors) * gpu.multiprocessors / blocks


def window_lines(rows, batch, run, all_y, all_x):
    """Lines of a window of `rows` positions of a run, as WindowPlanner::lines has them at stride 1."""
    (height, taps_y), (width, taps_x) = run
    span_y, span_x = (taps_y - 1) * all_y, (taps_x - 1) * all_x
    own = min(rows, batch * height * width)

    def passes(period):
        return own // period - 1 if own % period == 0 else math.ceil((own - 1) / period)

    line = width + span_x
    maps, lines = passes(height * width), passes(width)
    return own - 1 + lines * span_x + maps * span_y * line + span_y * line + span_x + 1


def contraction_bytes(rows, columns, lines, taps, listed):
    """ContractionMemory of contraction.cuh: windows of `lines` for `taps` of them, lists of `listed` taps."""
    lines = max(lines, rows)
    lists = 4 * 2 * taps * 16 + rows * 16 + listed * 16 + 56
    return (3 * columns + max(2 * lines, 3 * rows)) * 80 + (lines + 1) // 2 * 16 + lists


@dataclass(frozen=True)
class Windows:
    """Whether each run's serve all taps of y, of x; memory of a block; lines for all taps, of the largest run."""

    served: dict
    shared: int
    copied: int


def windows_of(tile, batch, runs, kernel, gpu):
    """As WindowPlanner::plan has them."""

    def shared(lines, taps):
        return contraction_bytes(*tile, lines, taps, 2 * kernel)

    def fits(lines, taps):
        return shared(lines, taps) <= gpu.shared * 512 - 1024

    def best(run, may_be):
        """(lines for all taps, whether not all taps of y, of x, lines, taps)"""
        ways = [(tile[0] * kernel**2, True, True, tile[0], 1)]
        for all_y in (False, True):
            taps = kernel**2 if all_y else kernel
            lines = window_lines(tile[0], batch, run, all_y, True)
            if may_be(lines, taps):
                ways.append((lines * kernel**2 // taps, not all_y, False, lines, taps))
        return min(ways)

    copied, _, _, most_work, _ = best(max(runs, key=lambda run: run[0][0] * run[1][0]), fits)
    ways = {run: best(run, lambda lines, taps: 4 * lines <= 5 * most_work and fits(lines, taps)) for run in set(runs)}
    served = {run: (not way[1], not way[2]) for run, way in ways.items()}
    return Windows(served, shared(max(way[3] for way in ways.values()), max(way[4] for way in ways.values())), copied)


def plan_of(runs, batch, kernel, columns, channels, precision, gpu):
    """The plan for runs, each (positions, taps) of both axes, as launch_contractions chooses it."""
    longest = batch * max(y * x for (y, _), (x, _) in runs)
    lines = len(runs) * math.ceil(longest / 128)
    large = lines * math.ceil(columns / 64)
    twice = (128, 128) if columns > 64 else (256, 64)
    blocks_twice = len(runs) * math.ceil(longest / twice[0]) * math.ceil(columns / twice[1])
    rounds_large, rounds_twice = (math.ceil(blocks / gpu.multiprocessors) for blocks in (large, blocks_twice))
    tile, size, resident = (128, 64), 1, 3
    if large < gpu.multiprocessors or 4 * padded(longest, 128) > 5 * padded(longest, 32):
        tile, size, resident = (32, 64), 0, 4
    elif precision.name != "float32" and 8 * rounds_twice <= 5 * rounds_large:
        own, other = (windows_of(t, batch, runs, kernel, gpu) for t in (twice, tile))
        reads, reads_other = own.copied + kernel**2 * twice[1], other.copied + kernel**2 * tile[1]
        if own.shared <= gpu.shared * 512 - 1024 and reads <= 2 * reads_other:
            tile, size, resident = twice, 2, 2
    windows = windows_of(tile, batch, runs, kernel, gpu)
    resident = min(resident, gpu.shared * 1024 // (windows.shared + 1024))
    blocks = flops = copied = 0
    chunks = math.ceil(channels * precision.bytes / 64)
    depth = padded(channels * precision.bytes, 16 if precision.name == "float32" else 32)
    for run in runs:
        (y, taps_y), (x, taps_x) = run
        positions, taps = batch * y * x, taps_y * taps_x
        own = math.ceil(positions / tile[0]) * math.ceil(columns / tile[1])
        all_y, all_x = windows.served[run]
        groups = (1 if all_y else taps_y) * (1 if all_x else taps_x)
        rows = groups * window_lines(tile[0], batch, run, all_y, all_x)
        blocks += own
        flops += own * math.prod(tile) * 2 * taps * depth / precision.bytes
        copied += own * (rows + taps * tile[1]) * 64 * chunks
    waves = blocks / (gpu.multiprocessors * resident)
    least = sum(batch * y * x * taps_y * taps_x for (y, taps_y), (x, taps_x) in runs) * columns * 2 * channels
    all_y, all_x = windows.served[max(runs, key=lambda run: run[0][0] * run[1][0])]
    served = "all taps" if all_y else "rows of taps" if all_x else "single taps"
    text = f"{tile[0]}x{tile[1]}, {blocks} blocks, {flops / least:.2f}x padded, {served}"
    stages = chunks * max(taps_y * taps_x for (_, taps_y), (_, taps_x) in runs)
    return Plan(text, waves, flops * idle(blocks, gpu), copied, precision.shares[size], stages)


def weight_plan(cell_rows, cells, taps, outputs, inputs, precision, gpu, lines_a_tap=1):
    """Splits and plan of the weight gradient, as convolve_weight_grad chooses them.

    lines_a_tap: lines of the input that are copied for a position and a tap; one without windows.
    """
    depth, tensor_cores = 64 // precision.bytes, precision.name != "float32"
    columns = taps * padded(inputs, 16 // precision.bytes)

    def count(tile):
        products = math.ceil(outputs / tile[0]) * math.ceil(columns / tile[1]) * cells
        splits = min(math.ceil(264 / products), max(cell_rows // (4 * depth), 1))
        return products * splits, splits

    def area(tile):
        return padded(outputs, tile[0]) * padded(columns, tile[1])

    def fits(tile):
        blocks, splits = count(tile)
        if tile == (64, 256):  # fills the chip by itself
            return blocks // splits >= 132 and 5 * area(tile) <= 7 * area((64, 64))
        return blocks >= 132 and 4 * area(tile) <= 5 * area((64, 64))

    tile, resident, share = (64, 64), 4, precision.shares[0 if tensor_cores else 1]
    for larger, own_resident, own_share in (((128, 128), 2, 1), ((64, 256), 2, 1), ((64, 128), 3, 0)):
        if tensor_cores and fits(larger):
            tile, resident, share = larger, own_resident, precision.shares[own_share]
            break
    blocks, splits = count(tile)
    stages = math.ceil(math.ceil(cell_rows / depth) / splits)
    flops = blocks * stages * math.prod(tile) * depth * 2
    text = f"{tile[0]}x{tile[1]}, {blocks} blocks, {splits} splits"
    waves = blocks / (gpu.multiprocessors * resident)
    # What lies past the last row or column is not read.
    rows = math.ceil(columns / tile[1]) * padded(outputs, 16 // precision.bytes)
    lines = rows + math.ceil(outputs / tile[0]) * columns * lines_a_tap
    copied = splits * cells * stages * lines * 64
    return splits, Plan(text, waves, flops * idle(blocks, gpu), copied, share, stages)


def weight_windows(gpu):
    """A table of the weight gradient's limits without and with windows of a row of taps."""
    print("| shape | N | precision | plan | arithmetic, us | L2, us | L2 with windows, us | limit with them |")
    print("|---|---|---|---|---|---|---|---|")
    for name in ("64->64", "128->128", "96->128"):
        inputs, outputs, size, kernel, grid = SHAPES[name]
        out_size = [n - kernel + 1 for n in size]
        width = out_size[1] // grid[1]
        for batch, precision in itertools.product((32, 256), gpu.precisions):
            work = batch * math.prod(out_size) // math.prod(grid), math.prod(grid), kernel**2, outputs, inputs
            _, plan = weight_plan(*work, precision, gpu)
            _, in_windows = weight_plan(*work, precision, gpu, (width + kernel - 1) / (width * kernel))
            now, then = (p.microseconds(precision, gpu, CHOICES) for p in (plan, in_windows))
            numbers = f"{now['arithmetic']:.1f} | {now['L2']:.1f} | {then['L2']:.1f}"
            limit = max(then.values()) / max(now.values())
            print(f"| {name} | {batch} | {precision.name} | {plan.text} | {numbers} | {limit:.2f} of today's |")


def row(name, batch, precision, gpu, forward, choices=CHOICES):
    """The cells of one line of a table: a forward pass, or the gradients of input, weight and bias."""
    inputs, outputs, size, kernel, grid = SHAPES[name]
    out_size = [n - kernel + 1 for n in size]
    positions, cells, taps = batch * math.prod(out_size), math.prod(grid), kernel**2
    cell_rows = positions // cells
    products = positions * outputs * inputs * taps
    element = precision.bytes
    input_bytes, output_bytes = batch * inputs * math.prod(size) * element, positions * outputs * element
    weight_bytes = cells * outputs * inputs * taps * element
    # A channels_last map whose channels are whole vectors is read as it lies, and so are such filters.
    input_packed, output_packed = (
        2 * size * (n * element % 16 > 0) for size, n in ((input_bytes, inputs), (output_bytes, outputs))
    )
    filters_packed = 2 * weight_bytes * (inputs * element % 16 > 0 or (not forward and "in-place" not in choices))
    packing = filters_packed + input_packed + (0 if forward else output_packed)
    axes = [runs(n, kernel, g, forward) for n, g in zip(size, grid, strict=True)]
    own_runs = list(itertools.product(*axes))
    times, others = {}, packing / gpu.bandwidth / 1e6
    passes = 1 if forward else 2
    arithmetic = passes * 2 * products / precision.rate / 1e6
    least_bytes = passes * (input_bytes + weight_bytes) + output_bytes
    memory = least_bytes / gpu.bandwidth / 1e6
    if forward and products <= DIRECT_PRODUCTS:
        waves = math.ceil(cells * outputs * math.ceil(cell_rows / 4) / 4) / (gpu.multiprocessors * 5)
        # Weights and inputs come from L2 once per warp; a wave of dependent loads is about a launch long.
        texts, launches = [f"direct | {waves:.2f}"], 1 + math.ceil(waves)
        others, times = 0, {"memory": 0}
    elif forward:
        plan = plan_of(own_runs, batch, kernel, outputs, inputs, precision, gpu)
        texts, launches = [f"{plan.text} | {plan.waves:.2f}"], 1 + (packing > 0)
        times = {**plan.microseconds(precision, gpu, choices), "memory": memory}
    else:
        to_input = plan_of(own_runs, batch, kernel, inputs, outputs, precision, gpu)
        splits, to_weight = weight_plan(cell_rows, cells, taps, outputs, inputs, precision, gpu)
        texts = [f"{plan.text} | {plan.waves:.2f}" for plan in (to_input, to_weight)]
        adds = splits > 1 or "whole" not in choices
        packs = (
            (packing > 0)
            if "together" in choices
            else (filters_packed + output_packed > 0) + (input_packed + output_packed > 0)
        )
        launches = 2 + packs + adds
        for plan in (to_input, to_weight):
            each = plan.microseconds(precision, gpu, choices)
            limit = max(each, key=each.get)
            times[limit] = times.get(limit, 0) + each[limit]
        if "together" not in choices:
            others += output_packed / gpu.bandwidth / 1e6
        others += adds * weight_bytes / element * (8 * splits + element) / gpu.bandwidth / 1e6
    slowest = max(times.values()) if forward else sum(times.values())
    predicted = launches * LAUNCH + others + slowest
    parts = {**times, "launches": launches * LAUNCH, "packing": others}
    plain = passes * LAUNCH + max(
        arithmetic / precision.cudnn(kernel), passes * (input_bytes + output_bytes) / gpu.bandwidth / 1e6
    )
    # torch adds the bias in a pass of its own, and sums its gradient in one.
    with_bias = plain + LAUNCH + (2 if forward else 1) * output_bytes / gpu.bandwidth / 1e6
    bound = "arithmetic" if arithmetic > memory else "memory"
    floors = [f"{passes * 2 * products / 1e9:.3f}", f"{least_bytes / 1e6:.1f}", f"{arithmetic:.1f}", f"{memory:.1f}"]
    return [
        *(name, batch, precision.name, *floors, bound, *texts, launches, max(parts, key=parts.get)),
        *(f"{predicted:.0f}", f"{predicted / with_bias:.1f}", f"{predicted / plain:.1f}"),
    ], (predicted / with_bias, predicted / plain)


def main():
    words = sys.argv[1:]
    without = words[words.index("without") + 1 :] if "without" in words else []
    if unknown := set(without) - CHOICES:
        sys.exit(f"roofline.py: no choice {', '.join(unknown)}; there are {', '.join(sorted(CHOICES))}")
    choices = CHOICES - set(without)
    gpu = next((GPUS[word] for word in words if word in GPUS), GPUS["H200"])
    if "weight-windows" in words:
        return weight_windows(gpu)
    forward = "backward" not in words
    header = ["shape", "N", "precision", "GFLOP", "least MB", "arithmetic, us", "memory, us", "bound"]
    header += ["plan", "waves"] if forward else ["to the input", "waves", "to the weight", "waves"]
    header += ["launches", "limited by", "predicted, us", "to conv2d", "to conv2d without bias"]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    ratios = {precision.name: [] for precision in gpu.precisions}
    for name in SHAPES:
        for batch in (1, 32, 256):
            for precision in gpu.precisions:
                cells, ratio = row(name, batch, precision, gpu, forward, choices)
                print("| " + " | ".join(map(str, cells)) + " |")
                if batch >= 32:
                    ratios[precision.name].append(ratio)
    means = ", ".join(
        f"{name} " + " and ".join(f"{geometric_mean(values):.2f}" for values in zip(*pairs, strict=True))
        for name, pairs in ratios.items()
    )
    print(f"\nTo conv2d with and without bias, geometric means at N of 32 and more: {means}")


if __name__ == "__main__":
    main()
