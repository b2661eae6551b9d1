"""The last stage: one linear SVM an attribute on ANet's features, calibrated, with thresholds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from faceattr.evaluation.attributes import choose_threshold
from faceattr.models.svm import LinearSVM

Planes = tuple[np.ndarray, np.ndarray]
"""Weights [A, F] and biases [A]."""
PRIOR_SCALE = 100.0
NEWTON_STEPS = 100
NEWTON_TOLERANCE = 1e-6
"""Of the gradient's length, beside what it was at first."""
TINY = np.finfo(np.float64).tiny
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
    known = np.ones(tags.shape, dtype=bool) if known is None else known
    for column, (truth, rows) in enumerate(zip(tags.T, known.T, strict=True)):
        if truth[rows].all() or not truth[rows].any():
            name = column if names is None else names[column]
            same = f"{truth[rows][0]} for all {rows.sum()} samples" if rows.any() else "not known for any sample"
            raise ValueError(f"attribute {name} is {same}; nothing separates them")
    mean, scale = features.mean(0), features.std(0)
    # A feature that never responds stays as it is.
    scale[scale == 0] = 1
    # The bias is penalised like a weight; its feature so large, it is free.
    scaled = np.column_stack([(features - mean) / scale, np.full(len(features), PRIOR_SCALE)])
    own, weights = np.zeros(tags.shape), 0
    if prior is not None:
        weights = prior[0] / (features @ prior[0].T + prior[1]).std(0)[:, None] * PRIOR_SCALE
        own = (features - mean) @ weights.T
    found = _squared_hinge(scaled, own, np.where(known, np.where(tags, 1.0, -1.0), 0.0), strength)
    weights = found[:-2].T / scale + found[-1][:, None] * weights
    return weights, found[-2] * PRIOR_SCALE - weights @ mean


def _squared_hinge(shared: np.ndarray, own: np.ndarray, signs: np.ndarray, strength: float) -> np.ndarray:
    """Weights w [F + 1, A] that minimise, for each of A problems, |w|^2 / 2 + strength * sum max(0, 1 - sign * w x)^2.

    shared: [N, F], features of all problems. own: [N, A], one more of each. signs: [N, A], 1 or -1; 0 leaves a sample
    out. Newton's method with conjugate gradients and a line search, as LIBLINEAR's (Lin, Weng and Keerthi 2008), but
    for all problems at once: their products with the features are one matrix product.
    """
    weights, decisions = np.zeros((shared.shape[1] + 1, signs.shape[1])), np.zeros(signs.shape)
    squares = np.vstack([np.repeat(np.square(shared).mean(0)[:, None], signs.shape[1], 1), np.square(own).mean(0)])
    first = None
    for _ in range(NEWTON_STEPS):
        slack = np.maximum(0, np.abs(signs) - signs * decisions)
        gradient = weights - 2 * strength * _back(signs * slack, shared, own)
        # About the second derivatives: lengths are measured, and steps begun, in their scale.
        scale = 1 + 2 * strength * (slack > 0).sum(0) * squares
        size = (np.square(gradient) / scale).sum(0)
        first = size if first is None else first
        left = np.flatnonzero(size > NEWTON_TOLERANCE**2 * first)
        if not len(left):
            return weights
        mine, start, slope, told, scale = (
            own[:, left],
            weights[:, left],
            gradient[:, left],
            signs[:, left],
            scale[:, left],
        )
        active = slack[:, left] > 0

        # (I + 2 C X' D X) step = -gradient, to a tenth.
        step, rest = np.zeros(start.shape), -slope
        way, norm = rest / scale, size[left]
        enough = 0.01 * norm
        while (norm > enough).any():
            curved = way + 2 * strength * _back(active * _forth(way, shared, mine), shared, mine)
            length = np.where(norm > enough, norm / np.maximum((way * curved).sum(0), TINY), 0)
            step, rest = step + length * way, rest - length * curved
            before, norm = norm, (np.square(rest) / scale).sum(0)
            way = rest / scale + norm / np.maximum(before, TINY) * way

        here, along = decisions[:, left], _forth(step, shared, mine)
        now, descent = _loss(start, here, told, strength), (slope * step).sum(0)
        factor = np.ones(len(left))
        while True:
            there = _loss(start + factor * step, here + factor * along, told, strength)
            # What rounding adds is no ascent.
            worse = there > now + 0.01 * factor * descent + 1e-12 * now
            if not worse.any():
                break
            factor[worse] /= 2
        weights[:, left] += factor * step
        decisions[:, left] += factor * along
    warnings.warn(f"SVMs of strength {strength:g}: {len(left)} of {signs.shape[1]} did not converge", stacklevel=3)
    return weights


def _loss(weights: np.ndarray, decisions: np.ndarray, signs: np.ndarray, strength: float) -> np.ndarray:
    """What is minimised, [A]."""
    missed = np.maximum(0, np.abs(signs) - signs * decisions)
    return np.square(weights).sum(0) / 2 + strength * np.square(missed).sum(0)


def _forth(weights: np.ndarray, shared: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Decisions [N, A] by weights [F + 1, A]."""
    return shared @ weights[:-1] + own * weights[-1]


def _back(weighted: np.ndarray, shared: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Sums [F + 1, A] of features, weighted [N, A] by sample."""
    return np.vstack([shared.T @ weighted, (own * weighted).sum(0)])


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
