"""Colour spaces that a picture tells in few words, without an ICC profile: as the profile that it might have had."""

from __future__ import annotations

import struct

import numpy as np
from PIL import ExifTags, Image

Point = tuple[float, float]
"""A chromaticity, x and y of CIE 1931."""

D65, _D50 = (0.3127, 0.3290), (0.3457, 0.3585)
SRGB = (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)
"""Red, green and blue."""
ADOBE_RGB, ADOBE_GAMMA = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), 563 / 256
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def implied_profile(image: Image.Image) -> bytes | None:
    """The ICC profile, of RGB, that a picture's EXIF or its PNG chunks stand for; None where that is sRGB.

    EXIF says Adobe RGB by the interoperability index R03 of the DCF, where its colour space is not sRGB. Of a PNG count
    gAMA and cHRM, unless there is sRGB.
    """
    try:
        exif = image.getexif()
        space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
        index = str(exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex, ""))
    except Exception:  # EXIF that cannot be read says nothing
        space, index = None, ""
    if index.startswith("R03") and space != 1:
        return profile(ADOBE_RGB, ADOBE_GAMMA)
    if image.format != "PNG" or "srgb" in image.info:
        return None
    exponent, points = image.info.get("gamma") or 1 / 2.2, image.info.get("chromaticity")
    white, *primaries = [*zip(points[::2], points[1::2], strict=True)] if points else (D65, *SRGB)
    # sRGB's own curve is told as 1 / 2.2, which it resembles.
    if abs(exponent - 1 / 2.2) < 0.01 and np.abs(np.subtract((white, *primaries), (D65, *SRGB))).max() < 0.003:
        return None
    return profile(primaries, 1 / exponent, white)


def profile(primaries: tuple[Point, Point, Point], gamma: float, white: Point = D65) -> bytes:
    """An ICC profile of version 2 of an RGB space: a matrix and a curve, value ** gamma."""
    s15 = lambda value: struct.pack(">i", round(value * 65536))  # noqa: E731
    text = b"RGB\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(79),
        b"wtpt": b"XYZ \0\0\0\0" + b"".join(map(s15, _xyz(_D50))),
    }
    for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), to_xyz(primaries, white).T, strict=True):
        tags[name] = b"XYZ \0\0\0\0" + b"".join(map(s15, column))
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        tags[name] = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    offset, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"\0" * 4, 0x02400000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp"
    head = head.ljust(68, b"\0") + b"".join(map(s15, _xyz(_D50)))
    return head.ljust(128, b"\0") + table + body


def to_xyz(primaries: tuple[Point, Point, Point], white: Point = D65) -> np.ndarray:
    """The matrix [3, 3] from linear RGB to XYZ under D50, as profiles have it."""
    columns = np.stack([_xyz(each) for each in primaries], 1)
    matrix = columns * np.linalg.solve(columns, _xyz(white))
    cone = _BRADFORD @ _xyz(_D50) / (_BRADFORD @ _xyz(white))
    return np.linalg.inv(_BRADFORD) @ np.diag(cone) @ _BRADFORD @ matrix


def _xyz(point: Point) -> np.ndarray:
    x, y = point
    return np.array([x / y, 1, (1 - x - y) / y])
