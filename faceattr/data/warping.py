"""Pictures moved, scaled, turned and degraded: what training pictures for the localisation nets are made by."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


def to_images(pictures: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float().div_(255)


def sample(sources: Tensor, matrices: np.ndarray, size: int, shrink: np.ndarray) -> Tensor:
    """Resample [N, C, h, w] to [N, C, size, size]; `matrices` [N, 2, 3] map output pixels to source pixels.

    `shrink` [N] is how many source pixels one output pixel spans; pictures are averaged down by powers of two first, so
    that none is aliased.
    """
    out = sources.new_zeros(len(sources), sources.shape[1], size, size)
    levels = np.clip(np.floor(np.log2(np.maximum(shrink, 1)) + 0.5), 0, 4).astype(int)
    for level in np.unique(levels):
        rows = np.flatnonzero(levels == level)
        part = sources[rows]
        if level:
            part = F.avg_pool2d(part, 2**level, ceil_mode=True, count_include_pad=False)
        matrix = matrices[rows] / 2.0**level
        height, width = part.shape[-2:]
        # Pixel (x, y) of the output has its centre at x + 0.5; grid_sample wants source positions in [-1, 1].
        axis = torch.arange(size) + 0.5
        yy, xx = torch.meshgrid(axis, axis, indexing="ij")
        points = torch.stack([xx, yy, torch.ones_like(xx)], -1).view(-1, 3)
        grid = points @ torch.from_numpy(matrix.astype(np.float32)).transpose(1, 2)
        grid = grid / torch.tensor([width / 2, height / 2]) - 1
        out[rows] = F.grid_sample(part, grid.view(-1, size, size, 2), padding_mode="border", align_corners=False)
    return out


def similarity(
    scale: np.ndarray, angle: np.ndarray, aspect: np.ndarray, source: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """[N, 2, 3] matrices from output to source pixels.

    They enlarge the source by `scale`, turn it by `angle` (radians), stretch its columns by `aspect` and take the point
    `source` [N, 2] of the source to the point `target` [N, 2] of the output.
    """
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    linear = np.stack([np.stack([cos / aspect, sin / aspect], 1), np.stack([-sin, cos], 1)], 1)
    return np.concatenate([linear, (source - np.einsum("nij,nj->ni", linear, target))[:, :, None]], 2)


def compress(images: Tensor, qualities: np.ndarray) -> Tensor:
    """Images [N, 3, H, W] in [0, 1] as JPEG of these qualities [N] (1 to 95) returns them."""
    out = torch.empty_like(images)
    pictures = images.permute(0, 2, 3, 1).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    for i, (picture, quality) in enumerate(zip(pictures, qualities.tolist(), strict=True)):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        out[i] = to_images(np.array(Image.open(file))[None])[0]
    return out


def degrade(images: Tensor, random: np.random.Generator) -> Tensor:
    """Tone, colour, blur and noise as cameras and compression bring them, for faces and for what is none alike."""
    n, _, size, _ = images.shape
    for factor in (1, 2, 3):
        rows = np.flatnonzero(random.random(n) < 0.12)
        if len(rows):
            small = F.avg_pool2d(images[rows], factor, ceil_mode=True, count_include_pad=False)
            small = compress(small, random.integers(25, 91, len(rows)))
            images[rows] = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    gray = np.flatnonzero(random.random(n) < 0.12)
    images[gray] = images[gray].mean(1, keepdim=True).expand(-1, 3, -1, -1)

    def column(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).view(n, -1, 1, 1)

    gamma = column(np.exp(random.normal(0, 0.25, n)))
    light = column(np.where(random.random(n) < 0.12, random.uniform(0.15, 0.6, n), 1))
    contrast = column(np.exp(random.normal(0, 0.2, n)))
    offset = column(random.normal(0, 0.08, n))
    colour = column(np.exp(random.normal(0, 0.07, (n, 3))))
    images = images.clamp(1e-3, 1) ** gamma * light
    images = (images - 0.5) * contrast * colour + 0.5 + offset
    noisy = np.flatnonzero(random.random(n) < 0.3)
    noise = torch.from_numpy(random.standard_normal((len(noisy), 3, size, size), dtype=np.float32))
    images[noisy] += noise * 0.03
    return images.clamp_(0, 1)
