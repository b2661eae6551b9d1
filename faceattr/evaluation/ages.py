"""How good ages are: errors in years, intervals that hold, and who is taken for a child or a senior."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from faceattr.ages import LIMITS, Age
from faceattr.data.ages import CHILD, SENIOR, at_least
from faceattr.evaluation.attributes import accuracy, balanced_accuracy


def evaluate_ages(found: Sequence[Age | None], ages: np.ndarray) -> dict:
    """The figures of the ages found in N pictures, None where no face was; they are left out.

    ages: [N, 2] float, each person is from the first to below the second years old; NaN where nobody has said.

    Returns:
        {"n": pictures of known age with a face, "not_found": those without, "years", "groups", "Child", "Senior"}.
        years: of known years {"n", "mean_error": in years, "in_interval": share in the interval found}. groups: of
        ages known as a longer span {"n", "mean_distance": years to it, "in_group": share inside, "in_or_next": share in
        the same of the groups that LIMITS part or in one beside it}. Child (below 13), Senior (65 or older): where that
        is known {"n", "accuracy", "balanced_accuracy", "base_rate"}, of the age found against the limit. A figure is
        None where there is no picture for it.
    """
    told = np.isfinite(ages).all(1)
    seen = told & np.array([age is not None for age in found], dtype=bool)
    years, least, most = np.array(
        [[age.years, age.low, age.high] for age, use in zip(found, seen, strict=True) if use], dtype=float
    ).reshape(-1, 3).T  # fmt: skip
    ages = ages[seen]
    low, high = ages.T
    # Somebody who is 34 is 34 and a half on average.
    exact, middle = high - low <= 1, (low + high) / 2
    # What is told as a group goes on to below its end.
    distance = np.maximum(0, np.maximum(low - years, years - high))
    found_group, true_group = (np.searchsorted(LIMITS, values, "right") for values in (years, low))
    result = {
        "n": int(seen.sum()),
        "not_found": int((told & ~seen).sum()),
        "years": {
            "n": int(exact.sum()),
            "mean_error": _mean(np.abs(years - middle)[exact]),
            "in_interval": _mean(((least <= middle) & (middle <= most))[exact]),
        },
        "groups": {
            "n": int((~exact).sum()),
            "mean_distance": _mean(distance[~exact]),
            "in_group": _mean(((low <= years) & (years < high))[~exact]),
            "in_or_next": _mean((np.abs(found_group - true_group) <= 1)[~exact]),
        },
    }
    for name, limit, older in (("Child", CHILD, False), ("Senior", SENIOR, True)):
        old, known = at_least(ages, limit)
        labels, tags = (years >= limit)[known] == older, old[known] == older
        result[name] = {
            "n": int(known.sum()),
            "accuracy": accuracy(labels, tags) if known.any() else None,
            "balanced_accuracy": balanced_accuracy(labels, tags),
            "base_rate": _mean(tags),
        }
    return result


def describe_ages(figures: dict) -> Iterator[str]:
    """The figures in words, a line each."""
    years, groups = figures["years"], figures["groups"]
    if years["n"]:
        yield (
            f"age, years known of {years['n']} pictures: mean error {years['mean_error']:.1f} years, "
            f"{years['in_interval']:.3f} are in the interval of 80 %"
        )
    if groups["n"]:
        yield (
            f"age, group known of {groups['n']} pictures: {groups['in_group']:.3f} in it, "
            f"{groups['in_or_next']:.3f} in it or the next, on average {groups['mean_distance']:.1f} years away"
        )
    for name, what in (("Child", f"below {CHILD}"), ("Senior", f"{SENIOR} or older")):
        figure = figures[name]
        if figure["n"]:
            balanced = "" if figure["balanced_accuracy"] is None else f", balanced {figure['balanced_accuracy']:.3f}"
            yield (
                f"{name} by age, {what}, known of {figure['n']} pictures: accuracy {figure['accuracy']:.3f}{balanced}, "
                f"base rate {figure['base_rate']:.3f}"
            )
    if figures["not_found"]:
        yield f"age: no face found in {figures['not_found']} pictures of known age, which are left out"


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
