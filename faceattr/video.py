"""Frames of videos, by PyAV: pip install "faceattr[video]"."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from faceattr.images import ImageError, check_file, describe

VIDEO_SUFFIXES = frozenset(".3gp .avi .m4v .mkv .mov .mp4 .mpeg .mpg .mts .m2ts .webm .wmv".split())


@dataclass(frozen=True)
class Frame:
    """A picture of a video. time: in seconds from its start. pixels: uint8 RGB [H, W, 3], upright."""

    video: str
    time: float
    pixels: np.ndarray


def is_video(source: object) -> bool:
    """Whether it is the path of a video, by its name."""
    return isinstance(source, str | os.PathLike) and os.path.splitext(describe(source))[1].lower() in VIDEO_SUFFIXES


def frames(path: str | os.PathLike, every: float = 1.0) -> Iterator[Frame]:
    """The first frame, and then the first from each further `every` seconds on; one is held at a time.

    Raises ImageError, also after some frames where the rest is damaged.
    """
    name = describe(path)
    check_file(path)
    try:
        import av
    except ImportError:
        raise ImageError(f"{name}: a video; pip install 'faceattr[video]' to read it") from None
    av.logging.set_level(None)
    try:
        with av.open(os.fsencode(path).decode(errors="surrogateescape")) as container:
            if not container.streams.video:
                raise ImageError(f"{name}: holds no video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            start, wanted = None, 0
            for frame in container.decode(stream):
                at = frame.time if frame.time is not None else 0.0
                start = at if start is None else start
                # Half a millisecond of room: time stamps are fractions.
                if at - start + 5e-4 >= wanted * every:
                    yield Frame(name, round(at - start, 3), _upright(frame))
                    wanted = int((at - start + 5e-4) // every) + 1
            if start is None:
                raise ImageError(f"{name}: holds no frame that can be decoded")
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"{name}: truncated or damaged, cannot be decoded ({getattr(error, 'strerror', None) or error}); copy or "
            "download it again"
        ) from error


def _upright(frame: Any) -> np.ndarray:
    # The turn that players apply, counter-clockwise in degrees.
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
