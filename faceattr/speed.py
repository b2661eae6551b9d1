"""How fast this machine is: `faceattr info --benchmark`."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable

import torch
from PIL import Image

from faceattr.images import load_image
from faceattr.pipeline import FaceAttributes

SIDE = 300
"""Side of the photo in pixels, as in the paper's "Time complexity"."""


def read_photo(path: str | None) -> Image.Image:
    """The photo to time, 300x300; by default scikit-image's astronaut, which has one face.

    Raises ValueError where scikit-image is not installed and no path is given.
    """
    if path is None:
        try:
            from skimage.data import astronaut
        except ImportError:
            problem = "give a photo with a face, or pip install scikit-image for the astronaut's"
            raise ValueError(f"--benchmark: {problem}") from None
        pixels = astronaut()
    else:
        pixels = load_image(path)
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def measure(model: FaceAttributes, photo: Image.Image, seconds: float = 5.0) -> dict[str, float]:
    """Medians of milliseconds for the whole cascade and for localisation alone on one photo, which is decoded already,
    and JPEGs a second when many are given at once, to two threads."""
    stored = io.BytesIO()
    photo.save(stored, "JPEG", quality=90)
    stream = [stored.getvalue()] * 64

    def rate() -> float:
        start = time.perf_counter()
        for _ in model.iter_predict(stream, workers=2):
            pass
        return len(stream) / (time.perf_counter() - start)

    return {
        "faces": len(model.predict(photo)),
        "cascade": _milliseconds(lambda: model.predict(photo), model.device, seconds),
        "localisation": _milliseconds(lambda: model.detect(photo), model.device, seconds),
        "photos a second": statistics.median(rate() for _ in range(3)),
    }


def _milliseconds(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)
