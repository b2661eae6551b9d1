"""The paper's comparisons, trained and measured on the pictures that the model is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from faceattr.data.tagged import TaggedPictures
from faceattr.evaluation.attributes import evaluate
from faceattr.evaluation.facetracer import FaceTracer
from faceattr.evaluation.panda import Panda
from faceattr.evaluation.parts import place_by_box, place_by_landmarks
from faceattr.evaluation.predict import crown_to_chin
from faceattr.evaluation.report import share_of_positives
from faceattr.images import load_image
from faceattr.pipeline import FaceAttributes

METHODS = {"facetracer": FaceTracer, "panda-l": Panda, "panda-w": Panda}
"""-l places the parts where faces are known to be, by landmarks or in aligned pictures; -w where they are found."""


class Placement:
    """Lays the face of each picture where aligned pictures have it, or says that there is none.

    face: where it is in every picture, in parts of its width and height. landmarks: [5, 2] for each picture by name, in
    place of that. model: finds the faces, in place of both.
    """

    def __init__(
        self,
        face: Sequence[float] | None = None,
        landmarks: dict[str, np.ndarray] | None = None,
        model: FaceAttributes | None = None,
    ):
        self.face, self.landmarks, self.model = face, landmarks, model

    def __call__(self, folder: Path, name: str) -> np.ndarray | None:
        """[218, 178, 3] uint8, or None where no face is found."""
        pixels = load_image(folder / name)
        if self.landmarks is not None:
            if name not in self.landmarks:
                raise ValueError(f"{folder / name}: has no landmarks in the file of landmarks")
            return place_by_landmarks(pixels, self.landmarks[name])
        if self.model is not None:
            faces = self.model.detect(pixels)
            return place_by_box(pixels, crown_to_chin(self.model, faces[0].frame)) if faces else None
        sides = (pixels.shape[1], pixels.shape[0]) * 2
        return place_by_box(pixels, [edge * side for edge, side in zip(self.face, sides, strict=True)])


def evaluate_baseline(
    name: str,
    training: TaggedPictures,
    data: TaggedPictures,
    placement: Placement,
    thresholds: str,
    quiet: bool = True,
) -> dict:
    """What :func:`faceattr.evaluation.attributes.evaluate` gives for a method of METHODS, with "not_found".

    Args:
        training: what it learns from; every tag must be known. Without identities each picture counts as a person.
        data: what it is measured on.
        thresholds: "accuracy", "balanced" or "0.5".

    Raises:
        ValueError: unknown tags in `training`, or too few pictures: an attribute that nobody in a part of it has.
    """
    check_known(name, training)
    method = METHODS[name]()

    def describe(pictures: TaggedPictures, purpose: str) -> tuple[np.ndarray, np.ndarray]:
        """Descriptions of the pictures in which there is a face, and which these are."""
        placed = (placement(pictures.folder, picture) for picture in pictures.names)
        progress = tqdm(placed, f"{name}, {purpose}", len(pictures), unit="picture", disable=quiet, dynamic_ncols=True)
        described = [None if picture is None else method.describe(picture) for picture in progress]
        found = np.array([each is not None for each in described])
        if not found.any():
            raise ValueError(f"{pictures.folder}: {name} found no face in {len(pictures)} pictures")
        return np.stack([each for each in described if each is not None]), found

    described, found = describe(training, "training")
    learnt = training.select(found)
    people = np.arange(len(learnt)) if learnt.identities is None else learnt.identities
    try:
        method.fit(described, learnt.tags, people, learnt.attributes)
    except ValueError as error:
        raise ValueError(
            f"{name}, from {len(learnt)} pictures: {error}; give it more with --baseline-pictures"
        ) from None
    described, found = describe(data, "measuring")
    values = np.tile(share_of_positives(data), (len(data), 1))
    values[found] = method.probabilities(described)
    chosen = [0.5] * len(data.attributes) if thresholds == "0.5" else method.thresholds[thresholds]
    result = evaluate(values, data.tags, chosen, data.attributes, data.known, data.identities)
    return {**result, "not_found": int((~found).sum()), "training": len(learnt)}


def check_known(name: str, training: TaggedPictures) -> None:
    """ValueError for a picture with an unknown tag, from which the method cannot learn."""
    if not training.known.all():
        row, column = np.argwhere(~training.known)[0]
        problem = f"{training.attributes[column]} is not known; {name} needs every tag"
        raise ValueError(f"{training.folder / training.names[row]}: {problem}")
