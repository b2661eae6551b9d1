"""Object categories, a folder a class, for the pre-training of LNet+."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def list_pictures(folder: str | Path) -> list[Path]:
    """The pictures below `folder`, in a fixed order; ValueError when there is none."""
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder}: no picture found ({', '.join(sorted(SUFFIXES))})")
    return paths


def read_square(path: Path, size: int) -> np.ndarray:
    """The picture resized to [size, size, 3] uint8."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{path}: cannot be read as a picture ({error})") from error


class ObjectFolder:
    """Pictures of object categories, decoded once: `images` uint8 [n, size, size, 3], `labels` int64 [n], `classes`.

    `folder` holds one folder a class. With `cache`, the decoded array is kept there as a .npy file and mapped into memory
    from then on; a cache whose shape does not fit the folder is an error that says so.
    """

    def __init__(self, folder: str | Path, size: int = 84, cache: str | Path | None = None):
        paths = list_pictures(folder)
        self.classes = sorted({path.parent.name for path in paths})
        index = {name: i for i, name in enumerate(self.classes)}
        self.labels = np.array([index[path.parent.name] for path in paths], dtype=np.int64)
        shape = (len(paths), size, size, 3)
        if cache is not None and Path(cache).exists():
            self.images = np.load(cache, mmap_mode="r")
            if self.images.shape != shape:
                raise ValueError(f"{cache}: holds {self.images.shape}, {folder} needs {shape}; delete the cache")
            return
        self.images = np.empty(shape, dtype=np.uint8)
        for i, path in enumerate(tqdm(paths, desc=f"decoding {Path(folder).name}", unit="picture", leave=False)):
            self.images[i] = read_square(path, size)
        if cache is not None:
            Path(cache).parent.mkdir(parents=True, exist_ok=True)
            np.save(cache, self.images)

    def __len__(self) -> int:
        return len(self.labels)
