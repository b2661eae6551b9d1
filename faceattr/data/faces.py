"""Aligned face pictures as training input: a decoded cache, the crop that ANet sees, augmentation."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from faceattr.data.decode import decode, read_note, write_note

PICTURE = (178, 218)
"""Width and height of an aligned CelebA picture."""
CROP = (6.0, 22.0, 172.0, 214.0)
"""What ANet sees of it, x0, y0, x1, y1: hat brim to necklace, centred between the eyes."""
FACE = (38.3, 47.7, 139.7, 187.7)
"""The face in it, as localisation frames faces: crown to chin."""
OVERSAMPLING = 1.25
"""Resolution of the cache over that of the crop, so that resampling in augmentation does not blur."""


def picture_size(input_size: tuple[int, int]) -> tuple[int, int]:
    """Width and height at which pictures are decoded for a net of that input."""
    scale = OVERSAMPLING * input_size[0] / (CROP[3] - CROP[1])
    return round(PICTURE[0] * scale), round(PICTURE[1] * scale)


class FaceCache:
    """Decoded pictures in one memory-mapped file: uint8 [N, 3, H, W], made once, then read by later runs.

    Args:
        folder: where the pictures are.
        names: their file names.
        input_size: height and width of ANet's input; sets the resolution that is kept.
        path: the cache file (.npy); a JSON file beside it tells what it holds, and a cache of other pictures or another
            resolution is made anew.
        workers: processes that decode; 0: this one does.

    Raises:
        ValueError: a picture is missing, cannot be read or is not 178x218; the message names it.
    """

    def __init__(self, folder: Path, names: list[str], input_size: tuple[int, int], path: Path, workers: int = 0):
        size = picture_size(input_size)
        digest = hashlib.sha256("\n".join([str(folder.resolve()), *names]).encode()).hexdigest()
        content = {"size": list(size), "count": len(names), "names_sha256": digest}
        note = path.with_suffix(".json")
        if not path.exists() or read_note(note) != content:
            note.unlink(missing_ok=True)
            _decode([folder / name for name in names], size, path, workers)
            write_note(note, content)
        self.pictures = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, rows) -> Tensor:
        """Pictures [B, 3, H, W], uint8."""
        return torch.from_numpy(self.pictures[np.asarray(rows)])


def _decode(paths: list[Path], size: tuple[int, int], path: Path, workers: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".partial.npy")
    pictures = np.lib.format.open_memmap(unfinished, "w+", np.uint8, (len(paths), 3, size[1], size[0]))
    for row, picture in enumerate(decode(paths, partial(read_aligned, size=size), workers)):
        pictures[row] = picture
    pictures.flush()
    del pictures
    os.replace(unfinished, path)


def read_aligned(path: Path, size: tuple[int, int]) -> np.ndarray:
    """[3, H, W] uint8 of an aligned picture at `size` (W, H)."""
    try:
        with Image.open(path) as image:
            if image.size != PICTURE:
                raise ValueError(f"{path}: {image.size[0]}x{image.size[1]}, an aligned picture is 178x218")
            return np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None


@dataclass(frozen=True)
class Augmentation:
    """Ranges of what the crops at run time differ in; each is drawn anew for every picture."""

    scale: float = 0.15
    """Largest relative change of the crop's size, log-uniform."""
    shift: float = 0.06
    """Largest shift, as a share of the crop's height."""
    rotation: float = 10.0
    """Largest rotation in degrees."""
    tone: float = 0.25
    """Largest relative change of contrast, gamma and saturation; half of it for each colour's gain and brightness."""
    coarse: float = 0.3
    """Share of pictures that lose resolution, down to a quarter."""
    noise: float = 0.03
    """Largest standard deviation of added noise, of pixels in [0, 1], on half of the coarse pictures."""
    flip: bool = True
    grey: float = 0.05
    """Share of pictures without colour."""
    tight: float = 0.15
    """Share of pictures of which little more than the face is there, as in photos that end beside it; as at run time,
    the border of what is there is repeated outwards."""

    def milder(self, strength: float) -> Augmentation:
        """The same with changes of scale, place, tone and resolution ``strength`` times as large, 0 to 1."""
        changes = ("scale", "shift", "rotation", "tone", "coarse", "noise")
        return replace(self, **{name: strength * getattr(self, name) for name in changes})


def crop(pictures: Tensor, size: tuple[int, int], input_size: tuple[int, int]) -> Tensor:
    """The crop that ANet sees, of decoded aligned pictures [N, 3, H, W] uint8: [N, 3, *size] in [0, 1].

    ``size`` larger than ``input_size`` (for views) widens the crop about its centre at the same scale; what lies
    outside the picture repeats its border.
    """
    n = len(pictures)
    zero, one = torch.zeros(n), torch.ones(n)
    return _sample(pictures, size, input_size, one, zero, zero, zero, one)


def augment(
    pictures: Tensor, input_size: tuple[int, int], settings: Augmentation, generator: torch.Generator
) -> Tensor:
    """Random crops [N, 3, *input_size] in [0, 1] of decoded aligned pictures [N, 3, H, W] uint8."""
    n = len(pictures)

    def uniform(limit: float, *shape: int) -> Tensor:
        return (torch.rand(*(shape or (n,)), generator=generator) * 2 - 1) * limit

    sign = 1 - 2.0 * (torch.rand(n, generator=generator) < 0.5) if settings.flip else torch.ones(n)
    images = _sample(
        pictures,
        input_size,
        input_size,
        torch.exp(uniform(math.log1p(settings.scale))),
        uniform(math.radians(settings.rotation)),
        uniform(settings.shift),
        uniform(settings.shift),
        sign,
        _tight_edges(n, settings.tight, generator),
    )
    images = _coarsen(images, settings, generator)
    tone = settings.tone
    colour = (torch.rand(n, 1, generator=generator) >= settings.grey).float()
    return _change_tone(
        images,
        saturation=colour * (1 + uniform(tone, n, 1)),
        gain=1 + uniform(tone / 2, n, 3),
        contrast=1 + uniform(tone, n, 1),
        brightness=uniform(tone / 2, n, 1),
        gamma=torch.exp(uniform(math.log1p(tone), n, 1)),
    )


def displace(pictures: Tensor, input_size: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Crops [N, 3, *input_size] in [0, 1] of decoded aligned pictures [N, 3, H, W] uint8 that miss their faces by about
    as much as localisation does, one in five by far more, turned, mirrored, cut and coarse as photos are; and how to
    put each right [N, 3], as :class:`faceattr.models.frame.FrameCorrection` says it."""
    n = len(pictures)
    far = torch.rand(n, generator=generator) < 0.2
    shift, spread = torch.where(far, 0.1, 0.045), torch.where(far, 0.25, 0.11)
    shift_x, shift_y, log_scale = (
        torch.randn(3, n, generator=generator) * torch.stack([shift, shift, spread])
    ).unbind()
    angle = (torch.rand(n, generator=generator) * 2 - 1) * math.radians(15)
    mirror = 1 - 2.0 * (torch.rand(n, generator=generator) < 0.5)
    edges = _tight_edges(n, 0.25, generator)
    scale = torch.exp(log_scale)
    images = _sample(pictures, input_size, input_size, scale, angle, shift_x, shift_y, mirror, edges)
    # The way back, along the axes of the crop and in its heights.
    cos, sin = torch.cos(angle), torch.sin(angle)
    right = -mirror * (cos * shift_x + sin * shift_y) / scale
    down = (sin * shift_x - cos * shift_y) / scale
    return _coarsen(images, Augmentation(), generator), torch.stack([right, down, -log_scale], 1)


def tight_edges(draws: Tensor) -> Tensor:
    """Edges x0, y0, x1, y1 [..., 4] in pixels of a picture that ends beside the face, of draws in [0, 1]: up to a third
    of the face's size beyond it on each side, or up to a tenth within."""
    face = torch.tensor(FACE)
    sides = (face[2:] - face[:2]).repeat(2) * torch.tensor([-1, -1, 1, 1])
    return face + sides * (draws * 0.45 - 0.1)


def _tight_edges(count: int, share: float, generator: torch.Generator) -> Tensor:
    """What is there of each picture, x0, y0, x1, y1 in pixels [count, 4]: all of it, or for a share of them
    :func:`tight_edges`."""
    tight = tight_edges(torch.rand(count, 4, generator=generator))
    whole = torch.tensor([0.0, 0.0, *PICTURE])
    return torch.where(torch.rand(count, 1, generator=generator) < share, tight, whole)


def _change_tone(
    images: Tensor, saturation: Tensor, gain: Tensor, contrast: Tensor, brightness: Tensor, gamma: Tensor
) -> Tensor:
    """Colours away from grey by ``saturation``, times ``gain`` [N, 3], away from the picture's mean by ``contrast``,
    plus ``brightness``, to the power ``gamma``; all but the gain are [N, 1]."""
    # All but the power is one affine map of the colours.
    grey = torch.full((3, 3), 1 / 3)
    matrix = gain[:, :, None] * (grey + saturation[:, :, None] * (torch.eye(3) - grey))
    mean = (matrix @ images.mean((2, 3))[:, :, None]).mean((1, 2))[:, None]
    offset = (1 - contrast) * mean + brightness
    changed = torch.baddbmm(offset[:, :, None], contrast[:, :, None] * matrix, images.flatten(2))
    return changed.clamp_(0, 1).pow_(gamma[:, :, None]).view_as(images)


def _coarsen(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Takes resolution from some pictures, as small faces and strong compression do; some of them get noise too."""
    count = round(settings.coarse * len(images))
    rows = torch.randperm(len(images), generator=generator)[:count]
    for number, part in enumerate(rows.chunk(4) if count else ()):
        factor = 0.25 + 0.55 * float(torch.rand((), generator=generator))
        height, width = images.shape[2:]
        small = (max(8, round(height * factor)), max(8, round(width * factor)))
        coarse = F.interpolate(images[part], small, mode="bilinear", antialias=True)
        if number % 2:
            level = settings.noise * float(torch.rand((), generator=generator))
            coarse = coarse + level * torch.randn(coarse.shape, generator=generator)
        images[part] = F.interpolate(coarse, (height, width), mode="bilinear")
    return images


def _sample(
    pictures: Tensor,
    size: tuple[int, int],
    input_size: tuple[int, int],
    scale: Tensor,
    angle: Tensor,
    shift_x: Tensor,
    shift_y: Tensor,
    mirror: Tensor,
    edges: Tensor | None = None,
) -> Tensor:
    """Resamples CROP, changed picture by picture, to [N, 3, *size] in [0, 1].

    Beyond ``edges`` (x0, y0, x1, y1 in pixels of the picture, [N, 4]) the pixels there are repeated.
    """
    x0, y0, x1, y1 = CROP
    half_w, half_h = (x1 - x0) / 2 * size[1] / input_size[1], (y1 - y0) / 2 * size[0] / input_size[0]
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    # Rows of the affine map from the output's [-1, 1] square to the picture's.
    to_x, to_y = 2 / PICTURE[0], 2 / PICTURE[1]
    centre_x = ((x0 + x1) / 2 + shift_x * (y1 - y0)) * to_x - 1
    centre_y = ((y0 + y1) / 2 + shift_y * (y1 - y0)) * to_y - 1
    theta = torch.stack(
        [
            torch.stack([mirror * cos * half_w * to_x, -sin * half_h * to_x, centre_x], 1),
            torch.stack([mirror * sin * half_w * to_y, cos * half_h * to_y, centre_y], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [len(pictures), 3, *size], align_corners=False)
    if edges is not None:
        low, high = (edges * torch.tensor([to_x, to_y] * 2) - 1).view(-1, 1, 2, 2).unbind(2)
        grid = torch.minimum(torch.maximum(grid, low[:, None]), high[:, None])
    return F.grid_sample(pictures.float(), grid, mode="bilinear", padding_mode="border", align_corners=False) / 255
