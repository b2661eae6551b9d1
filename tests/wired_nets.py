"""Nets, faces and tags whose answers are known by construction."""

from pathlib import Path

import numpy as np
import torch

from faceattr.crops import CropSettings
from faceattr.data.faces import FACE
from faceattr.data.tagged import TaggedPictures
from faceattr.explain.nets import Net
from faceattr.models.anet import ANet
from faceattr.models.svm import LinearSVM

ATTRIBUTES = ("Smiling", "Male", "Young")


def net_on_one_cell(row: int, column: int, positions=(1, 1)) -> Net:
    """Smiling is the mean green under the C3 cell at `row` and `column` of the grid of 5 x 4, Male that at the mirrored
    one; Young is always the same. Every decision is of the crop and of its mirror image, half each."""
    anet = ANet(attributes=3, features=4, mean=[0.0] * 3, std=[1.0] * 3)
    columns = anet.config["c3"][2][1]
    with torch.no_grad():
        for parameter in anet.parameters():
            parameter.zero_()
        first, second = anet.shared[0], anet.shared[4]
        first.weight[0, 1] = 1 / first.weight[0, 1].numel()
        second.weight[0, 0] = 1 / second.weight[0, 0].numel()
        for channel, cell in enumerate((column, columns - 1 - column)):
            anet.c3.weight[row, cell, channel, 0] = 1 / 9
            # The first channels of fc's input are C3's, [channels, 5, 4].
            anet.fc.weight[channel, channel * 20 + row * 4 + cell] = 1
    svm = LinearSVM(3, 4)
    with torch.no_grad():
        svm.weight[0, 0] = svm.weight[1, 1] = 10
        svm.bias[2] = 1
    for module in (anet, svm):
        module.requires_grad_(False).eval()
    return Net(Path("wired"), anet, ATTRIBUTES, svm, np.full(3, 0.5), CropSettings(positions=positions), FACE)


def tagged(tags, known=None, identities=None, partitions=None, attributes=ATTRIBUTES) -> TaggedPictures:
    """Pictures that exist by their tags alone."""
    tags = np.asarray(tags, dtype=bool)
    known = np.ones_like(tags) if known is None else np.asarray(known, dtype=bool)
    names = [f"{number}.png" for number in range(len(tags))]
    return TaggedPictures(Path("folder"), names, tuple(attributes), tags, known, identities, partitions)
