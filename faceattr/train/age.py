"""Age from ANet's features: a plane for each limit, and how wide the interval has to be."""

from __future__ import annotations

import numpy as np

from faceattr.ages import LIMITS, Age, age_at, read_ages
from faceattr.data.ages import AGE_TAGS, at_least
from faceattr.models.svm import LinearSVM
from faceattr.train.svm import Planes, fit_svm

COVERAGE = 0.8
"""Share of people whose age lies in their interval."""


def fit_age(
    features: np.ndarray, ages: np.ndarray, identities: np.ndarray, prior: Planes, folds: int = 5
) -> tuple[LinearSVM, float, list[Age]]:
    """Planes that tell whether somebody is at least LIMITS old, and the tail of :func:`faceattr.ages.read_ages`.

    features [N, F], ages [N, 2] (low, high), identities [N]; prior: planes to start from, as for
    :func:`faceattr.train.svm.fit_planes`. The tail lets the intervals hold COVERAGE of those whose age is known to the
    year, by cross-validation; the cross-validated ages are returned too.
    """
    told = [at_least(ages, limit) for limit in LIMITS]
    tags, known = (np.stack(columns, 1) for columns in zip(*told, strict=True))
    planes, _, probabilities, _ = fit_svm(
        features, tags, identities, folds=folds, prior=prior, known=known, names=AGE_TAGS
    )
    exact = ages[:, 1] - ages[:, 0] <= 1
    true = ages[exact].mean(1)
    tails = np.arange(0.01, 0.25, 0.005)
    covered = [
        ((age_at(probabilities[exact], tail) <= true) & (true <= age_at(probabilities[exact], 1 - tail))).mean()
        for tail in tails
    ]
    tail = float(tails[np.abs(np.array(covered) - COVERAGE).argmin()])
    return planes, tail, read_ages(probabilities, tail)
