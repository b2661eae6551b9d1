"""CelebA's label files, the official text ones or Kaggle's CSV: attributes, identities, partitions."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np

from faceattr.attributes import ATTRIBUTES
from faceattr.data.hub import unpacked
from faceattr.data.tagged import TaggedPictures, read_text

PAPER_SPLIT = (8000, 9000, 10000)
"""Last identity of each partition of the paper: 8,000 train the nets, 1,000 the SVMs, 1,000 test."""

_Row = tuple[int, list[str]]


def read_celeba(
    root: str | Path,
    images: str | Path = "img_align_celeba",
    skip_missing: bool = False,
    split: str = "official",
    partition: int | None = None,
) -> TaggedPictures:
    """Reads the label files in ``root`` and matches them with the pictures in ``root/images``.

    Args:
        root: folder with list_attr_celeba, identity_CelebA and list_eval_partition, as the official .txt or Kaggle's
            .csv (which may lack the identities); or as they are downloaded, in Anno/ and Eval/, with the pictures in
            Img/; or torchvision's root, with all in celeba/; or a dataset of Hugging Face, :mod:`faceattr.data.hub`.
        images: subfolder with the pictures: the aligned ones, or img_celeba for whole photos. In Kaggle's archive there
            is a folder of the same name inside. A full path is a folder anywhere.
        skip_missing: leave out rows whose picture is not there (a part of CelebA) instead of raising. Rows whose
            picture is there in its other form alone, aligned or whole, are left out with a warning.
        split: "official", or "paper" for its 8,000/1,000/1,000 identities, in the order of their numbers.
        partition: read this partition alone; then only its pictures need be there.

    Raises:
        ValueError: a file is missing or a row is wrong; the message names file, line and value.
    """
    if split not in ("official", "paper"):
        raise ValueError(f"read_celeba: split is {split!r}, it must be 'official' or 'paper'")
    root = celeba_root(Path(root))
    official = celeba_file(root, "list_attr_celeba.txt").exists() or not (root / "list_attr_celeba.csv").exists()
    suffix = ".txt" if official else ".csv"
    path = celeba_file(root, f"list_attr_celeba{suffix}")
    tags, lines = _read_attributes(path)
    identities = _read_identities(root, suffix)
    if split == "official":
        partition_path = celeba_file(root, f"list_eval_partition{suffix}")
        table = _read_numbers(partition_path, range(3), "a partition 0, 1 or 2")
        _same_pictures(path, tags, partition_path, table)
        partitions = np.array([table[name] for name in tags], dtype=np.int64)
    numbers = None
    if identities is not None:
        _same_pictures(path, tags, *identities)
        numbers = np.array([identities[1][name] for name in tags], dtype=np.int64)
    if split == "paper":
        if numbers is None:
            raise ValueError(f"{root}: the paper's split goes by identity; add identity_CelebA{suffix}")
        partitions = paper_partitions(numbers)
    folder = celeba_file(root, images)
    if (folder / folder.name).is_dir():
        folder = folder / folder.name
    values = np.array(list(tags.values()), dtype=bool).reshape(-1, len(ATTRIBUTES))
    data = TaggedPictures(
        folder,
        list(tags),
        ATTRIBUTES,
        values,
        np.ones_like(values),
        numbers,
        partitions,
    )
    if partition is not None:
        data = data.partition(partition)
    if not skip_missing:
        data = _leave_to_the_other_folder(data)
    return data.present(path, lines, skip_missing)


def celeba_root(root: Path) -> Path:
    """The folder that holds CelebA: ``root``, celeba/ in it, or what a dataset of Hugging Face is unpacked to."""
    if is_celeba(root):
        return root
    inner = root / "celeba"
    return inner if inner.is_dir() else unpacked(root)


def is_celeba(root: Path) -> bool:
    """Whether CelebA's attributes are in the folder, as they are downloaded or side by side."""
    return any(celeba_file(root, f"list_attr_celeba{suffix}").exists() for suffix in (".txt", ".csv"))


def celeba_file(root: Path, name: str | Path) -> Path:
    """A label file or a folder of pictures of CelebA in ``root``, or where the download has it."""
    places = [root / name, *(root / folder / name for folder in ("Anno", "Eval", "Img"))]
    return next((place for place in places if place.exists()), places[0])


def _leave_to_the_other_folder(data: TaggedPictures) -> TaggedPictures:
    """Without the rows whose picture is there in its other form alone, aligned or whole, as in parts of CelebA."""
    other = {"img_align_celeba": "img_celeba", "img_celeba": "img_align_celeba"}.get(data.folder.name)
    root = data.folder.parent
    if other is None or not data.folder.is_dir() or not (root / other).is_dir():
        return data
    only_there = np.array(
        [not (data.folder / name).is_file() and (root / other / name).is_file() for name in data.names]
    )
    if only_there.all() or not only_there.any():
        return data
    warnings.warn(f"{data.folder}: {only_there.sum()} pictures are left out, which are in {other} alone", stacklevel=3)
    return data.select(~only_there)


def read_landmarks(root: str | Path, aligned: bool) -> dict[str, np.ndarray] | None:
    """Eyes, nose and corners of the mouth of each picture, [5, 2] (x, y in pixels); None where there is no such file.

    It is list_landmarks_align_celeba, or list_landmarks_celeba for whole photos, as .txt or Kaggle's .csv.
    """
    root, stem = celeba_root(Path(root)), f"list_landmarks_{'align_' if aligned else ''}celeba"
    paths = (celeba_file(root, f"{stem}{suffix}") for suffix in (".txt", ".csv"))
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return None
    rows = _read_rows(path)[2 if path.suffix == ".txt" else 1 :]
    landmarks = {}
    for line, (name, *values) in rows:
        try:
            landmarks[name] = np.array(values, dtype=np.float64).reshape(5, 2)
        except ValueError:
            problem = f"{' '.join(values)!r}, expected x and y of five landmarks"
            raise ValueError(f"{path}, line {line}: {problem}") from None
    return landmarks


def paper_partitions(identities: np.ndarray) -> np.ndarray:
    """Partition [N] of identity numbers [N] after the paper: 1 to 8000 are 0, to 9000 1, to 10000 2, the rest -1."""
    partition = np.searchsorted(PAPER_SPLIT, identities)
    return np.where(partition < len(PAPER_SPLIT), partition, -1)


def _read_rows(path: Path) -> list[_Row]:
    """Line number and fields of every line."""
    lines = read_text(path, "one of CelebA's label files").splitlines()
    rows = csv.reader(lines) if path.suffix == ".csv" else (line.split() for line in lines)
    # Empty lines, as editors leave them at the end, are none.
    return [(line, [field.strip() for field in fields]) for line, fields in enumerate(rows, 1) if fields]


def _same_pictures(path: Path, tags: dict, other_path: Path, other: dict) -> None:
    if tags.keys() != other.keys():
        name = min(tags.keys() ^ other.keys())
        raise ValueError(f"{other_path if name in tags else path}: no row for {name}, which the other label files have")


def _read_attributes(path: Path) -> tuple[dict[str, list[bool]], dict[str, int]]:
    """Tags and line of each picture. The official file starts with the count and the names, Kaggle's with the names."""
    rows = _read_rows(path)
    count = None
    if path.suffix == ".txt":
        if len(rows) < 2 or len(rows[0][1]) != 1 or not rows[0][1][0].isdigit():
            found = " ".join(rows[0][1]) if rows else "an empty file"
            raise ValueError(f"{path}, line 1: the number of pictures expected, got {found!r}")
        count = int(rows.pop(0)[1][0])
    if not rows:
        raise ValueError(f"{path}, line 1: CelebA's attribute names expected, got an empty file")
    line, header = rows[0]
    header = header[1:] if path.suffix == ".csv" else header
    if header != list(ATTRIBUTES):
        wrong = next((name for name in header if name not in ATTRIBUTES), None)
        problem = f"unknown attribute {wrong!r}" if wrong else f"{len(header)} names, not CelebA's 40 in their order"
        raise ValueError(f"{path}, line {line}: {problem}")
    values = {"1": True, "-1": False}
    tags: dict[str, list[bool]] = {}
    lines: dict[str, int] = {}
    for line, fields in rows[1:]:
        name, *row = fields or [""]
        if len(row) != len(ATTRIBUTES):
            raise ValueError(f"{path}, line {line}: {len(row)} values, expected a picture's name and {len(ATTRIBUTES)}")
        wrong = next((value for value in row if value not in values), None)
        if wrong is not None:
            raise ValueError(f"{path}, line {line}: value {wrong!r}, expected 1 or -1")
        if name in tags:
            raise ValueError(f"{path}, line {line}: {name} is listed twice")
        tags[name], lines[name] = [values[value] for value in row], line
    if count is not None and len(tags) != count:
        raise ValueError(f"{path}, line 1: announces {count} pictures, {len(tags)} follow")
    return tags, lines


def _read_identities(root: Path, suffix: str) -> tuple[Path, dict[str, int]] | None:
    """Identities and the file they are in. Kaggle has none; people add the official text file or a CSV of it."""
    names = (f"identity_CelebA{suffix}", "identity_CelebA.txt")
    path = next((path for name in names if (path := celeba_file(root, name)).exists()), None)
    if path is None and suffix == ".csv":
        return None
    path = path or celeba_file(root, "identity_CelebA.txt")
    return path, _read_numbers(path, range(1, 1 << 31), "an identity number from 1 on")


def _read_numbers(path: Path, allowed: range, what: str) -> dict[str, int]:
    """A picture's name and a number a line, under a header in CSV."""
    rows = _read_rows(path)
    if path.suffix == ".csv" and rows and not rows[0][1][-1:][0].isdigit():
        rows = rows[1:]
    table: dict[str, int] = {}
    for line, fields in rows:
        if len(fields) != 2:
            raise ValueError(f"{path}, line {line}: {' '.join(fields)!r}, expected a picture's name and {what}")
        name, value = fields
        if not value.isdigit() or int(value) not in allowed:
            raise ValueError(f"{path}, line {line}: value {value!r}, expected {what}")
        if name in table:
            raise ValueError(f"{path}, line {line}: {name} is listed twice")
        table[name] = int(value)
    return table
