"""The pictures that `--output` writes: each photo with its faces, its response maps, and a page of all photos."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from faceattr.collection import OUTPUT_LIST
from faceattr.drawing import draw_faces, draw_response_map
from faceattr.page import Page, PageFace
from faceattr.pipeline import Face, Prediction

TOP_ATTRIBUTES = 6


class Gallery:
    """Writes into `folder`, made if need be; no input is ever overwritten, equal names are told apart by a number.

    attributes: the names that the faces' attributes have; empty where only boxes are asked for. Leaving the context
    completes gallery.html. The folder then also has a list of what was written, by which these pictures are known for
    no photos. One program at a time writes into a folder.

    Raises ValueError where the folder, a picture or the page cannot be written.
    """

    def __init__(self, folder: Path, inputs: Iterable[Path], attributes: Sequence[str] = ()):
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._list = open(folder / OUTPUT_LIST, "a", encoding="utf-8")
        except OSError as error:
            reason = error.strerror
            raise ValueError(
                f"{folder}: cannot be made a folder for the pictures ({reason}); choose another"
            ) from error
        try:
            fcntl.flock(self._list, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{folder}: another run writes its pictures here; choose another folder") from error
        except OSError:  # a file system without locks
            pass
        self._real = os.path.realpath(folder)
        # As text in one case: some file systems do not tell A.jpg from a.jpg.
        self._taken = {os.path.realpath(path).casefold() for path in inputs}
        self._numbers: dict[str, int] = {}
        self._attributes = attributes
        self._page = Page(self._free_page(), "Faces and their attributes" if attributes else "Faces", attributes)

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *error) -> None:
        if self._list.closed:
            return
        try:
            self._page.__exit__(*error)
        finally:
            self._list.close()

    def write(self, prediction: Prediction, name: str) -> None:
        """Writes STEM.faces.jpg and STEM.MAP.jpg for each response map of a prediction that holds its photo.

        name: of the photo in the page, and in its last part the STEM.
        """
        photo = prediction.photo
        boxes = photo.from_original(np.array([face.box for face in prediction.faces]).reshape(-1, 4))
        pictures = {"faces": draw_faces(photo.pixels, boxes, [_caption(face) for face in prediction.faces])}
        for key, response in prediction.response_maps.items():
            pictures[key] = draw_response_map(photo.pixels, response)
        stem = self._free_stem(Path(name).stem, list(pictures))
        for key, picture in pictures.items():
            path = self._folder / f"{stem}.{key}.jpg"
            try:
                self._list.write(json.dumps(path.name) + "\n")
                self._list.flush()
                picture.save(path, quality=90)
            except OSError as error:
                reason = error.strerror or error
                raise ValueError(f"{path}: cannot be written ({reason}); choose another folder") from error
        faces = [self._page_face(face, prediction) for face in prediction.faces]
        self._page.add(name, photo.pixels, faces)

    def _page_face(self, face: Face, prediction: Prediction) -> PageFace:
        sides = (prediction.width, prediction.height) * 2
        values = [face.attributes[name] for name in self._attributes]
        labels = [name in face.labels for name in self._attributes]
        box = [edge / side for edge, side in zip(face.box, sides, strict=True)]
        return PageFace(box, [labels], [values], remarks(face))

    def _key(self, name: str) -> str:
        return os.path.join(self._real, name).casefold()

    def _free_page(self) -> Path:
        number, name = 1, "gallery.html"
        while self._key(name) in self._taken:
            number += 1
            name = f"gallery-{number}.html"
        return self._folder / name

    def _free_stem(self, stem: str, names: list[str]) -> str:
        # Room for the longest ending and a number: a name has so many bytes at most.
        room = _longest_name(self._real) - max(len(f".{name}.jpg") for name in names) - len("-1000000")
        stem = os.fsencode(stem)[:room].decode(errors="ignore") or "photo"
        number = self._numbers.get(stem, 0)
        while True:
            number += 1
            candidate = stem if number == 1 else f"{stem}-{number}"
            keys = {self._key(f"{candidate}.{name}.jpg") for name in names}
            if not keys & self._taken:
                self._taken |= keys
                self._numbers[stem] = number
                return candidate


def _longest_name(folder: str) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return 255


def remarks(face: Face) -> list[str]:
    """What a page says of a face beside its attributes."""
    score = [] if face.score is None else [f"score {face.score:.2f}"]
    age = [] if face.age is None else [f"age {face.age}"]
    return [*score, *age, *face.notes]


def _caption(face: Face) -> list[str]:
    top = sorted(face.labels, key=face.attributes.__getitem__, reverse=True)[:TOP_ATTRIBUTES]
    age = [] if face.age is None else [f"age {face.age}"]
    return [*age, *(f"{name.replace('_', ' ')} {face.attributes[name]:.0%}" for name in top)]
