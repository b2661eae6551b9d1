"""Photo to faces: LNet_o and LNet_s localise, ANet and one linear SVM an attribute tell what they look like."""

import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from faceattr.crops import crop_window
from faceattr.images import ImageError, Photo, describe, load_photo
from faceattr.localization import Localizer
from faceattr.models.checkpoint import Checkpoint, load_checkpoint

# A stream holds decoded photos until their faces fill a batch, but no more bytes of them than this.
_HELD_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Face:
    """One face of a photo.

    box: x0, y0, x1, y1 in pixels of the upright original photo.
    score: of the localisation, 0 to 1; None where the box was given.
    attributes: calibrated probability of each attribute. labels: those over their threshold.
    features: float32 [F], what the SVMs see; None where only boxes were asked for.
    notes: what speaks against trusting the rest, in words; mostly empty.
    """

    box: tuple[float, float, float, float]
    score: float | None
    attributes: dict[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    features: np.ndarray | None = field(default=None, repr=False, compare=False)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict:
        """As JSON takes it, without the features."""
        return {
            "box": [round(edge, 2) for edge in self.box],
            "score": None if self.score is None else round(self.score, 4),
            "attributes": {name: round(value, 4) for name, value in self.attributes.items()},
            "labels": list(self.labels),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Prediction:
    """The record of one picture of a stream.

    image: its name. width, height: of the upright original; None when it could not be read.
    error: None, or why it could not be read. photo: the decoded picture, at most 2048 pixels a side.
    response_maps: name to [h, w] over the whole photo.
    """

    image: str
    width: int | None = None
    height: int | None = None
    faces: list[Face] = field(default_factory=list)
    error: str | None = None
    photo: Photo | None = field(default=None, repr=False, compare=False)
    response_maps: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict:
        """The JSON record."""
        faces = [face.to_dict() for face in self.faces]
        return {"image": self.image, "width": self.width, "height": self.height, "faces": faces, "error": self.error}


def load(weights: str | os.PathLike | None = None, device: str | torch.device = "auto", **options) -> "FaceAttributes":
    """The pipeline with the bundled weights, or those of a checkpoint file or of a folder that holds one.

    device: "cpu", "cuda", "cuda:1", ..., or "auto" (cuda where there is one).
    options: as `FaceAttributes`. Raises ValueError for weights or options that do not do.
    """
    path = find_weights(weights)
    device = _device(device)
    dtype = options.get("dtype", torch.float32)
    return FaceAttributes(load_checkpoint(path, device=device, dtype=dtype), weights=str(path), **options)
