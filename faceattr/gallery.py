"""The pictures that `--output` writes: each photo with its faces, its response maps, and a page of all photos."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from faceattr.drawing import draw_faces, draw_response_map
from faceattr.page import Page, PageFace
from faceattr.pipeline import Face, Prediction

TOP_ATTRIBUTES = 6


class Gallery:
    """Writes into `folder`, made if need be; no input is ever overwritten, equal names are told apart by a number.

    attributes: the names that the faces' attributes have; empty where only boxes are asked for. Leaving the context
    completes gallery.html.
    """

    def __init__(self, folder: Path, inputs: Iterable[Path], attributes: Sequence[str] = ()):
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{folder}: cannot be made a folder for the pictures ({error}); choose another") from error
        # As text in one case: some file systems do not tell A.jpg from a.jpg.
        self._taken = {str(path.resolve()).casefold() for path in inputs}
        self._attributes = attributes
        self._page = Page(self._free_page(), "Faces and their attributes" if attributes else "Faces", attributes)

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, *error) -> None:
        self._page.__exit__(*error)

    def write(self, prediction: Prediction) -> None:
        """Writes NAME.faces.jpg and NAME.MAP.jpg for each response map of a prediction that holds its photo."""
        photo = prediction.photo
        boxes = photo.from_original(np.array([face.box for face in prediction.faces]).reshape(-1, 4))
        pictures = {"faces": draw_faces(photo.pixels, boxes, [_caption(face) for face in prediction.faces])}
        for name, response in prediction.response_maps.items():
            pictures[name] = draw_response_map(photo.pixels, response)
        stem = self._free_stem(Path(prediction.image).stem, list(pictures))
        for name, picture in pictures.items():
            path = self._path(stem, name)
            try:
                picture.save(path, quality=90)
            except OSError as error:
                raise ValueError(f"{path}: cannot be written ({error}); choose another folder") from error
        faces = [self._page_face(face, prediction) for face in prediction.faces]
        self._page.add(prediction.image, photo.pixels, faces)

    def _page_face(self, face: Face, prediction: Prediction) -> PageFace:
        sides = (prediction.width, prediction.height) * 2
        values = [face.attributes[name] for name in self._attributes]
        labels = [name in face.labels for name in self._attributes]
        score = [] if face.score is None else [f"score {face.score:.2f}"]
        box = [edge / side for edge, side in zip(face.box, sides, strict=True)]
        return PageFace(box, [labels], [values], [*score, *face.notes])

    def _free_page(self) -> Path:
        number, path = 1, self._folder / "gallery.html"
        while str(path.resolve()).casefold() in self._taken:
            number += 1
            path = self._folder / f"gallery-{number}.html"
        return path

    def _path(self, stem: str, name: str) -> Path:
        return self._folder / f"{stem}.{name}.jpg"

    def _free_stem(self, stem: str, names: list[str]) -> str:
        number, candidate = 1, stem
        while True:
            keys = {str(self._path(candidate, name).resolve()).casefold() for name in names}
            if not keys & self._taken:
                self._taken |= keys
                return candidate
            number += 1
            candidate = f"{stem}-{number}"


def _caption(face: Face) -> list[str]:
    top = sorted(face.labels, key=face.attributes.__getitem__, reverse=True)[:TOP_ATTRIBUTES]
    return [f"{name.replace('_', ' ')} {face.attributes[name]:.0%}" for name in top]
