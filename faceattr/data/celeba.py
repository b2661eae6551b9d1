"""CelebA's official text files: attributes, identities, partitions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faceattr.attributes import ATTRIBUTES


@dataclass(frozen=True)
class CelebA:
    """Pictures of one folder with their labels, in the order of the official files."""

    folder: Path
    names: list[str]
    """File names, N of them."""
    tags: np.ndarray
    """[N, 40] bool, columns as :data:`faceattr.attributes.ATTRIBUTES`."""
    identities: np.ndarray
    """[N] int64, the official identity numbers."""
    partitions: np.ndarray
    """[N] int64: 0 train, 1 validation, 2 test."""

    def __len__(self) -> int:
        return len(self.names)

    def select(self, rows: np.ndarray) -> CelebA:
        """The pictures of some rows (indices or a mask)."""
        names = np.asarray(self.names, dtype=object)[rows].tolist()
        return CelebA(self.folder, names, self.tags[rows], self.identities[rows], self.partitions[rows])

    def partition(self, number: int) -> CelebA:
        """The pictures of one partition; ValueError if it has none."""
        rows = np.flatnonzero(self.partitions == number)
        if not len(rows):
            raise ValueError(f"{self.folder}: no picture of partition {number}")
        return self.select(rows)


def read_celeba(root: str | Path, images: str = "img_align_celeba", skip_missing: bool = False) -> CelebA:
    """Reads the three label files in ``root`` and matches them with the pictures in ``root/images``.

    Args:
        root: folder with list_attr_celeba.txt, identity_CelebA.txt and list_eval_partition.txt.
        images: subfolder with the pictures.
        skip_missing: leave out rows whose picture is not there (a part of CelebA) instead of raising.

    Raises:
        ValueError: a file is missing or a row is wrong; the message names file, line and value.
    """
    root = Path(root)
    tags = _read_attributes(root / "list_attr_celeba.txt")
    identities = _read_numbers(root / "identity_CelebA.txt", range(1, 1 << 31), "an identity number from 1 on")
    partitions = _read_numbers(root / "list_eval_partition.txt", range(3), "a partition 0, 1 or 2")
    for path, table in (("identity_CelebA.txt", identities), ("list_eval_partition.txt", partitions)):
        if table.keys() != tags.keys():
            name = min(table.keys() ^ tags.keys())
            where = path if name in tags else "list_attr_celeba.txt"
            raise ValueError(f"{root / where}: no row for {name}, which the other label files have")
    folder = root / images
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of pictures")
    present = {path.name for path in folder.iterdir()}
    names = [name for name in tags if name in present]
    if not skip_missing and len(names) < len(tags):
        name = next(name for name in tags if name not in present)
        raise ValueError(f"{folder / name}: listed in {root / 'list_attr_celeba.txt'} but missing; add it or skip missing pictures")
    if not names:
        raise ValueError(f"{folder}: holds none of the {len(tags)} pictures that {root / 'list_attr_celeba.txt'} lists")
    return CelebA(
        folder,
        names,
        np.array([tags[name] for name in names], dtype=bool),
        np.array([identities[name] for name in names], dtype=np.int64),
        np.array([partitions[name] for name in names], dtype=np.int64),
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; it is one of CelebA's official label files") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file ({error})") from None


def _read_attributes(path: Path) -> dict[str, list[bool]]:
    """list_attr_celeba.txt: the count, the 40 names, then a picture a line with 1 or -1 for each."""
    lines = _lines(path)
    if len(lines) < 2 or not lines[0].strip().isdigit():
        raise ValueError(f"{path}, line 1: the number of pictures expected, got {lines[0] if lines else 'an empty file'!r}")
    header = lines[1].split()
    if header != list(ATTRIBUTES):
        wrong = next((name for name in header if name not in ATTRIBUTES), None)
        problem = f"unknown attribute {wrong!r}" if wrong else f"{len(header)} names, not CelebA's 40 in their order"
        raise ValueError(f"{path}, line 2: {problem}")
    values = {"1": True, "-1": False}
    table: dict[str, list[bool]] = {}
    for number, line in enumerate(lines[2:], 3):
        name, *row = line.split() or [""]
        if len(row) != len(ATTRIBUTES):
            raise ValueError(f"{path}, line {number}: {len(row)} values, expected a picture's name and {len(ATTRIBUTES)}")
        try:
            tags = [values[value] for value in row]
        except KeyError as error:
            raise ValueError(f"{path}, line {number}: value {error.args[0]!r}, expected 1 or -1") from None
        if name in table:
            raise ValueError(f"{path}, line {number}: {name} is listed twice")
        table[name] = tags
    if len(table) != int(lines[0]):
        raise ValueError(f"{path}, line 1: announces {lines[0].strip()} pictures, {len(table)} follow")
    return table


def _read_numbers(path: Path, allowed: range, what: str) -> dict[str, int]:
    """A picture's name and a number a line."""
    table: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        fields = line.split()
        if len(fields) != 2:
            raise ValueError(f"{path}, line {number}: {line!r}, expected a picture's name and {what}")
        name, value = fields
        if not value.isdigit() or int(value) not in allowed:
            raise ValueError(f"{path}, line {number}: value {value!r}, expected {what}")
        if name in table:
            raise ValueError(f"{path}, line {number}: {name} is listed twice")
        table[name] = int(value)
    return table
