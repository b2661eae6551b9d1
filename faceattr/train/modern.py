"""Nets of today on ANet's crops, to measure what local sharing buys: torchvision's ResNet-18 and a small ConvNeXt.

Random weights, the same pictures, losses and SVMs as ANet. torchvision is imported where one of these is made.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from faceattr.attributes import ATTRIBUTES
from faceattr.models.anet import ANet
from faceattr.train.loop import load_model

MEAN, STD = 0.5, 0.25


def _resnet18() -> tuple[nn.Module, int]:
    from torchvision.models import resnet18

    net = resnet18(weights=None)
    net.fc = nn.Identity()
    return net, 512


def _convnext() -> tuple[nn.Module, int]:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    # The sizes that are called femto: 48 to 384 channels, 2, 2, 6 and 2 blocks.
    widths, depths = (48, 96, 192, 384), (2, 2, 6, 2)
    blocks = [
        CNBlockConfig(width, after, depth)
        for width, after, depth in zip(widths, (*widths[1:], None), depths, strict=True)
    ]
    net = ConvNeXt(blocks, stochastic_depth_prob=0.1)
    # Its own norm before the classifier stays.
    net.classifier = nn.Sequential(net.classifier[0], nn.Flatten())
    return net, widths[-1]


NETS = {"resnet18": _resnet18, "convnext": _convnext}


class ModernNet(nn.Module):
    """A backbone of NETS as ANet is used: logits of crops, features for the SVMs.

    net: its name. input_size: height and width of the crop. step: pixels between the crops that are pooled.

    Raises:
        ValueError: torchvision is missing.
    """

    def __init__(
        self,
        net: str,
        input_size: tuple[int, int],
        attributes: int = len(ATTRIBUTES),
        dropout: float = 0.3,
        step: int = 8,
    ):
        super().__init__()
        try:
            self.backbone, features = NETS[net]()
        except ImportError:
            raise ValueError(
                f"--net {net} needs torchvision, which is missing; install the one for this torch"
            ) from None
        self.config = {
            "net": net,
            "input_size": list(input_size),
            "attributes": attributes,
            "dropout": dropout,
            "step": step,
        }
        self.step = step
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(features, attributes)

    @property
    def feature_count(self) -> int:
        """F."""
        return self.head.in_features

    def features(self, images: Tensor) -> Tensor:
        """[N, F] of RGB images [N, 3, *input_size] in [0, 1]."""
        return self.backbone((images - MEAN) / STD)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, A] for RGB images [N, 3, *input_size] in [0, 1]."""
        return self.head(self.dropout(self.features(images)))

    def pooled_features(self, images: Tensor) -> Tensor:
        """Mean features [N, F] of every crop, ``step`` pixels apart, of larger images and of their mirror images."""
        height, width = self.config["input_size"]
        both = torch.cat([images, images.flip(3)])
        places = [
            (top, left)
            for top in range(0, images.shape[2] - height + 1, self.step)
            for left in range(0, images.shape[3] - width + 1, self.step)
        ]
        crops = [self.features(both[:, :, top : top + height, left : left + width]) for top, left in places]
        return torch.stack(crops).mean(0).unflatten(0, (2, -1)).mean(0)


def load_net(path: Path) -> tuple[nn.Module, dict]:
    """An ANet or a :class:`ModernNet` that finetune_anet.py wrote, in evaluation mode, and its metadata."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        modern = '"net"' in (file.metadata() or {}).get("faceattr", "")
    return load_model(ModernNet if modern else ANet, path)
