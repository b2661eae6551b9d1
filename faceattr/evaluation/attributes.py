"""How good attribute probabilities are: accuracy, balanced accuracy, area under the ROC curve, calibration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CALIBRATION_BINS = 15


def accuracy(labels: np.ndarray, tags: np.ndarray) -> float:
    """Share of labels that agree with the tags, both [N] bool."""
    return float((labels == tags).mean())


def balanced_accuracy(labels: np.ndarray, tags: np.ndarray) -> float | None:
    """Mean of the accuracies on positives and on negatives, both [N] bool; None where one class is missing."""
    if tags.all() or not tags.any():
        return None
    return float((labels[tags].mean() + (~labels[~tags]).mean()) / 2)


def area_under_roc(scores: np.ndarray, tags: np.ndarray) -> float | None:
    """Share of pairs of a positive and a negative in which the positive scores higher, ties counting half.

    scores [N], tags [N] bool; None where one class is missing.
    """
    positives, negatives = int(tags.sum()), int((~tags).sum())
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[tags].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def calibration_error(probabilities: np.ndarray, tags: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: mean over samples of |mean probability - share of positives| of their bin.

    probabilities [N] in [0, 1], tags [N] bool; the bins have equal width.
    """
    index = np.minimum((probabilities * bins).astype(int), bins - 1)
    excess = np.bincount(index, probabilities - tags, minlength=bins)
    return float(np.abs(excess).sum() / len(tags))


def choose_threshold(probabilities: np.ndarray, tags: np.ndarray, goal: str) -> float:
    """The threshold, over which a sample is labelled positive, that does best on these samples.

    goal: "accuracy" or "balanced". Among equally good thresholds the middle one is taken, halfway between two samples.
    Without positives, or without negatives, nothing can be chosen: 0.5.
    """
    if goal not in ("accuracy", "balanced"):
        raise ValueError(f"choose_threshold: goal is {goal!r}, it must be 'accuracy' or 'balanced'")
    if tags.all() or not tags.any():
        return 0.5
    order = np.argsort(probabilities, kind="stable")
    values, sorted_tags = probabilities[order], tags[order]
    weight = np.where(sorted_tags, 1 / tags.sum(), 1 / (~tags).sum()) if goal == "balanced" else np.ones(len(tags))
    # Cut k labels the k lowest negative: what it gains over labelling all positive.
    gain = np.concatenate([[0.0], np.cumsum(np.where(sorted_tags, -weight, weight))])
    allowed = np.concatenate([[True], values[1:] > values[:-1], [True]])
    best = np.flatnonzero(allowed & (gain >= gain[allowed].max() - 1e-9))
    edges = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2, [1.0]])
    return float(edges[best[len(best) // 2]])


def evaluate(
    probabilities: np.ndarray, tags: np.ndarray, thresholds: Sequence[float] | np.ndarray, names: Sequence[str]
) -> dict:
    """Every figure for every attribute, and their means.

    Args:
        probabilities: [N, A] in [0, 1].
        tags: [N, A] bool.
        thresholds: [A]; a probability over it makes the label positive.
        names: of the A attributes.

    Returns:
        {"n": N, "mean": figures, "attributes": {name: figures}}; figures are accuracy, balanced_accuracy, auc, ece, and of
        an attribute also base_rate and threshold. A figure that needs both classes is None where one is missing, and left
        out of the mean.

    Raises:
        ValueError: shapes that do not fit, no sample, or probabilities outside [0, 1].
    """
    probabilities, tags = np.asarray(probabilities), np.asarray(tags, dtype=bool)
    if probabilities.shape != tags.shape or tags.ndim != 2 or not len(tags):
        raise ValueError(f"evaluate: probabilities {probabilities.shape} and tags {tags.shape} must be [N, A] alike, N > 0")
    if len(thresholds) != tags.shape[1] or len(names) != tags.shape[1]:
        raise ValueError(f"evaluate: {len(thresholds)} thresholds and {len(names)} names for {tags.shape[1]} attributes")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("evaluate: probabilities must lie in [0, 1]; give calibrated ones, not decisions")
    attributes = {}
    for column, name in enumerate(names):
        p, truth, threshold = probabilities[:, column], tags[:, column], float(thresholds[column])
        attributes[name] = {
            "accuracy": accuracy(p > threshold, truth),
            "balanced_accuracy": balanced_accuracy(p > threshold, truth),
            "auc": area_under_roc(p, truth),
            "ece": calibration_error(p, truth),
            "base_rate": float(truth.mean()),
            "threshold": threshold,
        }
    return {"n": len(tags), "mean": _means(attributes.values()), "attributes": attributes}


def _means(rows) -> dict[str, float | None]:
    means = {}
    for figure in ("accuracy", "balanced_accuracy", "auc", "ece"):
        known = [row[figure] for row in rows if row[figure] is not None]
        means[figure] = float(np.mean(known)) if known else None
    return means


def table(result: dict) -> str:
    """What :func:`evaluate` gives as text: a line an attribute, the means last."""
    width = max(len(name) for name in [*result["attributes"], "mean"])
    lines = [f"{'attribute':{width}}  accuracy  balanced    AUC    ECE  base rate  threshold"]
    for name, row in [*result["attributes"].items(), (f"mean of {len(result['attributes'])}", result["mean"])]:
        cells = [row["accuracy"], row["balanced_accuracy"], row["auc"], row["ece"], row.get("base_rate"), row.get("threshold")]
        texts = ["" if cell is None else f"{cell:.3f}" for cell in cells]
        lines.append(f"{name:{width}}  " + "  ".join(f"{text:>{w}}" for text, w in zip(texts, (8, 8, 5, 5, 9, 9), strict=True)))
    return "\n".join(lines)
