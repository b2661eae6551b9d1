"""One's own pictures and attributes: a CSV with a picture a row and an attribute a column."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from faceattr.data.ages import parse_age
from faceattr.data.tagged import TaggedPictures, read_text

_VALUES = {"1": True, "true": True, "0": False, "-1": False, "false": False}


def read_tag_csv(path: str | Path, root: str | Path | None = None, skip_missing: bool = False) -> TaggedPictures:
    """Reads a CSV whose column ``image`` has the pictures' paths below ``root``; the other columns are attributes.

    Columns named ``identity`` (any text, equal for one person), ``partition`` (0 train, 1 validation, 2 test) and
    ``age`` (years or a group: 34, 20-29, 70+) are no attributes. Values are 1, true, 0, -1 or false; an empty one means
    that nobody has said.

    Args:
        path: the CSV file.
        root: folder of the pictures; by default the file's own.
        skip_missing: leave out rows whose picture is not there instead of raising.

    Raises:
        ValueError: the file or a picture is missing, or a row is wrong; the message names file, line and value.
    """
    path = Path(path)
    text = read_text(path, "the CSV of pictures and attributes")
    reader = csv.reader(text.splitlines())
    header = next(reader, [])
    if "image" not in header:
        raise ValueError(f"{path}, line 1: column 'image' is missing; the columns are {', '.join(header) or 'none'}")
    for name in header:
        if header.count(name) > 1 or not name.strip():
            raise ValueError(
                f"{path}, line 1: column {name!r} is {'without a name' if not name.strip() else 'there twice'}"
            )
    attributes = tuple(name for name in header if name not in ("image", "identity", "partition", "age"))
    if not attributes and "age" not in header:
        raise ValueError(f"{path}, line 1: no attribute column; the columns are {', '.join(header)}")
    tags, known, lines = [], [], {}
    people: list[str] = []
    partitions: list[int] = []
    ages: list[tuple[float, float]] = []
    for fields in reader:
        where = f"{path}, line {reader.line_num}"
        if len(fields) != len(header):
            raise ValueError(f"{where}: {len(fields)} values for {len(header)} columns")
        row = {name: value.strip() for name, value in zip(header, fields, strict=True)}
        image = row.pop("image")
        if not image or image in lines:
            raise ValueError(f"{where}: {f'{image} is listed twice' if image else 'no picture is named'}")
        lines[image] = reader.line_num
        people.append(row.pop("identity", ""))
        if "partition" in row:
            value = row.pop("partition")
            if value not in ("0", "1", "2"):
                raise ValueError(f"{where}: partition {value!r}, expected 0, 1 or 2")
            partitions.append(int(value))
        if "age" in row:
            try:
                ages.append(parse_age(row.pop("age")))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        for name, value in row.items():
            if value and value.lower() not in _VALUES:
                raise ValueError(f"{where}: {name} is {value!r}, expected 1, 0, -1, true, false or nothing")
        tags.append([_VALUES.get(value.lower(), False) for value in row.values()])
        known.append([value != "" for value in row.values()])
    if not tags:
        raise ValueError(f"{path}: has no row but the header")
    data = TaggedPictures(
        Path(root) if root is not None else path.parent,
        list(lines),
        attributes,
        np.array(tags, dtype=bool),
        np.array(known, dtype=bool),
        np.unique(people, return_inverse=True)[1].astype(np.int64) if "identity" in header else None,
        np.array(partitions, dtype=np.int64) if partitions else None,
        np.array(ages) if ages else None,
    )
    return data.present(path, lines, skip_missing)
