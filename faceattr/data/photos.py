"""Pictures decoded once into one uint8 array, which may live in a file and be mapped into memory."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from faceattr.data.decode import decode, digest, read_note, write_note

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
IN_MEMORY = 4 << 30
"""Bytes up to which a cache is read into memory; a larger one is mapped, and several processes share it."""


def list_pictures(folder: str | Path) -> list[Path]:
    """The pictures below `folder`, in a fixed order; ValueError when there is none."""
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder}: no picture found ({', '.join(sorted(SUFFIXES))})")
    return paths


LARGE = 10_000
"""Pictures in a folder of which none need be kept from training to measure on."""


def without_faces(folder: str | Path, undecided: Sequence[str]) -> list[Path]:
    """The pictures below a folder without faces but for those whose names begin with one of `undecided`."""
    return [path for path in list_pictures(folder) if not path.name.startswith(tuple(undecided))]


def hold_out(paths: Sequence[Path], share: float) -> tuple[list[Path], list[Path]]:
    """Split pictures by their names alone: the part to train on, and about `share` of them to measure on."""
    kept = {path for path in paths if zlib.crc32(path.name.encode()) % 1000 < 1000 * share}
    return [path for path in paths if path not in kept], sorted(kept)


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures of one array size."""

    images: np.ndarray
    """uint8 [n, H, W, 3]; a picture fills the upper left corner, the rest is zero."""
    extents: np.ndarray
    """int64 [n, 2]: rows and columns that the picture fills."""

    def __len__(self) -> int:
        return len(self.images)


def decode_pictures(
    paths: Sequence[Path],
    size: tuple[int, int],
    *,
    keep_aspect: bool = False,
    cache: str | Path | None = None,
    workers: int = 0,
) -> Pictures:
    """Decode pictures into one array of `size` (rows, columns), each stretched to it or, with `keep_aspect`, reduced to
    fit in.

    With `cache` (a .npy file; a .json file beside it tells what it holds), the decoded array is written there and read
    from there the next time. Decoding runs in `workers` processes, or in this one where that is 0.

    Raises ValueError for a cache of other pictures or another shape, and for a picture that cannot be read.
    """
    shape = (len(paths), *size, 3)
    content = {"shape": list(shape), "keep_aspect": keep_aspect, "pictures_sha256": digest(paths)}
    if cache is not None:
        cache = Path(cache)
        note, extents_file = cache.with_suffix(".json"), cache.with_suffix(".extents.npy")
        found = read_note(note)
        if found and cache.exists() and extents_file.exists():
            if found != content:
                what = f"an array {found['shape']}" if found["shape"] != list(shape) else "other pictures"
                raise ValueError(f"{cache}: holds {what}, {len(paths)} at {size} are needed; delete it to decode again")
            # Read whole if it is small: what is only mapped is fetched from disk again when memory is short.
            small = cache.stat().st_size < IN_MEMORY
            return Pictures(np.load(cache, mmap_mode=None if small else "r"), np.load(extents_file))
        note.unlink(missing_ok=True)
        cache.parent.mkdir(parents=True, exist_ok=True)
        images = np.lib.format.open_memmap(cache, mode="w+", dtype=np.uint8, shape=shape)
    else:
        images = np.zeros(shape, dtype=np.uint8)
    extents = np.zeros((len(paths), 2), dtype=np.int64)
    for i, picture in enumerate(decode(paths, partial(_read, size=size, keep_aspect=keep_aspect), workers)):
        rows, columns = extents[i] = picture.shape[:2]
        images[i, :rows, :columns] = picture
    if cache is not None:
        images.flush()
        np.save(extents_file, extents)
        write_note(note, content)
    return Pictures(images, extents)


def _read(path: Path, size: tuple[int, int], keep_aspect: bool) -> np.ndarray:
    """[rows, columns, 3] uint8 of a picture at `size` or, with `keep_aspect`, within it, never enlarged."""
    try:
        with Image.open(path) as picture:
            picture = picture.convert("RGB")
            rows, columns = size
            if keep_aspect:
                scale = min(1, rows / picture.height, columns / picture.width)
                rows, columns = max(1, int(picture.height * scale)), max(1, int(picture.width * scale))
            return np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as a picture ({error})") from error
