"""A collection as people have them: photos of every format, size and turn, and much that is broken."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, features
from rich_photos import ADOBE_RGB, DISPLAY_P3, dng, in_space
from small_checkpoint import NEUTRAL, SMILING, draw_photo

from faceattr.colour import profile

BROKEN = ("truncated", "empty", "text", "renamed", "pipe", "round link", "link to nothing")


def make_collection(folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Fills a folder with `count` files, one in ten of them broken; how many there are that can be read, and not."""
    from skimage import data

    random = np.random.default_rng(seed)
    pictures = [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "cat", "coffee", "rocket")]
    made = {"good": 0, "broken": 0}
    for number in range(count):
        place = folder / f"{2015 + number % 9}" / ("Ünterwegs & zurück" if number % 5 == 0 else f"{number % 12:02}")
        place.mkdir(parents=True, exist_ok=True)
        name = f"IMG_{number:05}" if number % 7 else f"Фото 'nr' {number} " + "長" * (60 if number % 49 == 0 else 2)
        if number % 10 == 9:
            _make_broken(place / f"{name}.jpg", BROKEN[number // 10 % len(BROKEN)], pictures[0])
            made["broken"] += 1
            continue
        # Not to be a copy of another one, each has a size of its own, nearly.
        size = (int(random.integers(160, 640)), int(random.integers(160, 640)))
        if number % 3 == 0:
            picture = pictures[random.integers(len(pictures))].resize(size)
        else:
            side = max(size) / 10
            colours = [(NEUTRAL, SMILING)[value] for value in random.integers(0, 2, random.integers(3))]
            places = [(0.3 * size[0], 0.4 * size[1]), (0.75 * size[0], 0.6 * size[1])]
            picture = draw_photo([(*at, side, colour) for at, colour in zip(places, colours, strict=False)], size)
        _save(place / name, picture, number, int(random.integers(1, 9)))
        made["good"] += 1
    return made


def _save(path: Path, picture: Image.Image, number: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    formats = ["jpg", "png", "webp", "JPG", "tif", "bmp", "p3.jpg", "adobe.png", "palette.gif", "dng", "heic", "avif"]
    kind = formats[number % len(formats)]
    if kind == "dng" and _importable("rawpy"):
        pixels = np.asarray(picture)[: picture.height // 2 * 2, : picture.width // 2 * 2]
        path.with_name(f"{path.name}.dng").write_bytes(dng(pixels, (1, 3, 6, 8)[number % 4]))
        return
    if kind == "heic" and _importable("pillow_heif"):
        import pillow_heif

        pillow_heif.from_pillow(picture).save(path.with_name(f"{path.name}.heic"), quality=90)
        return
    if kind in ("dng", "heic") or (kind == "avif" and not features.check("avif")):
        kind = "jpg"
    options = {"exif": exif} if kind not in ("bmp", "palette.gif") else {}
    if kind == "avif":
        options["speed"] = 10
    if kind in ("p3.jpg", "adobe.png"):
        space = DISPLAY_P3 if kind == "p3.jpg" else ADOBE_RGB
        picture = Image.fromarray(in_space(np.asarray(picture), *space))
        options["icc_profile"] = profile(*space)
    picture.save(path.with_name(f"{path.name}.{kind}"), **options)


def _make_broken(path: Path, how: str, picture: Image.Image) -> None:
    data = io.BytesIO()
    picture.save(data, "JPEG")
    if how == "truncated":
        path.write_bytes(data.getvalue()[:5000])
    elif how == "renamed":  # a program
        path.write_bytes(b"\x7fELF" + os.urandom(3000))
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "round link":
        path.symlink_to(path.name)
    elif how == "link to nothing":
        path.symlink_to("nothing")
    else:
        path.write_bytes(b"" if how == "empty" else b"this is text\n" * 30)


def _importable(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True
