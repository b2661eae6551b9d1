"""Windows of a photo at the size a net takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class CropSettings:
    """What ANet sees of a face whose box is known; part of a checkpoint's metadata.

    centre: of the crop, from the box's centre, to the right and down, in heights of the box.
    height: of the crop, in heights of the box; its width follows from ANet's input.
    positions: rows and columns of patch positions round the centre whose features are pooled; (1, 1) is the crop alone.
    """

    centre: tuple[float, float] = (0.0, 0.0)
    height: float = 1.4
    positions: tuple[int, int] = (1, 1)

    def size(self, input_size: tuple[int, int], step: int) -> tuple[int, int]:
        """Height and width, in ANet's pixels, of the crop with all patch positions, `step` pixels apart."""
        rows, columns = self.positions
        return input_size[0] + step * (rows - 1), input_size[1] + step * (columns - 1)

    def corrected(
        self, box: Sequence[float] | np.ndarray, correction: Sequence[float]
    ) -> tuple[float, float, float, float]:
        """The box whose crop a `FrameCorrection` asks for instead of this one's; x0, y0, x1, y1 both."""
        x0, y0, x1, y1 = map(float, box)
        right, down, log_scale = correction
        face, scale = y1 - y0, math.exp(log_scale)
        # The middle of the crop moves and the box grows about it.
        x, y = (x0 + x1) / 2 + self.centre[0] * face, (y0 + y1) / 2 + self.centre[1] * face
        x, y = x + right * self.height * face, y + down * self.height * face
        x, y = x - self.centre[0] * face * scale, y - self.centre[1] * face * scale
        half_width, half_height = (x1 - x0) / 2 * scale, face / 2 * scale
        return x - half_width, y - half_height, x + half_width, y + half_height

    def window(
        self, box: Sequence[float] | np.ndarray, input_size: tuple[int, int], step: int
    ) -> tuple[float, float, float, float]:
        """The crop of a box x0, y0, x1, y1, in the same coordinates."""
        x0, y0, x1, y1 = map(float, box)
        face = y1 - y0
        x, y = (x0 + x1) / 2 + self.centre[0] * face, (y0 + y1) / 2 + self.centre[1] * face
        pixel = self.height * face / input_size[0]
        height, width = self.size(input_size, step)
        return x - width * pixel / 2, y - height * pixel / 2, x + width * pixel / 2, y + height * pixel / 2


def carried(box: Sequence[float], before: Sequence[float], after: Sequence[float]) -> list[float]:
    """Where a box comes to lie when what is framed by `before` is framed by `after` instead; each x0, y0, x1, y1."""
    moved = []
    for low, high in ((0, 2), (1, 3)):
        scale = (box[high] - box[low]) / (before[high] - before[low])
        moved.append([box[low] + (edge - before[low]) * scale for edge in (after[low], after[high])])
    (x0, x1), (y0, y1) = moved
    return [x0, y0, x1, y1]


def crop_window(pixels: np.ndarray, window: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """The window, resampled with anti-aliasing: uint8 RGB [*size, 3] of pixels [H, W, 3].

    window: x0, y0, x1, y1 in pixels, fractions welcome; what lies outside the photo repeats its border.
    size: height and width of the result. Raises ValueError for a window without area or that misses the photo.
    """
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = window
    if not (x0 < x1 and y0 < y1 and x0 < width and y0 < height and x1 > 0 and y1 > 0):
        raise ValueError(f"crop_window: window {tuple(window)} has no area in a photo of {width} x {height} pixels")
    left, top, right, bottom = math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)
    inside = pixels[max(0, top) : min(height, bottom), max(0, left) : min(width, right)]
    outside = ((max(0, -top), max(0, bottom - height)), (max(0, -left), max(0, right - width)), (0, 0))
    if any(map(any, outside)):
        inside = np.pad(inside, outside, mode="edge")
    image = Image.fromarray(np.ascontiguousarray(inside))
    box = (x0 - left, y0 - top, x1 - left, y1 - top)
    # Of what is many times too large, means of whole pixels first: far faster, and in photos a grey level off at most.
    return np.asarray(image.resize(size[::-1], Image.Resampling.LANCZOS, box, reducing_gap=3.0))
