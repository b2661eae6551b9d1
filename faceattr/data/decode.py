"""Many pictures through a function, in order, in worker processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

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
    loader = DataLoader(_Read(paths, read), batch_size=16, num_workers=workers, collate_fn=list)
    with tqdm(total=len(paths), desc="decoding", unit="picture", mininterval=2, dynamic_ncols=True) as progress:
        for batch in loader:
            for result, problem in batch:
                if problem is not None:
                    raise ValueError(problem)
                yield result
            progress.update(len(batch))


def digest(paths: Sequence[Path]) -> str:
    """A number that stands for these pictures, by their paths."""
    return hashlib.sha256(
        "\n".join(str(path.absolute()) for path in paths).encode(errors="surrogateescape")
    ).hexdigest()
