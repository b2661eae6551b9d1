"""One's own pictures and attributes: a CSV with a picture a row and an attribute a column."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from faceattr.data.ages import parse_age
from faceattr.data.hub import is_dataset, unpacked
from faceattr.data.table import PARTITIONS, celeba_name, read_table, truth, whole
from faceattr.data.tagged import TaggedPictures


def read_tag_csv(path: str | Path, root: str | Path | None = None, skip_missing: bool = False) -> TaggedPictures:
    """Reads a CSV whose column ``image`` has the pictures' paths below ``root``; the other columns are attributes.

    ``image`` may also be called ``image_id`` or ``file_name``. Columns named ``identity`` (any text, equal for one
    person; without one a picture is a person's of its own), ``partition`` (0 train, 1 validation, 2 test, or these
    words; empty: none of them) and ``age`` (years or a group: 34, 20-29, 70+; empty: unknown) are no attributes. Values
    are as :func:`faceattr.data.table.truth` reads them, the file as :func:`faceattr.data.table.read_table` does.
    Attributes that differ from CelebA's in case and punctuation alone get CelebA's names.

    Args:
        path: the CSV file; or a Parquet file or dataset of Hugging Face, :mod:`faceattr.data.hub`, pictures and all.
        root: folder of the pictures; by default the file's own.
        skip_missing: leave out rows whose picture is not there instead of raising.

    Raises:
        ValueError: the file or a picture is missing, or a row is wrong; the message names file, line and value.
    """
    path = Path(path)
    if is_dataset(path):
        path, root = unpacked(path) / "tags.csv", None
    table = read_table(path, "the CSV of pictures and attributes")
    columns = ", ".join(table.header) or "none"
    image, person, part, age = (
        table.find(*names) for names in (("image", "image_id", "file_name"), ("identity",), ("partition",), ("age",))
    )
    if image is None:
        raise ValueError(f"{path}, line 1: column 'image' is missing; the columns are {columns}")
    chosen = [column for column in range(len(table.header)) if column not in (image, person, part, age)]
    if not chosen and age is None:
        raise ValueError(f"{path}, line 1: no attribute column; the columns are {columns}")
    attributes = tuple(celeba_name(table.header[column]) for column in chosen)
    for name in attributes:
        table.find(name)  # raises where two are one
    tags, known, lines = [], [], {}
    people: list[str] = []
    partitions: list[int] = []
    ages: list[tuple[float, float]] = []
    for line, row in table.rows:
        where = f"{path}, line {line}"
        name = row[image]
        if not name or name in lines:
            raise ValueError(f"{where}: {f'{name} is listed twice' if name else 'no picture is named'}")
        lines[name] = line
        if person is not None:
            people.append(whole(row[person]) or f"the person of {name}")
        if part is not None:
            value = whole(row[part]).lower()
            if value not in PARTITIONS:
                raise ValueError(f"{where}: {table.header[part]} {row[part]!r}, expected 0, 1 or 2")
            partitions.append(PARTITIONS[value])
        if age is not None:
            try:
                ages.append(parse_age(whole(row[age])))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        try:
            said = [truth(row[at := column]) for column in chosen]
        except ValueError as error:
            raise ValueError(f"{where}: {table.header[at]} is {row[at]!r}, {error}") from None
        tags.append([value is True for value in said])
        known.append([value is not None for value in said])
    if not tags:
        raise ValueError(f"{path}: has no row but the header")
    data = TaggedPictures(
        Path(root) if root is not None else path.parent,
        list(lines),
        attributes,
        np.array(tags, dtype=bool),
        np.array(known, dtype=bool),
        np.unique(people, return_inverse=True)[1].astype(np.int64) if people else None,
        np.array(partitions, dtype=np.int64) if partitions else None,
        np.array(ages) if ages else None,
    )
    return data.present(path, lines, skip_missing)


def write_faces(folder: Path, pictures: Iterable[np.ndarray], face: bool) -> int:
    """Writes pictures, uint8 [H, W, 3], as folder/NNNNNN.jpg, and tags.csv, by which each, all of partition 0, has a
    face or none. What is there of a run before goes. Returns how many there are; of none there is no CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    tags = folder / "tags.csv"
    for path in (tags, *folder.glob("[0-9]*.jpg")):
        path.unlink(missing_ok=True)
    names = []
    for picture in pictures:
        names.append(f"{len(names):06}.jpg")
        Image.fromarray(picture).save(folder / names[-1], quality=95)
    if names:
        # Written last: its presence says that the pictures are there.
        unfinished = tags.with_suffix(".partial")
        with unfinished.open("w", newline="") as file:
            rows = ([name, int(face), 0] for name in names)
            csv.writer(file, lineterminator="\n").writerows([["image", "Face", "partition"], *rows])
        os.replace(unfinished, tags)
    return len(names)
