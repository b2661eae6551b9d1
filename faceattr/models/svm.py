"""One linear SVM an attribute over ANet's features."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LinearSVM(nn.Module):
    """A separating plane for each of A attributes over F features, with the calibration that makes probabilities of it.

    Attributes:
        weight [A, F], bias [A]: the planes.
        slope, offset [A]: Platt's sigmoid, P(attribute) = 1 / (1 + exp(slope * decision + offset)).
    """

    def __init__(self, attributes: int, features: int):
        super().__init__()
        self.config = {"attributes": attributes, "features": features}
        self.weight = nn.Parameter(torch.zeros(attributes, features))
        self.bias = nn.Parameter(torch.zeros(attributes))
        # Slope -1 and offset 0 are the plain sigmoid.
        self.slope = nn.Parameter(-torch.ones(attributes))
        self.offset = nn.Parameter(torch.zeros(attributes))

    def decision(self, features: Tensor) -> Tensor:
        """Signed distances to the planes in units of the margin, [N, A], of features [N, F]."""
        return nn.functional.linear(features, self.weight, self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Calibrated probabilities [N, A] of features [N, F]."""
        return torch.sigmoid(-(self.slope * self.decision(features) + self.offset))
