"""How much about attributes a linear classifier reads off a layer: SVMs on one part of the faces, figures on the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from faceattr.data.tagged import TaggedPictures
from faceattr.evaluation.attributes import accuracy, area_under_roc
from faceattr.train.svm import fit_planes

STRENGTH = 1e-4
"""C of the SVMs, on features of unit variance."""


@dataclass(frozen=True)
class Halves:
    """Rows of the faces that classifiers learn from, and of those that they are measured on."""

    fit: np.ndarray
    test: np.ndarray


def halves(pictures: TaggedPictures) -> Halves:
    """Partition 1 and partition 2 where both are there, else two halves that share no identity, drawn anew alike.

    Raises ValueError where there are not two identities, or pictures, to tell apart.
    """
    if pictures.partitions is not None and {1, 2} <= set(pictures.partitions.tolist()):
        return Halves(np.flatnonzero(pictures.partitions == 1), np.flatnonzero(pictures.partitions == 2))
    people = np.arange(len(pictures)) if pictures.identities is None else pictures.identities
    if len(np.unique(people)) < 2:
        raise ValueError(f"{pictures.folder}: pictures of at least two people are needed to learn and to measure")
    return Halves(*next(GroupShuffleSplit(1, test_size=0.5, random_state=0).split(people, groups=people)))


def check_tags(pictures: TaggedPictures) -> None:
    """ValueError for pictures without tags."""
    if not pictures.attributes:
        raise ValueError(f"{pictures.folder}: no tags; give a folder with label files of CelebA or LFWA, or a CSV")


def probe(features: np.ndarray, pictures: TaggedPictures, rows: Halves, strength: float = STRENGTH) -> np.ndarray:
    """Decisions [T, A] for the rows to test of SVMs that learnt from the rows to fit.

    features: [N, F]. Of an attribute that is the same in all known rows to fit, the decision is that, always.
    """
    decisions = np.empty((len(rows.test), len(pictures.attributes)))
    for column in range(decisions.shape[1]):
        known = rows.fit[pictures.known[rows.fit, column]]
        truth = pictures.tags[known, column]
        if truth.all() or not truth.any():
            decisions[:, column] = 1.0 if len(truth) and truth.all() else -1.0
            continue
        weights, biases = fit_planes(features[known], truth[:, None], strength)
        decisions[:, column] = features[rows.test] @ weights[0] + biases[0]
    return decisions


def figures(decisions: np.ndarray, pictures: TaggedPictures, test: np.ndarray) -> list[dict[str, float | None]]:
    """accuracy, auc and majority of each attribute; decisions [T, A] are of the rows `test`. None where nothing is known.

    majority: accuracy of always giving the more frequent answer.
    """
    result = []
    for column in range(decisions.shape[1]):
        known = pictures.known[test, column]
        truth, decision = pictures.tags[test, column][known], decisions[known, column]
        if not len(truth):
            result.append({"accuracy": None, "auc": None, "majority": None})
            continue
        share = float(truth.mean())
        auc = area_under_roc(decision, truth)
        result.append({"accuracy": accuracy(decision > 0, truth), "auc": auc, "majority": max(share, 1 - share)})
    return result
