"""The last stage: one linear SVM an attribute on ANet's features, calibrated, with thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.svm import LinearSVC

from faceattr.evaluation.attributes import choose_threshold
from faceattr.models.svm import LinearSVM

Planes = tuple[np.ndarray, np.ndarray]
"""Weights [A, F] and biases [A]."""
PRIOR_SCALE = 100.0
THRESHOLD_TRUST = 0.85


def fit_planes(
    features: np.ndarray,
    tags: np.ndarray,
    strength: float,
    prior: Planes | None = None,
    known: np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> Planes:
    """Weights [A, F] and biases [A] of one linear SVM an attribute.

    Args:
        features: [N, F]; scaled to unit variance inside, the planes returned are for them as they come.
        tags: [N, A] bool.
        strength: C, the weight of the squared hinge loss against the margin.
        prior: planes to start from, such as those of the net's own last layer: each attribute's decision by them is one
            more feature, so large that its weight costs next to nothing. The SVM then learns a correction.
        known: [N, A] bool; where it is False the tag is not known, and the sample is left out for that attribute.
        names: of the attributes, for the error.

    Raises:
        ValueError: an attribute (named, or by its column) that is the same for all samples.
    """
    mean, scale = features.mean(0), features.std(0)
    # A feature that never responds stays as it is.
    scale[scale == 0] = 1
    scaled = (features - mean) / scale
    weights, biases = [], []
    if prior is not None:
        spread = (features @ prior[0].T + prior[1]).std(0)
        spread[spread == 0] = 1  # a plane that says the same of all
        prior_weights = prior[0] / spread[:, None] * PRIOR_SCALE
    for column, truth in enumerate(tags.T):
        inputs = scaled
        if prior is not None:
            inputs = np.column_stack([scaled, (features - mean) @ prior_weights[column]])
        if known is not None:
            truth, inputs = truth[known[:, column]], inputs[known[:, column]]
        if truth.all() or not truth.any():
            name = column if names is None else names[column]
            same = f"{bool(truth[0])} for all {len(truth)} samples" if len(truth) else "not known for any sample"
            raise ValueError(f"attribute {name} is {same}; nothing separates them")
        # LinearSVC penalises the bias like a weight; scaled, it is free.
        svm = LinearSVC(C=strength, dual=False, max_iter=10_000, tol=1e-3, intercept_scaling=PRIOR_SCALE)
        svm.fit(inputs, truth)
        weight = svm.coef_[0, : features.shape[1]] / scale
        if prior is not None:
            weight += svm.coef_[0, -1] * prior_weights[column]
        weights.append(weight)
        biases.append(svm.intercept_[0] - weight @ mean)
    return np.array(weights), np.array(biases)


def decisions_by_folds(
    features: np.ndarray,
    tags: np.ndarray,
    identities: np.ndarray,
    strength: float,
    folds: int,
    prior: Planes | None = None,
    known: np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> np.ndarray:
    """Decisions [N, A] for each sample of SVMs that saw neither it nor another picture of its identity."""
    decisions = np.empty(tags.shape)
    for seen, unseen in GroupKFold(folds).split(features, groups=identities):
        of_seen = None if known is None else known[seen]
        weights, biases = fit_planes(features[seen], tags[seen], strength, prior, of_seen, names)
        decisions[unseen] = features[unseen] @ weights.T + biases
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
    strengths: Sequence[float] = (1e-6, 1e-5, 1e-4),
    folds: int = 5,
    prior: Planes | None = None,
    known: np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> tuple[LinearSVM, dict[str, list[float]], np.ndarray, float]:
    """SVMs on all samples; calibration, thresholds and C by cross-validation that keeps identities together.

    Args:
        features [N, F], tags [N, A] bool, identities [N].
        strengths: candidates for C; the one whose calibrated probabilities have the least log loss is taken.
        prior, known, names: as for :func:`fit_planes`.

    Returns:
        the SVMs; thresholds {"accuracy": [A], "balanced": [A]} on the probability; the cross-validated probabilities
        [N, A]; the C taken.
    """
    people = len(np.unique(identities))
    if people < folds:
        raise ValueError(f"{people} persons (or pictures, where persons are not known) are too few for {folds} folds")
    mask = np.ones(tags.shape, dtype=bool) if known is None else known
    best: tuple[float, float, np.ndarray, np.ndarray] | None = None
    for strength in strengths:
        decisions = decisions_by_folds(features, tags, identities, strength, folds, prior, known, names)
        platt = np.array([fit_platt(decisions[rows, i], tags[rows, i]) for i, rows in enumerate(mask.T)])
        probabilities = 1 / (1 + np.exp(platt[:, 0] * decisions + platt[:, 1]))
        loss = -np.log(np.where(tags, probabilities, 1 - probabilities).clip(1e-12))[mask].mean()
        if best is None or loss < best[0]:
            best = loss, strength, platt, probabilities
    _, strength, platt, probabilities = best
    thresholds = {
        goal: [
            choose_threshold(probabilities[rows, i], tags[rows, i], goal, THRESHOLD_TRUST)
            for i, rows in enumerate(mask.T)
        ]
        for goal in ("accuracy", "balanced")
    }
    svm = LinearSVM(tags.shape[1], features.shape[1])
    weights, biases = fit_planes(features, tags, strength, prior, known, names)
    with torch.no_grad():
        for parameter, values in zip(svm.parameters(), (weights, biases, platt[:, 0], platt[:, 1]), strict=True):
            parameter.copy_(torch.from_numpy(values))
    return svm, thresholds, probabilities, strength


def to_base_rates(
    svm: LinearSVM, thresholds: dict[str, list[float]], learnt: np.ndarray, rates: np.ndarray
) -> dict[str, list[float]]:
    """Moves the SVMs' calibration, in place, from samples of which ``learnt`` [A] are positive to a population of which
    ``rates`` [A] are; both between 0 and 1, exclusively.

    What a decision says for or against an attribute stays, so that its log-odds move by the difference of the rates'.
    Returns the thresholds: that for balanced accuracy, which no base rate changes, moves along; that for accuracy is a
    probability near a half in any population.
    """
    shift = logit(rates) - logit(learnt)
    with torch.no_grad():
        svm.offset -= torch.from_numpy(shift).to(svm.offset)
    return {**thresholds, "balanced": expit(logit(thresholds["balanced"]) + shift).tolist()}
