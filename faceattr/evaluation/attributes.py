"""How good attribute probabilities are: accuracy, balanced accuracy, area under the ROC curve, calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

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


def calibrated_error(probabilities: np.ndarray, known: np.ndarray | None = None, rounds: int = 20) -> float | None:
    """The calibration error that chance alone gives: of tags drawn by the probabilities, mean over draws, attributes.

    probabilities [N, A] in [0, 1]; known [N, A] bool: what counts. Few samples leave few in a bin, and then the error
    of the best probabilities is far from 0. The draws are the same each time. None where nothing is known.
    """
    known = np.ones(probabilities.shape, dtype=bool) if known is None else known
    random = np.random.default_rng(0)
    columns = [column[rows] for column, rows in zip(probabilities.T, known.T, strict=True) if rows.any()]
    return mean(calibration_error(p, random.random(len(p)) < p) for _ in range(rounds) for p in columns)


def choose_threshold(probabilities: np.ndarray, tags: np.ndarray, goal: str, trust: float = 0.0) -> float:
    """The threshold, over which a sample is labelled positive, that does best on these samples.

    goal: "accuracy" or "balanced". trust: how much the probabilities themselves count as tags, 0 to 1; of calibrated
    ones this keeps a rare attribute's threshold from following single samples. Among equally good thresholds the middle
    one is taken, halfway between two samples. Without positives, or without negatives, nothing can be chosen: 0.5.
    """
    if goal not in ("accuracy", "balanced"):
        raise ValueError(f"choose_threshold: goal is {goal!r}, it must be 'accuracy' or 'balanced'")
    if tags.all() or not tags.any():
        return 0.5
    order = np.argsort(probabilities, kind="stable")
    values = probabilities[order]
    positive = (1 - trust) * tags[order] + trust * values
    negative = 1 - positive
    if goal == "balanced":
        positive, negative = positive / positive.sum(), negative / negative.sum()
    # Cut k labels the k lowest negative: what it gains over labelling all positive.
    gain = np.concatenate([[0.0], np.cumsum(negative - positive)])
    allowed = np.concatenate([[True], values[1:] > values[:-1], [True]])
    best = np.flatnonzero(allowed & (gain >= gain[allowed].max() - 1e-9))
    edges = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2, [1.0]])
    return float(edges[best[len(best) // 2]])


def evaluate(
    probabilities: np.ndarray,
    tags: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    names: Sequence[str],
    known: np.ndarray | None = None,
    identities: np.ndarray | None = None,
) -> dict:
    """Every figure for every attribute, and their means.

    Args:
        probabilities: [N, A] in [0, 1].
        tags: [N, A] bool.
        thresholds: [A]; a probability over it makes the label positive.
        names: of the A attributes.
        known: [N, A] bool; where it is False the tag is not known and the sample does not count for the attribute.
        identities: [N], equal for samples of one person; with them there are intervals.

    Returns:
        {"n": N, "mean": figures, "attributes": {name: figures}}; figures are accuracy, balanced_accuracy, auc, ece, and
        of an attribute also base_rate, majority (accuracy of always giving the more frequent answer), threshold and n,
        its known samples. A figure that needs both classes, or any sample, is None where there is none, and left out of
        the mean. Intervals (95 %, [low, high]) of accuracy and balanced accuracy are in "intervals" of each attribute,
        and of the result for the means; their value is None without identities.

    Raises:
        ValueError: shapes that do not fit, no sample, or probabilities outside [0, 1].
    """
    probabilities, tags = np.asarray(probabilities), np.asarray(tags, dtype=bool)
    known = np.ones(tags.shape, dtype=bool) if known is None else np.asarray(known, dtype=bool)
    if not probabilities.shape == tags.shape == known.shape or tags.ndim != 2 or not len(tags):
        raise ValueError(
            f"evaluate: probabilities {probabilities.shape} and tags {tags.shape} must be [N, A] alike, N > 0"
        )
    if len(thresholds) != tags.shape[1] or len(names) != tags.shape[1]:
        raise ValueError(
            f"evaluate: {len(thresholds)} thresholds and {len(names)} names for {tags.shape[1]} attributes"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("evaluate: probabilities must lie in [0, 1]; give calibrated ones, not decisions")
    attributes = {}
    for column, name in enumerate(names):
        rows = known[:, column]
        figures = _figures(probabilities[rows, column], tags[rows, column], float(thresholds[column]))
        attributes[name] = {**figures, "threshold": float(thresholds[column]), "n": int(rows.sum()), "intervals": None}
    result = {"n": len(tags), "mean": _means(attributes.values()), "attributes": attributes, "intervals": None}
    if identities is not None:
        intervals, result["intervals"] = identity_bootstrap(probabilities > thresholds, tags, known, identities)
        for row, interval in zip(attributes.values(), intervals, strict=True):
            row["intervals"] = interval
    return result


def _figures(probabilities: np.ndarray, tags: np.ndarray, threshold: float) -> dict[str, float | None]:
    if not len(tags):
        return dict.fromkeys(("accuracy", "balanced_accuracy", "auc", "ece", "base_rate", "majority"))
    base_rate = float(tags.mean())
    return {
        "accuracy": accuracy(probabilities > threshold, tags),
        "balanced_accuracy": balanced_accuracy(probabilities > threshold, tags),
        "auc": area_under_roc(probabilities, tags),
        "ece": calibration_error(probabilities, tags),
        "base_rate": base_rate,
        "majority": max(base_rate, 1 - base_rate),
    }


def _means(rows) -> dict[str, float | None]:
    return {figure: mean(row[figure] for row in rows) for figure in ("accuracy", "balanced_accuracy", "auc", "ece")}


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None where there is none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def rounded(figures, digits: int = 4):
    """Figures, in dicts and lists of any depth, as metadata keeps them: all to the same number of digits."""
    if isinstance(figures, dict):
        return {key: rounded(value, digits) for key, value in figures.items()}
    if isinstance(figures, list | tuple):
        return [rounded(value, digits) for value in figures]
    return round(figures, digits) if isinstance(figures, float) else figures


def identity_bootstrap(
    labels: np.ndarray,
    tags: np.ndarray,
    known: np.ndarray,
    identities: np.ndarray,
    rounds: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[list[dict[str, list[float] | None]], dict[str, list[float] | None]]:
    """Percentile intervals of accuracy and balanced accuracy when people are drawn anew, each with all their pictures.

    Pictures of one person resemble each other, so that drawing pictures would make the intervals too narrow.

    Args:
        labels, tags, known: [N, A] bool. identities: [N].
        rounds: how often as many people as there are are drawn with replacement.

    Returns:
        for every attribute, and for the mean over attributes, {"accuracy": [low, high], "balanced_accuracy": ...}.
    """
    figures = resampled(labels, tags, known, identities, rounds, seed)
    columns = [{name: interval(values[:, i], level) for name, values in figures.items()} for i in range(tags.shape[1])]
    means = {name: interval(mean_over_attributes(values), level) for name, values in figures.items()}
    return columns, means


def resampled(
    labels: np.ndarray, tags: np.ndarray, known: np.ndarray, identities: np.ndarray, rounds: int = 1000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Accuracy and balanced accuracy, [rounds, A] each, when people are drawn anew; NaN where a round has no sample.

    labels, tags, known: [N, A] bool. identities: [N]; with the same of these, a round draws the same people.
    """
    people, index = np.unique(identities, return_inverse=True)

    def count(samples: np.ndarray) -> np.ndarray:
        """[people, A]: how many known samples of each person are such."""
        counts = np.zeros((len(people), tags.shape[1]))
        np.add.at(counts, index, samples & known)
        return counts

    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(people), np.full(len(people), 1 / len(people)), size=rounds).astype(float)
    true_positives, positives = drawn @ count(labels & tags), drawn @ count(tags)
    true_negatives, negatives = drawn @ count(~labels & ~tags), drawn @ count(~tags)
    with np.errstate(invalid="ignore"):
        return {
            "accuracy": (true_positives + true_negatives) / (positives + negatives),
            "balanced_accuracy": (true_positives / positives + true_negatives / negatives) / 2,
        }


def interval(values: np.ndarray, level: float = 0.95) -> list[float] | None:
    """The percentiles between which ``level`` of the values lie; None where none is a number."""
    values = values[~np.isnan(values)]
    return np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist() if len(values) else None


def mean_over_attributes(values: np.ndarray) -> np.ndarray:
    """[rounds] of [rounds, A]: where a round has no sample of an attribute, or of one class, it is left out."""
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=1) / (~np.isnan(values)).sum(1)


def table(result: dict, columns: Mapping[str, Sequence[float | None]] | None = None) -> str:
    """What :func:`evaluate` gives as text: a line an attribute, the means last.

    columns: further ones by their title, a value an attribute; their means are added.
    """
    columns = columns or {}
    rows = [*result["attributes"].values(), result["mean"]]
    names = [*result["attributes"], f"mean of {len(result['attributes'])}"]
    bounds = [row["intervals"] for row in result["attributes"].values()] + [result["intervals"]]
    cells = {"attribute": names, "accuracy": [_text(row["accuracy"]) for row in rows]}
    if result["intervals"] is not None:
        cells["95 %"] = [_bounds(bound["accuracy"]) for bound in bounds]
    cells["balanced"] = [_text(row["balanced_accuracy"]) for row in rows]
    if result["intervals"] is not None:
        cells["95 % "] = [_bounds(bound["balanced_accuracy"]) for bound in bounds]
    for title, key in (("AUC", "auc"), ("ECE", "ece"), ("base rate", "base_rate"), ("threshold", "threshold")):
        cells[title] = [_text(row.get(key)) for row in rows]
    majority = [row["majority"] for row in result["attributes"].values()]
    for title, values in {"majority": majority, **columns}.items():
        cells[title] = [_text(value) for value in [*values, mean(values)]]
    widths = [max(map(len, [title, *texts])) for title, texts in cells.items()]
    lines = [list(cells), *zip(*cells.values(), strict=True)]
    return "\n".join(
        "  ".join(
            f"{text:<{w}}" if i == 0 else f"{text:>{w}}" for i, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _bounds(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f}-{interval[1]:.3f}"
