"""The localisation nets: a trunk, AlexNet's or a pyramid, and an object head (LNet+) or a tag head (LNet_o, LNet_s)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from faceattr.attributes import ATTRIBUTES


def map_size(pixels: int, stride: int) -> int:
    """Positions of a map along an image side of `pixels`: position i is centred on pixel stride * i."""
    return math.ceil(pixels / stride)


def _layer(in_channels: int, out_channels: int, kernel_size: int, stride: int, batch_norm: bool) -> nn.Sequential:
    # Odd kernels, padded by half their size, centre output i on input i * stride: the map's geometry stays exact.
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=not batch_norm)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    norm = nn.BatchNorm2d(out_channels) if batch_norm else nn.Identity()
    return nn.Sequential(conv, norm, nn.ReLU(inplace=True))


class LNetTrunk(nn.Module):
    """C1 to C5 of the localisation nets: AlexNet's convolutions, two max-poolings, batch normalisation in place of LRN.

    images [N, 3, H, W], RGB in [0, 1], any H, W >= 1 -> C5 [N, widths[-1], ceil(H / 16), ceil(W / 16)]; position (i, j)
    of the map is centred on pixel (16 i, 16 j), so an image of 16 n + 1 pixels is covered from border to border.

    `config` rebuilds the trunk: `LNetTrunk(**trunk.config)`.
    """

    stride = 16
    """Pixels between neighbouring positions of the map."""
    config: dict[str, Any]
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        widths: Sequence[int] = (96, 256, 384, 384, 256),
        batch_norm: bool = True,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ):
        super().__init__()
        if len(widths) != 5:
            raise ValueError(f"LNetTrunk: widths must name the channels of C1 to C5, got {len(widths)} numbers")
        self.config = {
            "widths": list(widths),
            "batch_norm": batch_norm,
            "mean": list(mean),
            "std": list(std),
        }
        c1, c2, c3, c4, c5 = widths
        self.channels = c5
        self.c1 = _layer(3, c1, 11, 4, batch_norm)
        self.c2 = _layer(c1, c2, 5, 1, batch_norm)
        self.c3 = _layer(c2, c3, 3, 1, batch_norm)
        self.c4 = _layer(c3, c4, 3, 1, batch_norm)
        self.c5 = _layer(c4, c5, 3, 1, batch_norm)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        # Zero padding inside the net is the mean colour.
        x = (images - self.mean) / self.std
        x = self.pool(self.c1(x))
        x = self.pool(self.c2(x))
        return self.c5(self.c4(self.c3(x)))


def double(coarse: Tensor, size: Sequence[int]) -> Tensor:
    """Maps [N, C, h, w] brought to half their stride, [N, C, *size], size 2 h or 2 h - 1 and 2 w or 2 w - 1: position
    2 i of the result is position i of the coarse map, between them is the mean of both."""
    # The border is repeated first: of a single position compiled code would make 0 / 0.
    coarse = F.pad(coarse, (0, 1, 0, 1), mode="replicate")
    doubled = [2 * length - 1 for length in coarse.shape[2:]]
    coarse = F.interpolate(coarse, doubled, mode="bilinear", align_corners=True)
    return coarse[:, :, : size[0], : size[1]]


class PyramidTrunk(nn.Module):
    """A slimmer and finer trunk: strided convolutions down to a stride of 16, whose map is brought back to 8.

    images [N, 3, H, W], RGB in [0, 1], any H, W >= 1 -> [N, widths[2], ceil(H / 8), ceil(W / 8)]; position (i, j) is
    centred on pixel (8 i, 8 j). `widths` are the channels at strides 2, 4, 8 and 16, `depths` how many convolutions
    follow the strided one at 4, 8 and 16. A face of 20 pixels on this map is what one of 40 is on :class:`LNetTrunk`'s.

    `config` rebuilds the trunk: `PyramidTrunk(**trunk.config)`.
    """

    stride = 8
    """Pixels between neighbouring positions of the map."""
    config: dict[str, Any]
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        widths: Sequence[int] = (24, 48, 96, 128),
        depths: Sequence[int] = (0, 2, 3),
        batch_norm: bool = True,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ):
        super().__init__()
        if len(widths) != 4 or len(depths) != 3:
            raise ValueError(
                "PyramidTrunk: widths must name the channels at strides 2, 4, 8 and 16 and depths the convolutions "
                f"at 4, 8 and 16, got {len(widths)} and {len(depths)} numbers"
            )
        self.config = {
            "kind": "pyramid",
            "widths": list(widths),
            "depths": list(depths),
            "batch_norm": batch_norm,
            "mean": list(mean),
            "std": list(std),
        }
        self.channels = widths[2]
        self.c1 = _layer(3, widths[0], 5, 2, batch_norm)
        levels = zip(widths, widths[1:], depths, strict=False)
        self.c2, self.c3, self.c4 = (
            nn.Sequential(
                _layer(below, width, 3, 2, batch_norm), *(_layer(width, width, 3, 1, batch_norm) for _ in range(depth))
            )
            for below, width, depth in levels
        )
        self.up = _layer(widths[3], widths[2], 1, 1, batch_norm)
        self.out = _layer(widths[2], widths[2], 3, 1, batch_norm)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.c3(self.c2(self.c1((images - self.mean) / self.std)))
        return self.out(fine + double(self.up(self.c4(fine)), fine.shape[2:]))


Trunk = LNetTrunk | PyramidTrunk
TRUNKS: dict[str, type[LNetTrunk] | type[PyramidTrunk]] = {"alexnet": LNetTrunk, "pyramid": PyramidTrunk}


def make_trunk(config: dict[str, Any] | None = None) -> Trunk:
    """The trunk of a `config`: its "kind" of TRUNKS, by default AlexNet's, and that kind's arguments."""
    arguments = dict(config or {})
    kind = arguments.pop("kind", "alexnet")
    if kind not in TRUNKS:
        raise ValueError(f"make_trunk: kind is {kind!r}, it must be one of {', '.join(TRUNKS)}")
    return TRUNKS[kind](**arguments)


def fold_trunk(trunk: Trunk) -> None:
    """Folds every batch normalisation of a trunk into its convolution, in place, for inference.

    Raises ValueError in training mode, where the statistics are still moving.
    """
    if trunk.training:
        raise ValueError("fold_batch_norm: the trunk is in training mode; call eval() first")
    for layer in trunk.modules():
        if isinstance(layer, nn.Sequential) and len(layer) == 3 and isinstance(layer[1], nn.BatchNorm2d):
            conv: Any = layer[0]
            layer[0] = fuse_conv_bn_eval(conv, layer[1])
            layer[1] = nn.Identity()
    trunk.config["batch_norm"] = False


class LNetPlus(nn.Module):
    """The trunk with an object head, for pre-training on object categories (paper: 4096, 4096, 1000 classes).

    images [N, 3, H, W] -> logits [N, classes]. C5 is averaged over a `grid` x `grid` partition of the map, so any image
    size goes; `hidden` lists the sizes of the fully connected layers before the last.
    """

    def __init__(
        self,
        classes: int = 1000,
        hidden: Sequence[int] = (4096, 4096),
        grid: int = 1,
        trunk: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.trunk = make_trunk(trunk)
        self.config = {"classes": classes, "hidden": list(hidden), "grid": grid, "trunk": self.trunk.config}
        features = self.trunk.channels * grid * grid
        layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(grid), nn.Flatten()]
        for size in hidden:
            layers += [nn.Linear(features, size), nn.ReLU(inplace=True), nn.Dropout(0.5)]
            features = size
        self.head = nn.Sequential(*layers, nn.Linear(features, classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images))


class LNet(nn.Module):
    """LNet_o and LNet_s: the trunk with a head for image-level tags.

    images [N, 3, H, W], RGB in [0, 1] -> logits [N, len(tags) + len(sizes)]. The first are attributes (`tags`), the
    last say for each height of `sizes` (pixels) whether a face of about that height is in the picture. A 1x1
    convolution gives a map for each; log-sum-exp over the positions makes the picture's logit, so that one strong
    position is enough, and training by tags alone teaches the size maps to point at the face.

    Raises ValueError unless `sizes` has at least two heights in equal ratios, rising.
    """

    def __init__(
        self,
        tags: Sequence[str] = ATTRIBUTES,
        sizes: Sequence[float] = (40.0, 50.4, 63.5),
        trunk: dict[str, Any] | None = None,
    ):
        super().__init__()
        ratios = [b / a for a, b in zip(sizes, sizes[1:], strict=False)]
        if not ratios or min(ratios) <= 1 or max(ratios) > 1.02 * min(ratios):
            raise ValueError(f"LNet: sizes must be two or more rising heights in equal ratios, got {list(sizes)}")
        self.trunk = make_trunk(trunk)
        self.config: dict[str, Any] = {"tags": list(tags), "sizes": list(sizes), "trunk": self.trunk.config}
        self.head = nn.Conv2d(self.trunk.channels, len(tags) + len(sizes), 1)
        # Log-sum-exp over some hundred positions adds about 5: start from "absent".
        nn.init.normal_(self.head.weight, std=0.01)
        assert self.head.bias is not None
        nn.init.constant_(self.head.bias, -6.0)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images)).float().flatten(2).logsumexp(2)

    def size_maps(self, images: Tensor) -> Tensor:
        """Logits [N, len(sizes), h, w]: how much speaks for a face of each height at each position."""
        faces = slice(len(self.config["tags"]), None)
        assert self.head.bias is not None
        return F.conv2d(self.trunk(images), self.head.weight[faces], self.head.bias[faces]).float()

    def response_map(self, images: Tensor, kind: str = "face") -> Tensor:
        """[N, h, w]; "face": the probability of the likeliest size, "mean": C5's plain average, as the paper has it."""
        if kind == "face":
            return self.size_maps(images).amax(1).sigmoid()
        if kind == "mean":
            return self.trunk(images).float().mean(1)
        raise ValueError(f'response_map: kind is {kind!r}, it must be "face" or "mean"')

    def fold_batch_norm(self) -> LNet:
        """Fold the trunk's batch normalisation, in place; returns the net.

        Raises ValueError in training mode, where the statistics are still moving.
        """
        fold_trunk(self.trunk)
        return self
