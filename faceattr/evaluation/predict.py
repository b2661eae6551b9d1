"""Probabilities for pictures whose tags are known: of aligned faces, or of the best face found in a photo."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from faceattr.ages import Age
from faceattr.crops import carried
from faceattr.data.faces import FACE, PICTURE
from faceattr.pipeline import FaceAttributes

ALIGNED_FACES = {
    "celeba": tuple(edge / side for edge, side in zip(FACE, PICTURE * 2, strict=True)),
    # Where the mean picture of LFW (deep-funnelled) fits CelebA's best.
    "lfwa": (0.274, 0.157, 0.728, 0.784),
}
"""The face in an aligned picture, as localisation frames faces: x0, y0, x1, y1 in parts of its width and height."""


@dataclass(frozen=True)
class Probabilities:
    """What the model says of N pictures.

    values: [N, A]. found: [N] bool; where it is False no face was found, and the values are the prior.
    boxes: [N, 4] of the faces, x0, y0, x1, y1 in pixels of the picture; NaN where none was found.
    features: [N, F] float32, what the SVMs see; NaN where no face was found.
    ages: N of them; None where no face was found, and everywhere where the model does not tell.
    """

    values: np.ndarray
    found: np.ndarray
    boxes: np.ndarray
    features: np.ndarray
    ages: list[Age | None]


def crown_to_chin(model: FaceAttributes, box: Sequence[float]) -> list[float]:
    """The face, crown to chin, that the box which the model reports stands for; both x0, y0, x1, y1."""
    return carried(box, model.metadata["preprocessing"]["aligned_box"], FACE)


def predict_pictures(
    model: FaceAttributes,
    paths: Sequence[Path],
    prior: np.ndarray,
    face: Sequence[float] | None = None,
    *,
    batch_size: int = 32,
    workers: int = 2,
    quiet: bool = True,
) -> Probabilities:
    """The probabilities [N, A] of A attributes, `model.attributes`, for N pictures.

    Args:
        prior: [A], what a picture gets in which no face is found: it has to be counted, and nothing is known of it.
        face: where the face is in every picture, crown to chin, in parts of its width and height: localisation is
            skipped, and ANet's crop follows as from a found face. None: the face with the best score counts.

    Raises:
        ValueError: a picture cannot be read; the message names it.
    """
    values = np.tile(np.asarray(prior, dtype=np.float64), (len(paths), 1))
    boxes = np.full((len(paths), 4), np.nan)
    features = np.full((len(paths), model.features), np.nan, dtype=np.float32)
    ages: list[Age | None] = [None] * len(paths)
    given = None
    if face is not None:
        given = aligned_boxes(paths, carried(face, FACE, model.metadata["preprocessing"]["aligned_box"]))
    stream = model.iter_predict(paths, given, batch_size=batch_size, workers=workers)
    with closing(stream):
        progress = tqdm(stream, total=len(paths), unit="picture", disable=quiet, dynamic_ncols=True)
        for row, prediction in enumerate(progress):
            if prediction.error is not None:
                raise ValueError(prediction.error)
            for best in prediction.faces[:1]:
                values[row] = [best.attributes[name] for name in model.attributes]
                boxes[row], features[row], ages[row] = best.box, best.features, best.age
    return Probabilities(values, ~np.isnan(boxes[:, 0]), boxes, features, ages)


def aligned_boxes(paths: Sequence[Path], face: Sequence[float]) -> Iterator[list[list[float]]]:
    """For each picture the box, x0, y0, x1, y1 in pixels, at ``face`` in parts of its width and height."""
    for path in paths:
        try:
            with Image.open(path) as picture:  # the header alone
                width, height = picture.size
                if picture.getexif().get(0x0112, 1) >= 5:  # stored on its side
                    width, height = height, width
        except (OSError, ValueError):
            width, height = 1, 1  # the pipeline will say what is wrong with the picture
        yield [[edge * side for edge, side in zip(face, (width, height) * 2, strict=True)]]


def write_predictions(path: Path, images: Sequence[str], values: np.ndarray, attributes: Sequence[str]) -> None:
    """A CSV with the columns image and the attributes' names, a picture a row, a probability a cell."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", *attributes])
        for image, row in zip(images, values.tolist(), strict=True):
            rows.writerow([image, *(f"{value:.6f}" for value in row)])
