"""Pieces of whole photos in which nets have proposed faces, as training pictures for the localisation nets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from faceattr.data.celeba import read_celeba
from faceattr.data.layout import Layout, inside
from faceattr.data.photos import Pictures, decode_pictures, list_pictures
from faceattr.data.warping import sample, to_images

LARGEST_SIDE = 480
"""Pixels to which whole photos are reduced."""


@dataclass(frozen=True)
class PhotoSet:
    """Whole photos with the faces that nets proposed in them."""

    pictures: Pictures
    faces: np.ndarray
    """[n, F, 3]: column and row of the centre and height of each, in pixels of the decoded photo; height 0: none."""
    sure: np.ndarray
    """bool [n, F]; the others are possible faces, of which nothing is known."""
    tags: np.ndarray | None = None
    """bool [n, A] of the one face of each photo, where they are known."""
    complete: bool = True
    """Whether where nothing was proposed there is no face. Where it is not so, as in crowds, a net that learnt it would
    unlearn the faces that it does not find yet."""
    share: float = 1.0
    """How often its photos are drawn, over those of other sets."""

    def usable(self) -> np.ndarray:
        """Rows of the photos with a face that is sure."""
        return np.flatnonzero((self.sure & (self.faces[..., 2] > 0)).any(1))


def photo_sets(celeba: Path, folders: Sequence[Path]) -> dict[str, tuple[list[Path], np.ndarray | None]]:
    """Whole photos to learn from, by name of their folder: CelebA's of partition 0, with tags bool [n, A], and those of
    further folders. Raises ValueError where two folders are called alike."""
    wild = read_celeba(celeba, "img_celeba", skip_missing=True).partition(0)
    sets: dict[str, tuple[list[Path], np.ndarray | None]] = {"img_celeba": (wild.paths, wild.tags)}
    for folder in folders:
        if folder.name in sets:
            raise ValueError(f"{folder}: another folder of photos is called {folder.name!r} too; give one another name")
        sets[folder.name] = list_pictures(folder), None
    return sets


def decode_photos(paths: Sequence[Path], cache: Path, workers: int) -> Pictures:
    """Whole photos, decoded once into the file ``cache``."""
    sides = []
    for path in paths:
        with Image.open(path) as photo:  # the header alone
            sides.append(max(photo.size))
    side = min(LARGEST_SIDE, max(sides))
    return decode_pictures(paths, (side, side), keep_aspect=True, cache=cache, workers=workers)


def cut(
    photos: PhotoSet, chosen: np.ndarray, new_heights: np.ndarray, size: int, random: np.random.Generator
) -> tuple[Tensor, np.ndarray, Layout]:
    """A piece [size, size] of each chosen photo, scaled so that one of its sure faces, drawn at random, gets the new
    height; three of four pieces show that face, the others what is beside it.

    Returns the pieces, whether each shows one whole face alone, and where faces lie in them.
    """
    count = len(chosen)
    faces, sure = photos.faces[chosen], photos.sure[chosen]
    good = sure & (faces[..., 2] > 0)
    face = faces[np.arange(count), np.where(good, random.random(good.shape), -1).argmax(1)]
    extents = photos.pictures.extents[chosen][:, ::-1]  # columns, rows
    scale = new_heights / face[:, 2]
    beside = random.random((count, 1)) < 0.25
    place = np.where(beside, random.uniform(-1, 2, (count, 2)), random.uniform(0.1, 0.9, (count, 2))) * size
    # The piece is moved into the photo as far as it goes, so that it shows little of what lies beyond the border.
    span = size / scale
    corner = face[:, :2] - place / scale[:, None]
    slack = extents - span[:, None]
    corner = np.where(slack > 0, np.clip(corner, 0, np.maximum(slack, 0)), np.minimum(0, np.maximum(corner, slack)))
    mirror = random.random(count) < 0.5
    sources = to_images(photos.pictures.images[chosen])
    for source, (columns, rows) in zip(sources, extents, strict=True):
        # What lies beyond a photo repeats its border, as where the nets are used.
        source[:, rows:] = source[:, rows - 1 : rows]
        source[:, :, columns:] = source[:, :, columns - 1 : columns]
    matrices = np.zeros((count, 2, 3))
    matrices[:, 0, 0] = np.where(mirror, -1, 1) / scale
    matrices[:, 0, 2] = corner[:, 0] + np.where(mirror, span, 0)
    matrices[:, 1, 1], matrices[:, 1, 2] = 1 / scale, corner[:, 1]
    pieces = sample(sources, matrices, size, 1 / scale)
    centres = (faces[..., :2] - corner[:, None]) * scale[:, None, None]
    centres[mirror, :, 0] = size - centres[mirror, :, 0]
    heights = faces[..., 2] * scale[:, None]
    visible = inside(centres, heights, 0, size)
    heights = np.where(visible > 0.02, heights, 0)
    alone = ((heights > 0).sum(1) == 1) & ((visible > 0.8) & sure & (heights > 0)).any(1)
    return pieces, alone, Layout(heights, centres, sure, visible, np.full(count, photos.complete))
