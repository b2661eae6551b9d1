"""Symbolic sizes: one compiled or exported program for maps of any size."""

import pytest
import torch
from torch import nn

from faceattr import ops
from faceattr.nn import LocallySharedConv2d


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = LocallySharedConv2d(3, 4, 3, (3, 2), padding=1)
        self.weight = nn.Parameter(torch.randn(2, 2, 1, 4, 3, 3))

    def forward(self, input):
        maps = ops.interweaved_conv2d(self.layer(input), self.weight, shift=1, pool=2)[:, 0]
        peaks = ops.find_peaks(maps, max_peaks=4)
        return maps, peaks.index, peaks.score, ops.assign_peaks(peaks.parent, peaks)


SIZES = [(2, 3, 14, 15), (3, 3, 17, 20), (4, 3, 30, 12)]


def assert_same(ours, expected):
    for mine, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.slow
def test_compile():
    net = Net()
    compiled = torch.compile(net, dynamic=True, fullgraph=True)
    for size in SIZES:
        input = torch.randn(size)
        assert_same(compiled(input), net(input))


def test_export():
    net, auto = Net(), torch.export.Dim.AUTO
    program = torch.export.export(net, (torch.randn(SIZES[0]),), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    for size in SIZES:
        input = torch.randn(size)
        assert_same(program.module()(input), net(input))
