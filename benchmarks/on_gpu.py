"""Times the operators on a GPU against what people write with PyTorch and against cuDNN's plain convolution.

    python benchmarks/on_gpu.py [--output RESULTS-cuda.md] [--shapes C3 ...] [--batches 1 32 256] [--no-compile]

Every candidate is captured in a CUDA graph that goes through several input sets, replayed in turns with the others, and
timed by events; the table holds medians. Results are checked to be equal before any is timed. DEVICE=cpu tries the
script itself, its times mean nothing.
"""

import argparse
import itertools
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from faceattr import ops


@dataclass(frozen=True)
class Shape:
    """A locally shared convolution with cells of one size."""

    name: str
    in_channels: int
    out_channels: int
    size: tuple
    kernel: int
    grid: tuple

    @property
    def out_size(self):
        return tuple(n - self.kernel + 1 for n in self.size)

    @property
    def cell(self):
        return tuple(n // g for n, g in zip(self.out_size, self.grid, strict=True))


SHAPES = [
    Shape("C3", 40, 60, (12, 10), 3, (5, 4)),
    Shape("C4", 60, 80, (5, 4), 2, (4, 3)),
    Shape("96->128", 96, 128, (26, 26), 3, (4, 4)),
    Shape("64->64", 64, 64, (66, 66), 3, (8, 8)),
    Shape("128->128", 128, 128, (34, 34), 3, (8, 8)),
    Shape("unshared", 40, 60, (14, 14), 3, (12, 12)),
    *(Shape(f"grid {g}x{g}", 96, 128, (26, 26), 3, (g, g)) for g in (1, 2, 8, 24)),
]
PRECISIONS = {  # dtype, whether TF32 is allowed
    "float32": (torch.float32, False),
    "TF32": (torch.float32, True),
    "bfloat16": (torch.bfloat16, False),
    "float16": (torch.float16, False),
}
DEVICE = os.environ.get("DEVICE", "cuda")
FORMATS = {"": torch.contiguous_format, ", last": torch.channels_last}
INPUT_SETS = 4
ROUNDS = 15
SLOW = 300  # milliseconds after which three rounds are enough
MOST_BYTES = 8 << 30  # a rival that needs more is left out


def cells(shape):
    return itertools.product(range(shape.grid[0]), range(shape.grid[1]))


def crop(input, shape, p, q):
    """What cell (p, q) reads, its halo included."""
    (height, width), reach = shape.cell, shape.kernel - 1
    return input[:, :, p * height : (p + 1) * height + reach, q * width : (q + 1) * width + reach]


def assemble(maps, shape):
    """[N, Gh, Gw, O, h, w] to [N, O, Gh*h, Gw*w]."""
    return maps.permute(0, 3, 1, 4, 2, 5).reshape(maps.shape[0], shape.out_channels, *shape.out_size)


def loop_of_convolutions(input, weight, bias, shape):
    # Filters taken apart at once: an index each would give each a gradient as large as all of them.
    filters = zip(cells(shape), weight.flatten(0, 1).unbind(), bias.flatten(0, 1).unbind(), strict=True)
    maps = [F.conv2d(crop(input, shape, p, q), own_weight, own_bias) for (p, q), own_weight, own_bias in filters]
    return assemble(torch.stack(maps, 1).unflatten(1, shape.grid), shape)


def grouped_convolution(input, weight, bias, shape):
    crops = torch.cat([crop(input, shape, p, q) for p, q in cells(shape)], 1)
    maps = F.conv2d(crops, weight.flatten(0, 2), bias.flatten(), groups=shape.grid[0] * shape.grid[1])
    return assemble(maps.unflatten(1, (*shape.grid, shape.out_channels)), shape)


def unfold_and_bmm(input, weight, bias, shape):
    count, (height, width) = input.shape[0], shape.cell
    columns = F.unfold(input, shape.kernel)  # [N, C*k*k, Ho*Wo]
    columns = columns.view(count, -1, shape.grid[0], height, shape.grid[1], width)
    columns = columns.permute(2, 4, 1, 0, 3, 5).reshape(shape.grid[0] * shape.grid[1], -1, count * height * width)
    maps = torch.baddbmm(bias.flatten(0, 1).unsqueeze(-1), weight.flatten(3).flatten(0, 1), columns)
    maps = maps.view(*shape.grid, shape.out_channels, count, height, width)
    return assemble(maps.permute(3, 0, 1, 2, 4, 5), shape)


def all_filters_then_select(input, weight, bias, shape):
    (height, width), grid = shape.cell, shape.grid
    maps = F.conv2d(input, weight.flatten(0, 2), bias.flatten())
    maps = maps.view(-1, *grid, shape.out_channels, grid[0], height, grid[1], width)
    maps = maps.diagonal(dim1=1, dim2=4).diagonal(dim1=1, dim2=4)  # [N, O, h, w, Gh, Gw]
    return assemble(maps.permute(0, 4, 5, 1, 2, 3), shape)


def ours(input, weight, bias, shape):
    return ops.locally_shared_conv2d(input, weight, bias)


def plain_convolution(input, weight, bias, shape):
    return F.conv2d(input, weight, bias)


def plain_without_bias(input, weight, bias, shape):
    """torch adds the bias in a pass of its own, which the kernel that it times does not."""
    return F.conv2d(input, weight)


RIVALS = [loop_of_convolutions, grouped_convolution, unfold_and_bmm, all_filters_then_select]


def fits(rival, shape, batch, dtype):
    if rival is not all_filters_then_select:
        return True
    positions = shape.out_size[0] * shape.out_size[1]
    return batch * shape.grid[0] * shape.grid[1] * shape.out_channels * positions * dtype.itemsize < MOST_BYTES


def input_sets(shape, batch, dtype, memory_format, requires_grad):
    fan = (shape.in_channels * shape.kernel**2) ** 0.5
    sets = []
    for _ in range(INPUT_SETS):
        input = torch.randn(batch, shape.in_channels, *shape.size, device=DEVICE, dtype=dtype)
        weight = torch.randn(
            *shape.grid, shape.out_channels, shape.in_channels, shape.kernel, shape.kernel, device=DEVICE, dtype=dtype
        )
        bias = torch.randn(*shape.grid, shape.out_channels, device=DEVICE, dtype=dtype)
        tensors = input.contiguous(memory_format=memory_format), weight / fan, bias
        sets.append([tensor.requires_grad_(requires_grad) for tensor in tensors])
    return sets


def one_cell(sets, memory_format):
    """The same inputs with the filters of the first cell, as the plain convolution takes them."""
    found = []
    for input, weight, bias in sets:
        own = weight.detach()[0, 0].contiguous(memory_format=memory_format), bias.detach()[0, 0].clone()
        found.append([input, *(tensor.requires_grad_(input.requires_grad) for tensor in own)])
    return found


def laid_out(sets, memory_format):
    """The same inputs with the filters in the memory format, as far as our operator knows it."""
    if memory_format is torch.contiguous_format:
        return sets
    return [
        [input, ops.channels_last_filters(weight.detach()).requires_grad_(weight.requires_grad), bias]
        for input, weight, bias in sets
    ]


def with_backward(function):
    def run(input, weight, bias, shape):
        output = function(input, weight, bias, shape)
        return torch.autograd.grad(output, (input, weight, bias), torch.ones_like(output))

    return run


class Candidate:
    """A function captured over the input sets; `milliseconds` are of one call, `peak` is bytes beyond its inputs."""

    def __init__(self, function, sets, *arguments):
        def run():
            for tensors in sets:
                function(*tensors, *arguments)

        self.times, self.run, self.peak = [], run, 0
        if DEVICE == "cpu":
            return
        # All on one stream: autograd hands gradients over on the stream that a leaf was first used on.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                run()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            function(*sets[0], *arguments)
            torch.cuda.synchronize()
            self.peak = torch.cuda.max_memory_allocated() - before
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream):
            run()

    def time(self):
        if DEVICE == "cpu":
            began = time.perf_counter()
            self.run()
            self.times.append((time.perf_counter() - began) * 1e3 / INPUT_SETS)
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self.graph.replay()
        end.record()
        torch.cuda.synchronize()
        self.times.append(start.elapsed_time(end) / INPUT_SETS)

    @property
    def milliseconds(self):
        return statistics.median(self.times)


def timed(candidates):
    """All candidates in turns, the first turn thrown away; a slow one has fewer."""
    for turn in range(ROUNDS + 1):
        for candidate in candidates.values():
            if len(candidate.times) >= 3 and sum(candidate.times) * INPUT_SETS > SLOW:
                continue
            candidate.time()
            if turn == 0:
                candidate.times.clear()
    return candidates


def convolution_row(shape, batch, precision, backward, compiled):
    dtype, tf32 = PRECISIONS[precision]
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")  # the rivals' matrix products
    sets = {ending: input_sets(shape, batch, dtype, kind, backward) for ending, kind in FORMATS.items()}
    functions = {rival.__name__: rival for rival in RIVALS if fits(rival, shape, batch, dtype)}
    with torch.no_grad():  # a graph kept from here would bind the leaves to this stream
        expected = ours(*sets[""][0], shape)
        for rival in functions.values():
            torch.testing.assert_close(rival(*sets[""][0], shape), expected, rtol=0.05, atol=0.05)
    if compiled:
        torch._dynamo.reset()  # else it compiles a few shapes and runs the others eagerly
        functions["unfold_and_bmm, compiled"] = torch.compile(unfold_and_bmm, dynamic=False)
    wrap = with_backward if backward else lambda function: function
    found = {}
    for ending, kind in FORMATS.items():
        for name, function in functions.items():
            found[name + ending] = Candidate(wrap(function), sets[ending], shape)
        found["ours" + ending] = Candidate(wrap(ours), laid_out(sets[ending], kind), shape)
        found["plain" + ending] = Candidate(wrap(plain_convolution), one_cell(sets[ending], kind), shape)
        if not backward:
            found["bare" + ending] = Candidate(plain_without_bias, one_cell(sets[ending], kind), shape)
    timed(found)
    microseconds = {name: candidate.milliseconds * 1e3 for name, candidate in found.items()}
    best = min((name + ending for name in functions for ending in FORMATS), key=microseconds.get)
    own = min(microseconds["ours"], microseconds["ours, last"])
    plain = min(microseconds["plain"], microseconds["plain, last"])
    bare = "" if backward else own / min(microseconds["bare"], microseconds["bare, last"])
    row = [
        shape.name,
        batch,
        precision,
        "fwd+bwd" if backward else "fwd",
        microseconds["ours"],
        microseconds["ours, last"],
    ]
    row += [f"{microseconds[best]:.1f} ({best})", plain, microseconds[best] / own, own / plain, bare]
    return [*row, found["ours"].peak / 2**20]


def pairwise_distances(maps):
    """Density peaks as people write them: all pairs, a masked minimum."""
    height, width = maps.shape[-2:]
    index = torch.arange(height * width, device=DEVICE)
    y, x = index // width, index % width
    squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    nearest = [
        squared.masked_fill(values[None, :] <= values[:, None], height**2 + width**2).min(1).values
        for values in maps.flatten(1)
    ]
    return torch.stack(nearest).double().sqrt().float()


def launches(function, *arguments):
    """Kernels that one call starts, copies and fills included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function(*arguments)
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


def other_rows():
    """Density peaks; ANet on one face, and over 16x16 offsets against the same faces cropped."""
    from faceattr.models.anet import ANet

    def row(name, own, other):
        return [name, own.milliseconds * 1e3, other.milliseconds * 1e3, other.milliseconds / own.milliseconds]

    def cropped(images):
        offsets = itertools.product(range(0, 64, 4), repeat=2)
        return net(torch.cat([images[:, :, i : i + 55, j : j + 47] for i, j in offsets]))

    maps = [[torch.rand(64, 57, 57, device=DEVICE) + 0.01] for _ in range(INPUT_SETS)]
    distance, _ = ops.density_peaks(maps[0][0])
    assert torch.equal(distance.flatten(1), pairwise_distances(maps[0][0]))
    net = ANet().cuda().eval()
    faces = [[torch.rand(1, 3, 55, 47, device=DEVICE)] for _ in range(INPUT_SETS)]
    fields = [[torch.rand(1, 3, 115, 107, device=DEVICE)] for _ in range(INPUT_SETS)]
    with torch.no_grad():
        net(faces[0][0])  # what the first call alone does is not counted
        count = launches(net, faces[0][0])
        one = [[torch.zeros(1, device=DEVICE)] for _ in range(INPUT_SETS)]
        found = timed(
            {
                "peaks": Candidate(ops.density_peaks, maps),
                "pairs": Candidate(pairwise_distances, maps),
                "one": Candidate(net, faces),
                "floor": Candidate(lambda number: [number.add_(1) for _ in range(count)], one),
                "dense": Candidate(net.forward_dense, fields),
                "cropped": Candidate(cropped, fields),
            }
        )
    return [
        row("density peaks of 64 maps of 57x57 (all pairs)", found["peaks"], found["pairs"]),
        row(f"ANet.forward of one face (its {count} launches, empty)", found["one"], found["floor"]),
        row("ANet.forward_dense, 16x16 offsets (cropped)", found["dense"], found["cropped"]),
    ]


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        lines.append("| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    return "\n".join(lines)


def geometric_means(rows):
    lines = []
    for kind in ("fwd", "fwd+bwd"):
        chosen = [row for row in rows if row[3] == kind and row[1] >= 32]
        if not chosen:
            continue
        rival, plain = (statistics.geometric_mean(row[column] for row in chosen) for column in (8, 9))
        worst = min(row[8] for row in chosen)
        lines.append(
            f"- {kind}, N >= 32, geometric means: {rival:.2f}x as fast as the best rival (worst {worst:.2f}x), "
            f"{plain:.2f}x the time of the plain convolution"
        )
    return "\n".join(lines)


def machine():
    if DEVICE == "cpu":
        return "a CPU, to try the script"
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpu = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return f"{gpu}; {versions}, Python {platform.python_version()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "RESULTS-cuda.md")
    parser.add_argument("--shapes", nargs="+", default=[shape.name for shape in SHAPES])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 256])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether torch.compile of unfold and bmm is among the rivals: minutes more",
    )
    arguments = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    header = ["shape", "N", "precision", "", "ours, us", "ours, channels last", "best rival", "plain conv2d"]
    header += ["rival / ours", "ours / plain", "ours / plain without bias", "peak MiB"]
    chosen = [shape for shape in SHAPES if shape.name in arguments.shapes]
    others = table(["", "us", "other, us", "other / ours"], other_rows())
    print(others, flush=True)
    rows, lost = [], []
    for shape, batch, precision, backward in itertools.product(
        chosen, arguments.batches, arguments.precisions, (False, True)
    ):
        try:
            rows.append(convolution_row(shape, batch, precision, backward, arguments.compile))
        except Exception as error:
            lost.append(f"{shape.name}:{batch}:{precision}")
            print(f"FAIL {lost[-1]}: {type(error).__name__}: {str(error)[:300]}", flush=True)
            continue
        print(*rows[-1], sep="  ", flush=True)
        torch.cuda.empty_cache()
        parts = [
            "# Measured on a GPU",
            machine(),
            "Microseconds a call, medians of CUDA graph replays; the better layout counts. Peak: beyond the inputs.",
            geometric_means(rows),
            table(header, rows),
            others,
        ]
        arguments.output.write_text("\n\n".join(parts) + "\n")  # what is there if this is stopped
    print(geometric_means(rows))
    print(f"rows lost: {lost or 'none'}")
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
