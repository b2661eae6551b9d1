"""The plane that tells faces from whatever else the LNets propose, learnt from pictures with and without a face."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from faceattr.data.faces import tight_edges
from faceattr.models.checkpoint import Checkpoint
from faceattr.models.svm import LinearSVM
from faceattr.pipeline import FaceAttributes
from faceattr.train.svm import fit_svm

STRENGTH = 1.0
"""The SVM's C, shared by all samples: cross-validation would have more, but it knows pictures of these few kinds alone.
"""


def lnets_alone(features: int) -> LinearSVM:
    """The plane by which a face's score is that of the LNets, whatever its F features."""
    plane = LinearSVM(1, features + 1).requires_grad_(False)
    plane.weight[0, -1] = 1
    return plane.eval()


def with_plane(
    checkpoint: Checkpoint, plane: LinearSVM, least: float, score_threshold: float, company: float = 1.0
) -> Checkpoint:
    """The checkpoint with another plane, which looks at what the LNets score at ``least`` and reports what comes to
    ``score_threshold``, beside such a face to the part ``company`` of it."""
    preprocessing = dict(checkpoint.metadata["preprocessing"])
    preprocessing["localization"] = {**preprocessing["localization"], "score_threshold": least}
    preprocessing |= {"score_threshold": score_threshold, "company_threshold": company * score_threshold}
    return replace(checkpoint, face=plane, metadata={**checkpoint.metadata, "preprocessing": preprocessing})


def by_lnets(checkpoint: Checkpoint, least: float | None = None) -> Checkpoint:
    """The checkpoint, for which a face is what the LNets score at ``least``, by default what they propose at all, and
    where they see it."""
    if least is None:
        least = checkpoint.metadata["preprocessing"]["localization"]["score_threshold"]
    plane = lnets_alone(checkpoint.anet.config["features"]).to(checkpoint.anet.head.weight.device)
    return replace(with_plane(checkpoint, plane, least, least), frame=None)


@dataclass(frozen=True)
class Proposed:
    """What the LNets propose in P pictures, N candidates.

    inputs: [N, F + 1] float64, ANet's features and the log-odds of the LNets. picture: [N] int64, in which of them.
    """

    inputs: np.ndarray
    picture: np.ndarray
    pictures: int

    def best(self, values: np.ndarray) -> np.ndarray:
        """The largest of [N] values in each picture, [P]; -inf where nothing is proposed."""
        best = np.full(self.pictures, -np.inf)
        np.maximum.at(best, self.picture, values)
        return best

    def first(self) -> np.ndarray:
        """The inputs of what the LNets score highest in each picture; none of pictures in which they see nothing."""
        order = np.lexsort((-self.inputs[:, -1], self.picture))
        return self.inputs[order[np.unique(self.picture[order], return_index=True)[1]]]


def propose(
    checkpoint: Checkpoint, pictures: Iterable[Image.Image], least: float, dtype: torch.dtype | None = None
) -> Proposed:
    """What the LNets, which compute in ``dtype``, score at ``least`` or more, as ANet sees it."""
    model = FaceAttributes(by_lnets(checkpoint, least), localization_dtype=dtype)
    inputs, picture, count = [np.zeros((0, model.features + 1))], [], 0
    for image in pictures:
        faces, evidence = model.candidates(image)
        inputs.append(evidence.astype(np.float64))
        picture += [count] * len(faces)
        count += 1
    return Proposed(np.concatenate(inputs), np.array(picture, dtype=np.int64), count)


def fit_face(with_face: Proposed, without: Proposed) -> tuple[LinearSVM, dict[str, Any]]:
    """The plane between the best of each picture that has a face and all that is proposed in those that have none.

    It corrects the LNets' log-odds by ANet's features. Returns it, and notes about the fit.

    Raises:
        ValueError: nothing is proposed in the ones or in the others.
    """
    faces = with_face.first()
    if not len(faces) or not len(without.inputs):
        raise ValueError(
            f"the LNets propose {len(faces)} faces in {with_face.pictures} pictures with one and "
            f"{len(without.inputs)} in {without.pictures} without; both are needed"
        )
    inputs = np.concatenate([faces, without.inputs])
    tags = np.arange(len(inputs))[:, None] < len(faces)
    # No two folds share a picture.
    groups = np.concatenate([np.arange(len(faces)), len(faces) + without.picture])
    before = lnets_alone(inputs.shape[1] - 1)
    prior = before.weight.double().numpy(), before.bias.detach().double().numpy()
    plane, _, _, _ = fit_svm(inputs, tags, groups, (STRENGTH / len(inputs),), prior=prior, names=("face",))
    return plane.requires_grad_(False), {"faces": len(faces), "others": len(without.inputs)}


@torch.inference_mode()
def scores(plane: LinearSVM, proposed: Proposed) -> np.ndarray:
    """The plane's score of each candidate, [N]."""
    return plane(torch.from_numpy(proposed.inputs).float())[:, 0].double().numpy()


def least_score(best: np.ndarray, share: float) -> float:
    """The least score that at most ``share`` of pictures without a face reach; best: [P], each picture's highest."""
    ranked = np.sort(best)[::-1]
    allowed = int(share * len(ranked))
    return float(np.nextafter(max(ranked[allowed], 0), 1)) if allowed < len(ranked) else 0.0


def piece(picture: Image.Image, random: np.random.Generator, cut: bool) -> Image.Image:
    """The picture, or in half of the cases, if it may be ``cut``, a piece of it, as photos are found."""
    if cut and random.random() < 0.5:
        width, height = (side * random.uniform(0.3, 1) for side in picture.size)
        x, y = random.uniform(0, picture.width - width), random.uniform(0, picture.height - height)
        picture = picture.crop([round(edge) for edge in (x, y, x + width, y + height)])
    return _as_found(picture, random)


def tight(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """Little more than the face of an aligned CelebA picture, or up to a tenth less a side, as photos are found."""
    edges = tight_edges(torch.from_numpy(random.random(4)))
    return _as_found(picture.crop(edges.round().int().tolist()), random)


def _as_found(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """At a long side of 30 to 480 pixels, and in half of the cases as a JPEG of low or middling quality. What fills the
    smallest is as coarse as faces far down a street."""
    scale = np.exp(random.uniform(np.log(30), np.log(480))) / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
    if random.random() < 0.5:
        stored = io.BytesIO()
        picture.save(stored, "JPEG", quality=int(random.integers(25, 85)))
        picture = Image.open(stored)
    return picture
