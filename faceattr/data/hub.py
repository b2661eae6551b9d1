"""Datasets of Hugging Face, saved ones and Parquet files, as folders that the other readers take:
pip install "faceattr[datasets]"."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

from faceattr.attributes import ATTRIBUTES
from faceattr.data.decode import read_note, write_note
from faceattr.data.table import PARTITIONS, celeba_name, plain, truth, whole

IMAGE, PEOPLE = ("image", "img", "picture"), ("identity", "celeb_id", "person")
"""Names of the columns with pictures and with persons, however they are written."""


def is_dataset(path: Path) -> bool:
    """Whether it is a Parquet file, a folder with such in it or in its data/, or what `save_to_disk` writes."""
    if path.suffix == ".parquet":
        return path.is_file()
    saved = any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json"))
    return saved or any(path.glob("*.parquet")) or any(path.glob("data/*.parquet"))


def unpacked(path: Path, folder: Path | None = None) -> Path:
    """A folder with what the dataset at ``path`` holds; a path that is no dataset as it is.

    It gets tags.csv with its pictures beside it, in the order of the dataset; and CelebA's label files with
    img_align_celeba/ where the tags are CelebA's 40, persons are known and every picture has a split. Columns that are
    neither pictures nor persons nor tags are left out with a warning.

    folder: where to; by default one below the folder for temporary files, which is kept for the next time.

    Raises:
        ValueError: `datasets` is not installed, it cannot read the dataset, or there are no pictures or no tags in it.
    """
    if not is_dataset(path):
        return path
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    content = {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    name = hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest()[:16]
    folder = folder or Path(tempfile.gettempdir()) / f"faceattr-{os.getuid()}" / name
    if read_note(folder / "whole.json") != content:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write(path, folder)
        write_note(folder / "whole.json", content)
    return folder


def _splits(path: Path) -> dict[str, Any]:
    """The dataset's parts by their names."""
    try:
        import datasets
    except ImportError:
        raise ValueError(f"{path}: a dataset; to read it: pip install 'faceattr[datasets]'") from None
    try:
        if path.is_file():
            read = datasets.load_dataset("parquet", data_files=str(path), streaming=True)
        elif (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists():
            read = datasets.load_from_disk(str(path))
        else:
            read = datasets.load_dataset(str(path), streaming=True)
    except Exception as error:  # whatever the library raises, the dataset is what is wrong
        raise ValueError(f"{path}: cannot be read as a dataset ({error})") from None
    parts = dict(read) if hasattr(read, "keys") else {"all": read}
    for split, part in parts.items():
        for name, feature in (part.features or {}).items():
            if isinstance(feature, datasets.Image):  # as it is stored: decoded and written again it would be larger
                parts[split] = parts[split].cast_column(name, datasets.Image(decode=False))
    return parts


def _write(path: Path, folder: Path) -> None:
    names, table = _rows(path, folder)
    attributes = [celeba_name(name) for name in names]
    parted = all(part for _, _, part, _ in table)
    known_people = all(person for _, person, _, _ in table)
    with open(folder / "tags.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "identity", "partition", *names])
        writer.writerows([image, person, part, *tags] for image, person, part, tags in table)
    every = all(tag != "" for _, _, _, tags in table for tag in tags)
    if not (set(ATTRIBUTES) <= set(attributes) and parted and known_people and every):
        return
    chosen = [attributes.index(name) for name in ATTRIBUTES]
    people = {person: number for number, person in enumerate(dict.fromkeys(row[1] for row in table), 1)}
    (folder / "img_align_celeba").symlink_to("pictures")
    images = [Path(image).name for image, _, _, _ in table]
    lines = [str(len(table)), " ".join(ATTRIBUTES)]
    lines += [
        f"{image} {' '.join('1' if row[3][i] == '1' else '-1' for i in chosen)}"
        for image, row in zip(images, table, strict=True)
    ]
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    for file, values in (
        ("identity_CelebA.txt", [people[row[1]] for row in table]),
        ("list_eval_partition.txt", [row[2] for row in table]),
    ):
        text = "".join(f"{image} {value}\n" for image, value in zip(images, values, strict=True))
        (folder / file).write_text(text)


def _rows(path: Path, folder: Path) -> tuple[list[str], list[tuple[str, str, str, list[str]]]]:
    """Names of the tags, and the rows: the picture's name, person, partition, tags; the pictures are written."""
    (folder / "pictures").mkdir()
    rows, columns = [], None
    for split, part in _splits(path).items():
        partition = str(PARTITIONS.get(split, ""))
        for record in part:
            columns = columns or _columns(path, record)
            image, person, tags = columns
            name = _save(record[image], folder / "pictures", len(rows), path)
            rows.append((f"pictures/{name}", whole(str(record[person])) if person else "", partition, []))
            for tag in tags:
                try:
                    said = truth(str(record[tag]))
                except ValueError as error:
                    raise ValueError(f"{path}: {tag} of row {len(rows)} is {record[tag]!r}, {error}") from None
                rows[-1][3].append("" if said is None else str(int(said)))
    if columns is None:
        raise ValueError(f"{path}: has no row")
    return columns[2], rows


def _columns(path: Path, record: dict) -> tuple[str, str | None, list[str]]:
    """The columns with the pictures, with persons (if there are any) and with tags."""
    image = next((name for name in record if plain(name) in map(plain, IMAGE)), None)
    if image is None:
        raise ValueError(f"{path}: no column {' or '.join(IMAGE)}; there are {', '.join(record)}")
    person = next((name for name in record if plain(name) in map(plain, PEOPLE)), None)
    tags, others = [], []
    for name, value in record.items():
        if name in (image, person):
            continue
        try:
            truth(str(value))
        except ValueError:
            others.append(name)
        else:
            tags.append(name)
    if not tags:
        raise ValueError(f"{path}: no column of tags (1, 0, -1, true, false); there are {', '.join(record)}")
    if others:
        warnings.warn(f"{path}: columns that are no tags are left out: {', '.join(others)}", stacklevel=2)
    return image, person, tags


def _save(picture: Any, folder: Path, number: int, path: Path) -> str:
    """Writes a picture under its number: encoded bytes as they are, a decoded one as PNG; its file's name."""
    if isinstance(picture, dict):  # as Parquet has it, where nothing says that it is a picture
        picture = picture.get("bytes") or picture.get("path")
    if isinstance(picture, str):
        source = path.parent / picture if path.is_file() else path / picture
        if not source.is_file():
            raise ValueError(f"{path}: row {number + 1} names the picture {source}, which is not there")
        picture = source.read_bytes()
    if isinstance(picture, bytes):
        suffix = "png" if picture.startswith(b"\x89PNG") else "jpg"
        name = f"{number:06}.{suffix}"
        (folder / name).write_bytes(picture)
    elif hasattr(picture, "save"):
        name = f"{number:06}.png"
        picture.convert("RGB").save(folder / name)
    else:
        raise ValueError(f"{path}: row {number + 1} has {type(picture).__name__} where a picture should be")
    return name
