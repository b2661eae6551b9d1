"""How far a face is from where its crop has it, read off ANet's layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from faceattr.models.anet import LayerResponses

FARTHEST, LARGEST = 0.3, 0.5
"""Corrections go no further, in heights of the crop and as the logarithm of a scale: what is displaced by more is seen
too seldom to learn from."""


class FrameCorrection(nn.Module):
    """One linear map of all that C3, C4 and the fully connected layer respond, ``inputs`` numbers a crop.

    C3 and C4 keep their grids, so they tell where in the crop the parts of a face are.
    """

    def __init__(self, inputs: int):
        super().__init__()
        self.config = {"inputs": inputs}
        self.weight = nn.Parameter(torch.zeros(3, inputs))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, responses: LayerResponses) -> Tensor:
        """[N, 3]: from the middle of each crop to where that of the face's own would be, to the right and down, in
        heights of the crop, and the logarithm of how many times as large that would be."""
        joined = torch.cat([each.flatten(1) for each in responses], 1)
        limits = joined.new_tensor([FARTHEST, FARTHEST, LARGEST])
        return nn.functional.linear(joined, self.weight, self.bias).clamp(-limits, limits)
