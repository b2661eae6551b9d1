"""ANet: a face crop in, 40 attribute logits out, over one crop or over every crop of a larger image at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from faceattr.attributes import ATTRIBUTES
from faceattr.nn import LocallySharedConv2d

CONFIGS: dict[str, dict] = {
    # The paper's net, with the sizes of DeepID2 that it follows.
    "paper": {},
    # Twice the paper's resolution and deeper; 3.5 million parameters, 7 MB as float16.
    "wide": {
        "input_size": (119, 103),
        "stages": (((24, 5, 2), (32, 3, 1)), ((64, 3, 1), (64, 3, 1))),
        "c3": (128, 3, (5, 4)),
        "c4": (160, 2, (4, 3)),
        "features": 512,
        "fc_inputs": ("c4",),
        "batch_norm": True,
        "dropout": 0.3,
    },
}


class DenseOutput(NamedTuple):
    """What :meth:`ANet.forward_dense` gives for Dy x Dx crops, one ``step`` of pixels apart."""

    logits: Tensor
    """[N, A, Dy, Dx]"""
    features: Tensor
    """[N, F, Dy, Dx]"""
    best: Tensor
    """[N, 2], int64: row and column of the crop whose C4 holds the largest response (eq. 5)."""
    views: Tensor
    """[N, V * F]: the features at ``best`` plus each offset asked for, joined: the paper's h_a."""


class ANet(nn.Module):
    """Globally shared convolutions, two locally shared ones (C3, C4), a fully connected layer and one logit an attribute.

    Args:
        attributes: number of logits A.
        input_size: height and width of the crop in pixels.
        stages: the shared layers; each stage is a sequence of (channels, kernel, stride) convolutions, unpadded, and ends
            with 2x2 max-pooling.
        c3: (channels, kernel, grid) of the first locally shared layer; 2x2 max-pooling follows.
        c4: (channels, kernel, grid) of the second; no pooling follows.
        features: width F of the fully connected layer.
        fc_inputs: the layers it reads: ("c3", "c4") as DeepID2, or ("c4",).
        batch_norm: normalise before each ReLU; :meth:`fold_batch_norm` takes it out again for inference.
        dropout: share of features dropped in training.

    Raises:
        ValueError: the sizes do not fit each other; the message names the layer.
    """

    def __init__(
        self,
        attributes: int = len(ATTRIBUTES),
        input_size: tuple[int, int] = (55, 47),
        stages=(((20, 4, 1),), ((40, 3, 1),)),
        c3=(60, 3, (5, 4)),
        c4=(80, 2, (4, 3)),
        features: int = 160,
        fc_inputs: tuple[str, ...] = ("c3", "c4"),
        batch_norm: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.config = {
            "attributes": attributes,
            "input_size": list(input_size),
            "stages": [[list(conv) for conv in stage] for stage in stages],
            "c3": [c3[0], c3[1], list(c3[2])],
            "c4": [c4[0], c4[1], list(c4[2])],
            "features": features,
            "fc_inputs": list(fc_inputs),
            "batch_norm": batch_norm,
            "dropout": dropout,
        }
        if tuple(fc_inputs) not in (("c3", "c4"), ("c4",)):
            raise ValueError(f"ANet: fc_inputs is {tuple(fc_inputs)}, it must be ('c3', 'c4') or ('c4',)")
        norm = nn.BatchNorm2d if batch_norm else nn.Identity

        size, channels, self.step = tuple(input_size), 3, 1
        layers: list[nn.Module] = []
        for number, stage in enumerate(stages, 1):
            for out_channels, kernel, stride in stage:
                size = _after_conv(f"stage {number}", size, kernel, stride)
                layers += [nn.Conv2d(channels, out_channels, kernel, stride), norm(out_channels), nn.ReLU(inplace=True)]
                channels, self.step = out_channels, self.step * stride
            size = _after_pool(f"stage {number}", size)
            layers.append(nn.MaxPool2d(2))
            self.step *= 2
        self.shared = nn.Sequential(*layers)

        size = _after_conv("c3", size, c3[1], 1)
        _check_cells("c3", c3[2], size, pool=2)
        self.c3, self.norm3 = LocallySharedConv2d(channels, c3[0], c3[1], tuple(c3[2])), norm(c3[0])
        self._size3 = _after_pool("c3", size)
        self._size4 = _after_conv("c4", self._size3, c4[1], 1)
        _check_cells("c4", c4[2], self._size4, pool=1)
        self.c4, self.norm4 = LocallySharedConv2d(c3[0], c4[0], c4[1], tuple(c4[2])), norm(c4[0])

        inputs = c4[0] * self._size4[0] * self._size4[1]
        if "c3" in fc_inputs:
            inputs += c3[0] * self._size3[0] * self._size3[1]
        self.fc = nn.Linear(inputs, features)
        self.norm_fc = nn.BatchNorm1d(features) if batch_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, attributes)
        for layer in (*self.shared, self.c3, self.c4, self.fc):
            if hasattr(layer, "weight") and layer.weight.dim() > 1:
                fan_in = layer.weight[(0,) * (2 if layer.weight.dim() == 6 else 0)][0].numel()
                nn.init.normal_(layer.weight, std=(2 / fan_in) ** 0.5)
                nn.init.zeros_(layer.bias)

    def features(self, images: Tensor) -> Tensor:
        """Responses of the fully connected layer, [N, F], for images [N, 3, *input_size]."""
        expected = (3, *self.config["input_size"])
        if images.dim() != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(f"ANet: images have shape {tuple(images.shape)}, expected [N, {', '.join(map(str, expected))}]")
        h3 = F.max_pool2d(F.relu(self.norm3(self.c3(self.shared(images)))), 2)
        h4 = F.relu(self.norm4(self.c4(h3)))
        joined = torch.cat([h3.flatten(1), h4.flatten(1)], 1) if "c3" in self.config["fc_inputs"] else h4.flatten(1)
        return F.relu(self.norm_fc(self.fc(joined)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, A] for images [N, 3, *input_size], normalised as the checkpoint's preprocessing says."""
        return self.head(self.dropout(self.features(images)))


def _after_conv(name: str, size: tuple[int, int], kernel: int, stride: int) -> tuple[int, int]:
    """Size of an unpadded convolution's output; refuses pixels left over, which forward_dense would read."""
    if min(size) < kernel or any((length - kernel) % stride for length in size):
        raise ValueError(f"ANet: {name}: kernel {kernel} with stride {stride} does not fit a {size[0]}x{size[1]} map")
    return (size[0] - kernel) // stride + 1, (size[1] - kernel) // stride + 1


def _after_pool(name: str, size: tuple[int, int]) -> tuple[int, int]:
    if size[0] % 2 or size[1] % 2:
        raise ValueError(f"ANet: {name}: 2x2 max-pooling does not fit a {size[0]}x{size[1]} map")
    return size[0] // 2, size[1] // 2


def _check_cells(name: str, grid: tuple[int, int], size: tuple[int, int], pool: int) -> None:
    """Every cell must hold whole pooling windows: then a response of the pooled map belongs to one cell."""
    for cells, length, axis in zip(grid, size, ("rows", "columns"), strict=True):
        if not 1 <= cells <= length // pool or length % cells or (length // cells) % pool:
            raise ValueError(
                f"ANet: {name}: a grid of {cells} {axis} does not divide {length} {axis} of output into equal cells"
                + (f" that hold whole {pool}x{pool} pooling windows" if pool > 1 else "")
            )
