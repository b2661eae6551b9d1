"""interweaved_conv2d against separate maps that are interleaved, and ANet's dense pass against its crops."""

import pytest
import torch
from recipes import cell_loop, interweaved_by_maps

from faceattr.models.anet import ANet
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


@pytest.mark.parametrize("contender", ["ours", "crops"])
@pytest.mark.parametrize("field", [1, 4, 16])
def bench_anet_dense(field, contender, measure):
    net = ANet().eval()
    height, width = net.config["input_size"]
    image = torch.rand(1, 3, height + net.step * (field - 1), width + net.step * (field - 1))
    crops = image.unfold(2, height, net.step).unfold(3, width, net.step).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    crops = crops.contiguous()
    with torch.no_grad():
        dense = net.forward_dense(image).logits[0].flatten(1).T
        torch.testing.assert_close(dense, net(crops), rtol=1e-4, atol=1e-4)
        functions = {"ours": lambda: net.forward_dense(image), "crops": lambda: net(crops)}
        measure(f"ANet | {field}x{field} positions, dense against cropped", contender, functions[contender])


@pytest.mark.parametrize("contender", ["ours", "loop over cells"])
def bench_anet_of_recipes(contender, measure, monkeypatch):
    net = ANet().eval()
    image = torch.rand(1, 3, *net.config["input_size"])
    with torch.no_grad():
        expected = net(image)
        if contender != "ours":
            for layer in (net.c3, net.c4):
                monkeypatch.setattr(layer, "forward", lambda x, layer=layer: cell_loop(x, layer.weight, layer.bias))
        torch.testing.assert_close(net(image), expected, rtol=1e-4, atol=1e-4)
        measure("ANet | one crop", contender, lambda: net(image))
