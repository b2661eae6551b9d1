"""Many pictures through a function, in order, in worker processes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm


class _Read(Dataset):
    """``read(path)``, or the message of the ValueError that it raises."""

    def __init__(self, paths: Sequence[Path], read: Callable[[Path], Any]):
        self.paths, self.read = paths, read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Any, str | None]:
        try:
            return self.read(self.paths[row]), None
        except ValueError as error:
            return None, str(error)


def decode(paths: Sequence[Path], read: Callable[[Path], Any], workers: int = 0) -> Iterator[Any]:
    """What ``read`` makes of each picture, in order; in ``workers`` processes, or in this one where that is 0.

    Raises ValueError as ``read`` does.
    """
    # A generator of its own: from torch's, training would draw other numbers where pictures are decoded first.
    options = {"batch_size": 16, "collate_fn": list, "generator": torch.Generator()}
    loader = DataLoader(_Read(paths, read), num_workers=workers, **options)
    with tqdm(total=len(paths), desc="decoding", unit="picture", mininterval=2, dynamic_ncols=True) as progress:
        for batch in loader:
            for result, problem in batch:
                if problem is not None:
                    raise ValueError(problem)
                yield result
            progress.update(len(batch))


def read_note(path: Path) -> dict | None:
    """What :func:`write_note` wrote beside a cache to say that it is whole; None where there is nothing of the kind."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def write_note(path: Path, content: dict) -> None:
    """Writes what a cache holds, all or nothing; after the cache, of which its presence says that it is whole."""
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(json.dumps(content))
    os.replace(unfinished, path)


def digest(paths: Sequence[Path]) -> str:
    """A number that stands for these pictures, by their paths."""
    return hashlib.sha256(
        "\n".join(str(path.absolute()) for path in paths).encode(errors="surrogateescape")
    ).hexdigest()
