"""The pictures that `--output` writes: each photo with its faces, and its response maps."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from faceattr.drawing import draw_faces, draw_response_map
from faceattr.pipeline import Face, Prediction

TOP_ATTRIBUTES = 6


class Gallery:
    """Writes into `folder`, made if need be; no input is ever overwritten, equal names are told apart by a number."""

    def __init__(self, folder: Path, inputs: Iterable[Path]):
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{folder}: cannot be made a folder for the pictures ({error}); choose another") from error
        # As text in one case: some file systems do not tell A.jpg from a.jpg.
        self._taken = {str(path.resolve()).casefold() for path in inputs}

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
