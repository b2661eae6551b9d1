"""Pictures decoded once into one uint8 array, which may live in a file and be mapped into memory."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def list_pictures(folder: str | Path) -> list[Path]:
    """The pictures below `folder`, in a fixed order; ValueError when there is none."""
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder}: no picture found ({', '.join(sorted(SUFFIXES))})")
    return paths


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
    paths: Sequence[Path], size: tuple[int, int], *, keep_aspect: bool = False, cache: str | Path | None = None
) -> Pictures:
    """Decode pictures into one array of `size` (rows, columns), each stretched to it or, with `keep_aspect`, fitted in.

    With `cache` (a .npy file), the decoded array is written there and read from there the next time. A cache of another
    shape and a picture that cannot be read raise ValueError.
    """
    shape = (len(paths), *size, 3)
    extents = np.tile(np.array(size, dtype=np.int64), (len(paths), 1))
    extents_file = None if cache is None else Path(cache).with_suffix(".extents.npy")
    if cache is not None and Path(cache).exists() and extents_file.exists():
        # Read whole: what is only mapped is fetched from disk again and again when memory is short.
        images = np.load(cache)
        if images.shape != shape:
            raise ValueError(f"{cache}: holds an array {images.shape}, {shape} is needed; delete it to decode again")
        return Pictures(images, np.load(extents_file))
    if cache is None:
        images = np.zeros(shape, dtype=np.uint8)
    else:
        Path(cache).parent.mkdir(parents=True, exist_ok=True)
        images = np.lib.format.open_memmap(cache, mode="w+", dtype=np.uint8, shape=shape)
    for i, path in enumerate(tqdm(paths, desc="decoding", unit="picture", mininterval=2)):
        try:
            with Image.open(path) as picture:
                picture = picture.convert("RGB")
                if keep_aspect:
                    scale = min(size[0] / picture.height, size[1] / picture.width)
                    extents[i] = max(1, int(picture.height * scale)), max(1, int(picture.width * scale))
                rows, columns = extents[i].tolist()
                images[i, :rows, :columns] = np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR))
        except OSError as error:
            raise ValueError(f"{path}: cannot be read as a picture ({error})") from error
    if cache is not None:
        images.flush()
        np.save(extents_file, extents)  # written last: its presence says that the cache is complete
    return Pictures(images, extents)
