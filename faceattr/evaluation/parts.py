"""Where the parts of a face are: fixed places in a picture laid as CelebA's aligned ones are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from skimage.transform import SimilarityTransform, warp

from faceattr.crops import crop_window
from faceattr.data.faces import FACE, PICTURE

PARTS = {
    "face": (30, 38, 148, 200),
    "hair": (32, 22, 146, 84),
    "eyes": (48, 88, 130, 130),
    "nose": (64, 100, 114, 150),
    "mouth": (56, 138, 122, 178),
    "chin": (44, 148, 134, 214),
}
"""x0, y0, x1, y1 of each part in pixels of an aligned picture, 178 x 218."""
LANDMARKS = np.array([[69.5, 111.0], [107.6, 111.0], [88.3, 135.3], [72.0, 152.0], [106.0, 152.0]])
"""Eyes, nose and corners of the mouth (x, y) in an aligned picture, from left to right."""


def place_by_box(pixels: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """The photo [H, W, 3] uint8, moved and scaled so that a face, crown to chin, is where aligned pictures have it.

    Returns [218, 178, 3] uint8. Raises ValueError for a box outside the photo.
    """
    x0, y0, x1, y1 = box
    scale = (y1 - y0) / (FACE[3] - FACE[1])
    left = (x0 + x1) / 2 - (FACE[0] + FACE[2]) / 2 * scale
    top = (y0 + y1) / 2 - (FACE[1] + FACE[3]) / 2 * scale
    return crop_window(pixels, (left, top, left + PICTURE[0] * scale, top + PICTURE[1] * scale), PICTURE[::-1])


def place_by_landmarks(pixels: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The photo turned, scaled and moved so that five landmarks [5, 2] come as close to LANDMARKS as they can.

    Returns [218, 178, 3] uint8. Raises ValueError for landmarks that all lie in one point.
    """
    transform = SimilarityTransform.from_estimate(LANDMARKS, landmarks)
    if not transform:
        raise ValueError(f"place_by_landmarks: the landmarks {np.asarray(landmarks).tolist()} define no scale")
    placed = warp(pixels, transform, output_shape=PICTURE[::-1], order=1, mode="edge", preserve_range=True)
    return np.rint(placed).astype(np.uint8)


def cut_part(placed: np.ndarray, part: str, side: int) -> np.ndarray:
    """A part of a placed picture, [side, side, 3] in [0, 1]."""
    x0, y0, x1, y1 = PARTS[part]
    pixels = Image.fromarray(placed[y0:y1, x0:x1]).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(pixels, dtype=np.float32) / 255
