"""The pictures of some files and folders, each once, and what could not be looked into."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faceattr.images import PICTURE_SUFFIXES
from faceattr.video import VIDEO_SUFFIXES

OUTPUT_LIST = ".faceattr-output"
"""In a folder that annotated pictures were written to: their names, a line each as JSON. They are no photos."""


@dataclass
class Collection:
    """What was found.

    pictures: each once, folders in the order of their names. folders: for each picture the folder that was given, or
        the picture's own where it was given itself.
    errors: (path, what is wrong with it) of folders that may not be read, or that hold no picture.
    linked, own: folders that are links and were passed over, pictures that were written by `--output`, likewise.
    """

    pictures: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)
    own: int = 0

    def notes(self) -> Iterator[str]:
        """What was passed over, in words."""
        if self.linked:
            more = f" and {len(self.linked) - 1} more" if len(self.linked) > 1 else ""
            yield f"{self.linked[0]}{more}: linked folders were passed over; --follow-links enters them"
        if self.own:
            yield f"{self.own} pictures that --output wrote were passed over"


def collect(
    paths: Iterable[str | os.PathLike], *, follow_links: bool = False, videos: bool = False, empty: bool = True
) -> Collection:
    """Files as they are given, whatever their names; of folders the picture files below, hidden ones left out.

    follow_links: also enter folders that are links, each folder once. videos: of folders also the videos.
    empty: a folder without pictures is an error.
    """
    found, seen, real = Collection(), set(), {}

    def add(path: Path, folder: Path) -> None:
        # The same file by another way (./a.jpg, a folder and a file in it, a linked folder) is the same picture.
        parent = os.path.dirname(path)
        if parent not in real:
            real[parent] = os.path.realpath(parent)
        key = (real[parent], path.name)
        if key not in seen:
            seen.add(key)
            found.pictures.append(path)
            found.folders.append(folder)

    suffixes = PICTURE_SUFFIXES | VIDEO_SUFFIXES if videos else PICTURE_SUFFIXES
    for path in paths:
        if os.fspath(path) == "":
            found.errors.append(("", "'': an empty path; give a picture or a folder"))
        elif not os.path.isdir(path):  # also what is not there or may not be looked at: reading it says so
            add(Path(path), Path(path).parent)
        else:
            before, errors = len(found.pictures), len(found.errors)
            count = 0
            for picture in _walk(Path(path), suffixes, follow_links, found):
                count += 1
                add(picture, Path(path))
            if empty and not count and len(found.pictures) == before and len(found.errors) == errors:
                found.errors.append((str(path), f"{path}: no pictures in this folder"))
    return found


def find_pictures(path: str | os.PathLike) -> Iterator[Path]:
    """The path itself if it is no folder, else the picture files below it, sorted, hidden ones left out.

    Raises ValueError for a folder that may not be read.
    """
    found = collect([path], empty=False)
    if found.errors:
        raise ValueError(found.errors[0][1])
    yield from found.pictures


def _walk(root: Path, suffixes: frozenset[str], follow_links: bool, found: Collection) -> Iterator[Path]:
    entered = {os.path.realpath(root)}

    def failed(error: OSError) -> None:
        name = os.fsdecode(error.filename)
        found.errors.append((name, f"{name}: this folder cannot be read ({error.strerror}); check its permissions"))

    for folder, folders, files in os.walk(root, onerror=failed, followlinks=True):
        enter = []
        for name in sorted(folders):
            path = os.path.join(folder, name)
            if name.startswith("."):
                continue
            if os.path.islink(path):
                if not follow_links:
                    found.linked.append(path)
                    continue
                target = os.path.realpath(path)
                if target in entered:
                    continue
                entered.add(target)
            enter.append(name)
        folders[:] = enter
        own = _written_here(folder) if OUTPUT_LIST in files else ()
        for name in sorted(files):
            if name in own:
                found.own += 1
            elif os.path.splitext(name)[1].lower() in suffixes and not name.startswith("."):
                yield Path(folder, name)


def _written_here(folder: str) -> set[str]:
    try:
        with open(os.path.join(folder, OUTPUT_LIST), encoding="utf-8") as lines:
            return {json.loads(line) for line in lines if line.endswith("\n")}
    except (OSError, ValueError):
        return set()
