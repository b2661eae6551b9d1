"""How much of attributes a linear classifier reads off a layer: SVMs on some of the faces, figures on the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from faceattr.data.tagged import TaggedPictures
from faceattr.evaluation.attributes import accuracy, area_under_roc
from faceattr.train.svm import Planes, fit_planes

STRENGTH = 0.1
"""C of the SVMs times the number of samples: the same hold on the margin for few faces as for many."""


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


def fit_probes(features: np.ndarray, pictures: TaggedPictures, rows: np.ndarray) -> Planes:
    """Weights [A, F] and biases [A] of one linear SVM an attribute on some rows of features [N, F].

    Of an attribute that is the same in all known rows, the decision is that, always.
    """
    weights, biases = np.zeros((len(pictures.attributes), features.shape[1])), np.empty(len(pictures.attributes))
    for column in range(len(biases)):
        known = rows[pictures.known[rows, column]]
        truth = pictures.tags[known, column]
        if truth.all() or not truth.any():
            biases[column] = 1.0 if len(truth) and truth.all() else -1.0
            continue
        plane, bias = fit_planes(features[known], truth[:, None], STRENGTH / len(known))
        weights[column], biases[column] = plane[0], bias[0]
    return weights, biases


def probe(features: np.ndarray, pictures: TaggedPictures, rows: Halves) -> list[dict[str, float | None]]:
    """:func:`figures` on the rows to test of SVMs that learnt from the rows to fit; features: [N, F]."""
    weights, biases = fit_probes(features, pictures, rows.fit)
    return figures(features[rows.test] @ weights.T + biases, pictures, rows.test)


def figures(decisions: np.ndarray, pictures: TaggedPictures, test: np.ndarray) -> list[dict[str, float | None]]:
    """accuracy, auc and majority of each attribute; decisions [T, A] are of the rows `test`.

    majority: accuracy of always giving the more frequent answer. A figure is None where nothing is known.
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
