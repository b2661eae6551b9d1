"""density_peaks against all pairs, pydpc and a k-d tree, and how its time grows with the map."""

import itertools

import pytest
import torch
from recipes import pairwise_density_peaks, pydpc_density_peaks, tree_density_peaks

from faceattr.ops import density_peaks


def blobs(size):
    """Smooth blobs on an empty ground, as of a response map."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centres = torch.rand(8, 2) * size
    density = sum(torch.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * (0.05 * size) ** 2)) for a, b in centres)
    return (density - 0.1).clamp_min(0)


def sparse(size):
    return torch.where(torch.rand(size, size) < 0.01, torch.rand(size, size), 0)


MAPS = {
    "noise": lambda size: torch.rand(size, size),
    "ramp": lambda size: torch.arange(1.0, size * size + 1).view(size, size),
    "constant": lambda size: torch.ones(size, size),
    "chequerboard": lambda size: (torch.arange(size)[:, None] + torch.arange(size)) % 2 + 1.0,
    "sparse points": sparse,
    "blobs": blobs,
}


@pytest.mark.parametrize("contender", ["ours", "all pairs", "pydpc", "k-d tree"])
def bench_blobs(contender, measure):
    torch.manual_seed(0)
    density = blobs(64)
    distance, parent = density_peaks(density)
    functions = {
        "ours": lambda: density_peaks(density),
        "all pairs": lambda: pairwise_density_peaks(density, 0.0),
        "pydpc": lambda: pydpc_density_peaks(density, 0.0),
        "k-d tree": lambda: tree_density_peaks(density, 0.0),
    }
    torch.testing.assert_close(functions["all pairs"](), (distance, parent))
    torch.testing.assert_close(functions["k-d tree"](), distance)
    below = parent >= 0  # a maximum has no distance that all agree on
    torch.testing.assert_close(functions["pydpc"]()[below], distance[below])
    measure("density peaks | blobs, 64x64", contender, functions[contender])


@pytest.mark.parametrize("size", [256, 512])
@pytest.mark.parametrize("kind", MAPS)
def bench_growth(kind, size, measure):
    """Maps take turns: of one that comes again and again the processor learns the branches by heart if it is small."""
    torch.manual_seed(0)
    maps = itertools.cycle([MAPS[kind](size) for _ in range(16)])
    measure(f"density peaks, growth | {kind}", f"{size}x{size}", lambda: density_peaks(next(maps)))
