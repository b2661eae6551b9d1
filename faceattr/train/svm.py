"""The last stage: one linear SVM an attribute on ANet's features, calibrated, with thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.svm import LinearSVC

from faceattr.evaluation.attributes import choose_threshold
from faceattr.models.svm import LinearSVM


def fit_planes(features: np.ndarray, tags: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights [A, F] and biases [A] of one linear SVM an attribute.

    Args:
        features: [N, F]; scaled to unit variance inside, the planes returned are for them as they come.
        tags: [N, A] bool.
        strength: C, the weight of the squared hinge loss against the margin.

    Raises:
        ValueError: an attribute (named by its column) that is the same for all samples.
    """
    mean, scale = features.mean(0), features.std(0)
    # A feature that never responds stays as it is.
    scale[scale == 0] = 1
    scaled = (features - mean) / scale
    weights, biases = [], []
    for column, truth in enumerate(tags.T):
        if truth.all() or not truth.any():
            raise ValueError(f"attribute {column} is {bool(truth[0])} for all {len(truth)} samples; nothing separates them")
        svm = LinearSVC(C=strength, dual=False, max_iter=10_000, tol=1e-3).fit(scaled, truth)
        weights.append(svm.coef_[0] / scale)
        biases.append(svm.intercept_[0] - weights[-1] @ mean)
    return np.array(weights), np.array(biases)


def decisions_by_folds(
    features: np.ndarray, tags: np.ndarray, identities: np.ndarray, strength: float, folds: int
) -> np.ndarray:
    """Decisions [N, A] for each sample of SVMs that saw neither it nor another picture of its identity."""
    decisions = np.empty(tags.shape)
    for known, unknown in GroupKFold(folds).split(features, groups=identities):
        weights, biases = fit_planes(features[known], tags[known], strength)
        decisions[unknown] = features[unknown] @ weights.T + biases
    return decisions


def fit_platt(decisions: np.ndarray, tags: np.ndarray) -> tuple[float, float]:
    """Slope and offset of Platt's sigmoid for one attribute, decisions [N], tags [N] bool.

    Maximum likelihood of P(tag) = 1 / (1 + exp(slope * decision + offset)) with Platt's targets, (P + 1) / (P + 2) for
    the P positives and 1 / (M + 2) for the M negatives, which keep the sigmoid finite where the classes separate.
    """
    positives, negatives = tags.sum(), (~tags).sum()
    target = np.where(tags, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # A sample with target t is one positive of weight t and one negative of weight 1 - t.
    regression = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    regression.fit(
        np.concatenate([decisions, decisions])[:, None],
        np.repeat([1, 0], len(decisions)),
        np.concatenate([target, 1 - target]),
    )
    return -float(regression.coef_[0, 0]), -float(regression.intercept_[0])


def fit_svm(
    features: np.ndarray,
    tags: np.ndarray,
    identities: np.ndarray,
    strengths: Sequence[float] = (1e-4, 3e-4, 1e-3, 3e-3),
    folds: int = 5,
) -> tuple[LinearSVM, dict[str, list[float]], np.ndarray, float]:
    """SVMs on all samples; calibration, thresholds and C by cross-validation that keeps identities together.

    Args:
        features [N, F], tags [N, A] bool, identities [N].
        strengths: candidates for C; the one whose calibrated probabilities have the least log loss is taken.

    Returns:
        the SVMs; thresholds {"accuracy": [A], "balanced": [A]} on the probability; the cross-validated probabilities
        [N, A]; the C taken.
    """
    best: tuple[float, float, np.ndarray, np.ndarray] | None = None
    for strength in strengths:
        decisions = decisions_by_folds(features, tags, identities, strength, folds)
        platt = np.array([fit_platt(column, truth) for column, truth in zip(decisions.T, tags.T, strict=True)])
        probabilities = 1 / (1 + np.exp(platt[:, 0] * decisions + platt[:, 1]))
        loss = -np.log(np.where(tags, probabilities, 1 - probabilities).clip(1e-12)).mean()
        if best is None or loss < best[0]:
            best = loss, strength, platt, probabilities
    _, strength, platt, probabilities = best
    thresholds = {
        goal: [choose_threshold(column, truth, goal) for column, truth in zip(probabilities.T, tags.T, strict=True)]
        for goal in ("accuracy", "balanced")
    }
    svm = LinearSVM(tags.shape[1], features.shape[1])
    weights, biases = fit_planes(features, tags, strength)
    with torch.no_grad():
        for parameter, values in zip(svm.parameters(), (weights, biases, platt[:, 0], platt[:, 1]), strict=True):
            parameter.copy_(torch.from_numpy(values))
    return svm, thresholds, probabilities, strength
