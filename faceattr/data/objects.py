"""Object categories, a folder a class, for the pre-training of LNet+."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from faceattr.data.photos import decode_pictures, list_pictures


class ObjectFolder:
    """Pictures of object categories, decoded once: `images` uint8 [n, size, size, 3], `labels` int64 [n], `classes`.

    `folder` holds one folder a class. With `cache`, the decoded array is kept in that .npy file; decoding runs in
    `workers` processes, or in this one where that is 0.
    """

    def __init__(self, folder: str | Path, size: int = 84, cache: str | Path | None = None, workers: int = 0):
        paths = list_pictures(folder)
        self.classes = sorted({path.parent.name for path in paths})
        index = {name: i for i, name in enumerate(self.classes)}
        self.labels = np.array([index[path.parent.name] for path in paths], dtype=np.int64)
        self.images = decode_pictures(paths, (size, size), cache=cache, workers=workers).images

    def __len__(self) -> int:
        return len(self.labels)
