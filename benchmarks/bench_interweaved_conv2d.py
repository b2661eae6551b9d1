"""interweaved_conv2d against separate maps that are interleaved."""

import pytest
import torch
from recipes import interweaved_by_maps

from faceattr.ops import interweaved_conv2d

# ANet's C3 and C4 over 16 x 16 patch positions: C, O, input, kernel, grid, stride, shift, pool.
LAYERS = {
    "C3 over 16x16 positions": (40, 60, (27, 25), 3, (5, 4), 1, 2, 2),
    "C4 over 16x16 positions": (60, 80, (80, 64), 2, (4, 3), (5, 4), 1, 1),
}


@pytest.mark.parametrize("contender", ["ours", "maps, interleaved"])
@pytest.mark.parametrize("layer", LAYERS)
def bench_forward(layer, contender, measure):
    c, o, size, kernel, grid, stride, shift, pool = LAYERS[layer]
    leaves = torch.randn(1, c, *size), torch.randn(*grid, o, c, kernel, kernel) / c, torch.randn(*grid, o)
    functions = {
        "ours": lambda: interweaved_conv2d(*leaves, stride, shift=shift, pool=pool),
        "maps, interleaved": lambda: interweaved_by_maps(*leaves, stride, shift, pool),
    }
    torch.testing.assert_close(*(function() for function in functions.values()), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        measure(f"interweaved forward | {layer}", contender, functions[contender])
