"""ANet: one crop and a step of training against the same net made of recipes, the dense pass against its crops."""

from functools import partial

import pytest
import torch
from recipes import cell_loop, grouped_conv, unfold_baddbmm
from torch import nn
from torch.nn import functional as F

from faceattr.models.anet import CONFIGS, ANet

# What C3 and C4 are made of; the last is the fastest for one crop.
RECIPES = {
    "loop over cells": (cell_loop, cell_loop),
    "grouped conv": (grouped_conv, grouped_conv),
    "unfold + baddbmm": (unfold_baddbmm, unfold_baddbmm),
    "grouped conv, unfold + baddbmm": (grouped_conv, unfold_baddbmm),
}


def replace(monkeypatch, net, contender):
    """The net as it is without our operators: torch's convolutions, and a recipe each for C3 and C4."""
    if contender == "ours":
        return
    for layer in net.shared:
        if isinstance(layer, nn.Conv2d):
            monkeypatch.setattr(layer, "forward", partial(nn.Conv2d.forward, layer))
    for layer, recipe in zip((net.c3, net.c4), RECIPES[contender], strict=True):
        monkeypatch.setattr(layer, "forward", lambda x, f=recipe, layer=layer: f(x, layer.weight, layer.bias))


@pytest.mark.parametrize("contender", ["ours", *RECIPES])
def bench_one_crop(contender, measure, monkeypatch):
    net = ANet().eval()
    image = torch.rand(1, 3, *net.config["input_size"])
    with torch.no_grad():
        expected = net(image)
        replace(monkeypatch, net, contender)
        torch.testing.assert_close(net(image), expected, rtol=1e-4, atol=1e-4)
        measure("ANet | one crop", contender, lambda: net(image))


@pytest.mark.parametrize("contender", ["ours", *RECIPES])
def bench_training_step(contender, measure, monkeypatch):
    """Of the wide net, in bfloat16: what training spends its time on."""
    torch.manual_seed(0)
    net = ANet(**CONFIGS["wide"])
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9)
    images = torch.rand(128, 3, *net.config["input_size"]).contiguous(memory_format=torch.channels_last)
    tags = torch.randint(0, 2, (128, 40)).float()
    replace(monkeypatch, net, contender)

    def step():
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(images)
        optimizer.zero_grad(set_to_none=True)
        F.binary_cross_entropy_with_logits(logits.float(), tags).backward()
        optimizer.step()

    measure("ANet, wide, a step of training on 128 | bfloat16", contender, step)


@pytest.mark.parametrize("contender", ["ours", "crops"])
@pytest.mark.parametrize("field", [1, 4, 16])
def bench_dense(field, contender, measure):
    net = ANet().eval()
    height, width = net.config["input_size"]
    image = torch.rand(1, 3, height + net.step * (field - 1), width + net.step * (field - 1))
    crops = image.unfold(2, height, net.step).unfold(3, width, net.step).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    crops = crops.contiguous()
    with torch.no_grad():
        dense = net.forward_dense(image).logits[0].flatten(1).T
        torch.testing.assert_close(dense, net(crops), rtol=1e-4, atol=1e-4)
        functions = {"ours": lambda: net.forward_dense(image), "crops": lambda: net(crops)}
        measure(f"ANet, dense against cropped | {field}x{field} positions", contender, functions[contender])
