"""Pictures for people: a photo with its faces, and a response map laid over its photo."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# From low to high response: dark blue, purple, orange, light yellow; lightness rises evenly, so it also reads in grey.
RAMP = np.array([[12, 8, 60], [120, 28, 110], [237, 105, 37], [252, 250, 165]], dtype=np.float64)
_BOX, _TEXT, _SHADE = (80, 220, 120), (255, 255, 255), (0, 0, 0, 150)


def draw_faces(pixels: np.ndarray, boxes: np.ndarray, captions: Sequence[Sequence[str]]) -> Image.Image:
    """The photo with a frame round each face and its caption's lines beside it.

    pixels: uint8 RGB [H, W, 3]. boxes: [K, 4], x0, y0, x1, y1 in these pixels. captions: the lines of each face.
    """
    image = Image.fromarray(pixels)
    side = max(image.size)
    font = ImageFont.load_default(max(10, side // 50))
    draw = ImageDraw.Draw(image, "RGBA")
    for box, lines in zip(boxes, captions, strict=True):
        draw.rectangle([float(edge) for edge in box], outline=_BOX, width=max(1, side // 250))
        text = "\n".join(lines)
        left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font)
        width, height = right - left, bottom - top
        # To the right of the face, to its left where there is no room, always inside the photo.
        x = box[2] + 4 if box[2] + 4 + width <= image.width else box[0] - 4 - width
        x = min(max(0, x), max(0, image.width - width))
        y = min(max(0, box[1]), max(0, image.height - height))
        if lines:
            draw.rectangle([x - 2, y - 2, x + width + 2, y + height + 2], fill=_SHADE)
            draw.multiline_text((x - left, y - top), text, font=font, fill=_TEXT)
    return image


def draw_response_map(pixels: np.ndarray, response: np.ndarray, opacity: float = 0.6) -> Image.Image:
    """The photo under its response map as colours, from dark blue (least) to light yellow (largest response).

    pixels: uint8 RGB [H, W, 3]. response: [h, w], covering the whole photo; non-finite responses count as the least.
    """
    response = np.asarray(response, dtype=np.float64)
    finite = np.isfinite(response)
    low, high = (response[finite].min(), response[finite].max()) if finite.any() else (0.0, 0.0)
    level = np.where(finite, response - low, 0) / ((high - low) or 1)
    steps = np.linspace(0, 1, len(RAMP))
    colours = np.stack([np.interp(level, steps, channel) for channel in RAMP.T], axis=-1)
    photo = Image.fromarray(pixels)
    heat = Image.fromarray(colours.round().astype(np.uint8)).resize(photo.size, Image.Resampling.BICUBIC)
    return Image.blend(photo, heat, opacity)
