"""ANet: a face crop in, 40 attribute logits out, over one crop or over every crop of a larger image at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from faceattr.attributes import ATTRIBUTES
from faceattr.nn import LocallySharedConv2d
from faceattr.ops import interweaved_conv2d, locally_shared_conv2d

_WIDE: dict[str, Any] = {
    "input_size": (119, 103),
    "stages": (((24, 5, 2), (32, 3, 1)), ((64, 3, 1), (64, 3, 1))),
    "c3": (128, 3, (5, 4)),
    "c4": (160, 2, (4, 3)),
    "features": 512,
    "fc_inputs": ("c4",),
    "batch_norm": True,
    "dropout": 0.3,
}
_DEEP_STAGES = (((32, 5, 2), (32, 3, 1)), ((64, 3, 1), (96, 3, 1), (96, 3, 1)))
CONFIGS: dict[str, dict[str, Any]] = {
    # The paper's net, with the sizes of DeepID2 that it follows.
    "paper": {},
    # The same with batch normalisation: a million parameters, quick to train.
    "small": {"batch_norm": True},
    # Twice the paper's resolution and deeper; 3.5 million parameters, 7 MB as float16.
    "wide": _WIDE,
    # One more convolution; 4.4 million parameters, 8.7 MB as float16.
    "deep": {
        **_WIDE,
        "input_size": (127, 111),
        "stages": _DEEP_STAGES,
    },
    # Wider where it costs little time, in the locally shared layers; 6.2 million parameters, 12.3 MB as float16.
    "everyone": {
        **_WIDE,
        "input_size": (127, 111),
        "stages": _DEEP_STAGES,
        "c3": (160, 3, (5, 4)),
        "c4": (224, 2, (4, 3)),
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
    strength: Tensor
    """[N, Dy, Dx]: the largest response of each crop's C4, which ``best`` maximises."""


class LayerResponses(NamedTuple):
    """What :meth:`ANet.responses` gives for N crops: each layer's responses after ReLU and pooling."""

    c3: Tensor
    """[N, channels, rows, columns]"""
    c4: Tensor
    """[N, channels, rows, columns]"""
    fc: Tensor
    """[N, F]: the features."""


class SharedConv2d(nn.Conv2d):
    """An unpadded convolution; for inference on the CPU as one of a single cell, which is faster."""

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type != "cpu" or torch.is_grad_enabled():
            return super().forward(images)
        assert self.bias is not None
        return locally_shared_conv2d(images, self.weight[None, None], self.bias[None, None], self.stride)


class ANet(nn.Module):
    """Shared convolutions, two locally shared ones (C3, C4), a fully connected layer and one logit an attribute.

    Args:
        attributes: number of logits A.
        input_size: height and width of the crop in pixels.
        stages: the globally shared layers; each stage is a sequence of (channels, kernel, stride) convolutions,
            unpadded, and ends with 2x2 max-pooling.
        c3: (channels, kernel, grid) of the first locally shared layer; 2x2 max-pooling follows.
        c4: (channels, kernel, grid) of the second; no pooling follows.
        features: width F of the fully connected layer.
        fc_inputs: the layers it reads: ("c3", "c4") as DeepID2, or ("c4",).
        batch_norm: normalise before each ReLU; :meth:`fold_batch_norm` takes it out again for inference.
        dropout: share of features dropped in training.
        mean, std: of each colour; images are normalised by them before C1.

    Raises:
        ValueError: the sizes do not fit each other; the message names the layer.
    """

    config: dict[str, Any]
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        attributes: int = len(ATTRIBUTES),
        input_size: tuple[int, int] = (55, 47),
        stages: Sequence[Sequence[tuple[int, int, int]]] = (((20, 4, 1),), ((40, 3, 1),)),
        c3: tuple[int, int, tuple[int, int]] = (60, 3, (5, 4)),
        c4: tuple[int, int, tuple[int, int]] = (80, 2, (4, 3)),
        features: int = 160,
        fc_inputs: tuple[str, ...] = ("c3", "c4"),
        batch_norm: bool = False,
        dropout: float = 0.0,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
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
            "mean": list(mean),
            "std": list(std),
        }
        if tuple(fc_inputs) not in (("c3", "c4"), ("c4",)):
            raise ValueError(f"ANet: fc_inputs is {tuple(fc_inputs)}, it must be ('c3', 'c4') or ('c4',)")
        norm = nn.BatchNorm2d if batch_norm else nn.Identity

        size, channels, self.step = input_size, 3, 1
        layers: list[nn.Module] = []
        for number, stage in enumerate(stages, 1):
            for out_channels, kernel, stride in stage:
                size = _after_conv(f"stage {number}", size, kernel, stride)
                conv = SharedConv2d(channels, out_channels, kernel, stride)
                layers += [conv, norm(out_channels), nn.ReLU(inplace=True)]
                channels, self.step = out_channels, self.step * stride
            size = _after_pool(f"stage {number}", size)
            layers.append(nn.MaxPool2d(2))
            self.step *= 2
        self.shared = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

        size = _after_conv("c3", size, c3[1], 1)
        _check_cells("c3", c3[2], size, pool=2)
        self.c3, self.norm3 = LocallySharedConv2d(channels, c3[0], c3[1], tuple(c3[2])), norm(c3[0])
        self._size3 = _after_pool("c3", size)
        self._size4 = _after_conv("c4", self._size3, c4[1], 1)
        _check_cells("c4", c4[2], self._size4, pool=1)
        self.c4, self.norm4 = LocallySharedConv2d(c3[0], c4[0], c4[1], tuple(c4[2])), norm(c4[0])

        size3 = c3[0] * self._size3[0] * self._size3[1]
        size4 = c4[0] * self._size4[0] * self._size4[1]
        self.responses_size = size3 + size4 + features
        """Of a crop, over all the layers of :class:`LayerResponses`."""
        self.fc = nn.Linear(size4 + (size3 if "c3" in fc_inputs else 0), features)
        self.norm_fc = nn.BatchNorm1d(features) if batch_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, attributes)
        for layer, _ in self._normalised_layers():
            # He's initialisation; a locally shared weight has its grid before the filters.
            filter_size = math.prod(layer.weight.shape[1:] if layer is self.fc else layer.weight.shape[-3:])
            nn.init.normal_(layer.weight, std=math.sqrt(2 / filter_size))
            nn.init.zeros_(layer.bias)

    def _normalised_layers(self) -> list[tuple[Any, nn.Module]]:
        """Every layer that a ReLU follows, with its normalisation."""
        shared = [(self.shared[i], self.shared[i + 1]) for i, m in enumerate(self.shared) if isinstance(m, nn.Conv2d)]
        return [*shared, (self.c3, self.norm3), (self.c4, self.norm4), (self.fc, self.norm_fc)]

    def _shared_map(self, images: Tensor) -> Tensor:
        # Pooling is several times faster in this layout, and every layer keeps it.
        images = images.contiguous(memory_format=torch.channels_last)
        return self.shared((images - self.mean) / self.std)

    def features(self, images: Tensor) -> Tensor:
        """Responses of the fully connected layer, [N, F], for RGB images ``[N, 3, *input_size]`` in [0, 1]."""
        return self.responses(images).fc

    def responses(self, images: Tensor) -> LayerResponses:
        """Responses of C3, C4 and the fully connected layer for RGB images ``[N, 3, *input_size]`` in [0, 1]."""
        expected = (3, *self.config["input_size"])
        if images.dim() != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"ANet: images have shape {tuple(images.shape)}, expected [N, {', '.join(map(str, expected))}]"
            )
        h3 = F.max_pool2d(F.relu(self.norm3(self.c3(self._shared_map(images)))), 2)
        h4 = F.relu(self.norm4(self.c4(h3)))
        joined = torch.cat([h3.flatten(1), h4.flatten(1)], 1) if "c3" in self.config["fc_inputs"] else h4.flatten(1)
        return LayerResponses(h3, h4, F.relu(self.norm_fc(self.fc(joined))))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, A] for RGB images ``[N, 3, *input_size]`` in [0, 1]."""
        return self.head(self.dropout(self.features(images)))

    def forward_dense(self, images: Tensor, views: Sequence[tuple[int, int]] = ((0, 0),)) -> DenseOutput:
        """:meth:`forward` on every crop of larger images, ``step`` pixels apart, in one pass (section 3.2, Fig. 5).

        At row i and column j the result is, to rounding, that of the crop whose top left pixel is (i*step, j*step);
        each filter is evaluated once where crops overlap.

        Args:
            images: RGB in [0, 1], [N, 3, H + step * (Dy - 1), W + step * (Dx - 1)], H and W being ``input_size``.
            views: V offsets (rows, columns) round the best crop at which features are taken for h_a; those outside the
                field are moved to its border.

        Raises:
            ValueError: images of another size, or a net with batch normalisation in training mode.
        """
        height, width = self.config["input_size"]
        if (
            images.dim() != 4
            or images.shape[1] != 3
            or any(
                length < least or (length - least) % self.step
                for length, least in zip(images.shape[2:], (height, width), strict=True)
            )
        ):
            raise ValueError(
                f"ANet.forward_dense: images have shape {tuple(images.shape)}, expected "
                f"[N, 3, {height} + {self.step} * i, {width} + {self.step} * j]"
            )
        if self.training and self.config["batch_norm"]:
            raise ValueError("ANet.forward_dense: the net is in training mode; call eval() first")
        if tuple(images.shape[2:]) == (height, width):  # a single crop needs no interweaving
            _, h4, features = self.responses(images)
            logits, strength = self.head(self.dropout(features)), h4.amax((1, 2, 3))
            best = torch.zeros(images.shape[0], 2, dtype=torch.int64, device=images.device)
            views_features, strength = features.repeat(1, len(views)), strength[:, None, None]
            return DenseOutput(logits[..., None, None], features[..., None, None], best, views_features, strength)
        # One block of the interweaved map holds the pooled C3 (then the C4) of one crop.
        weight, bias = _folded(self.c3, self.norm3)
        weight, bias = _spread(weight, self._size3), _spread(bias, self._size3)
        h3 = F.relu(interweaved_conv2d(self._shared_map(images), weight, bias, shift=2, pool=2))
        weight, bias = _folded(self.c4, self.norm4)
        weight, bias = _spread(weight, self._size4), _spread(bias, self._size4)
        h4 = F.relu(interweaved_conv2d(h3, weight, bias, stride=self._size3, shift=1))
        weight, bias = _folded(self.fc, self.norm_fc)
        joined = blocks = _blocks(h4, self._size4)
        if "c3" in self.config["fc_inputs"]:
            joined = torch.cat([_blocks(h3, self._size3), blocks], -1)
        # One row a crop: both layers are one matrix product.
        rows = F.relu(F.linear(joined.flatten(0, 2), weight, bias))
        logits = self.head(self.dropout(rows)).unflatten(0, joined.shape[:3]).permute(0, 3, 1, 2)
        features = rows.unflatten(0, joined.shape[:3])
        strength = blocks.amax(-1)
        strongest = strength.flatten(1).argmax(1)
        best = torch.stack([strongest // features.shape[2], strongest % features.shape[2]], 1)
        return DenseOutput(logits, features.permute(0, 3, 1, 2), best, _views(features, best, views), strength)

    def pooled_features(self, images: Tensor) -> Tensor:
        """Mean features [N, F] of every crop that :meth:`forward_dense` sees in ``images`` and in their mirror images.

        This is what the SVMs learn from and see. A mean over views needs no more training pictures than one view, which
        joined views do.
        """
        both = torch.cat([images, images.flip(3)])
        return self.forward_dense(both).features.mean((2, 3)).unflatten(0, (2, -1)).mean(0)

    def with_logits(self, rows: Sequence[int]) -> ANet:
        """The same net with some of its logits, in evaluation mode."""
        net = ANet(**{**self.config, "attributes": len(rows)}).to(self.head.weight)
        state = self.state_dict()
        state |= {name: state[name][list(rows)] for name in ("head.weight", "head.bias")}
        net.load_state_dict(state)
        return net.eval()

    def with_shared(self, shared: nn.Module) -> ANet:
        """The same net with other layers in place of the globally shared ones; the rest is not copied."""
        net = copy(self)
        net._modules = {**self._modules, "shared": shared}
        return net

    def fold_batch_norm(self) -> ANet:
        """The same net for inference with its batch normalisation folded into the weights, in evaluation mode."""
        folded = ANet(**{**self.config, "batch_norm": False}).to(self.head.weight)
        with torch.no_grad():
            for (layer, norm), (target, _) in zip(self._normalised_layers(), folded._normalised_layers(), strict=True):
                weight, bias = _folded(layer, norm)
                target.weight.copy_(weight)
                target.bias.copy_(bias)
        folded.head.load_state_dict(self.head.state_dict())
        return folded.eval()


def _folded(layer: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer followed by its normalisation in evaluation mode."""
    if isinstance(norm, nn.Identity):
        return layer.weight, layer.bias
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    filter_dims = 1 if isinstance(layer, nn.Linear) else 3
    weight = layer.weight * scale.reshape(-1, *[1] * filter_dims)
    return weight, (layer.bias - norm.running_mean) * scale + norm.bias


def _spread(parameter: Tensor, size: tuple[int, int]) -> Tensor:
    """[Gh, Gw, ...] of a coarser grid repeated to one cell a position of the (pooled) output."""
    for dim, cells in enumerate(size):
        if parameter.shape[dim] != cells:
            parameter = parameter.repeat_interleave(cells // parameter.shape[dim], dim)
    return parameter


def _blocks(interweaved: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, Dy, Dx, C * rows * columns]: each block of an interweaved map [N, C, Dy * rows, Dx * columns], flattened."""
    split = interweaved.unflatten(3, (-1, size[1])).unflatten(2, (-1, size[0]))
    return split.permute(0, 2, 4, 1, 3, 5).flatten(3)


def _views(features: Tensor, best: Tensor, offsets: Sequence[tuple[int, int]]) -> Tensor:
    """[N, V * F]: features [N, Dy, Dx, F] at ``best`` plus each offset, held inside the field."""
    images = torch.arange(features.shape[0], device=features.device)
    rows, columns = best.unbind(1)

    def moved(places, offset, dim):
        return (places + offset).clamp(0, features.shape[dim] - 1) if offset else places

    return torch.cat([features[images, moved(rows, i, 1), moved(columns, j, 2)] for i, j in offsets], 1)


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
