"""Figures of groups of pictures, and how far the groups are apart: is a model as good for everybody?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from faceattr.data.tagged import TaggedPictures
from faceattr.evaluation.attributes import evaluate, interval, mean_over_attributes, resampled

FIGURES = ("accuracy", "balanced_accuracy")


def by_groups(
    values: np.ndarray,
    data: TaggedPictures,
    thresholds: Sequence[float],
    found: np.ndarray,
    tags: TaggedPictures,
    wanted: Sequence[Sequence[str]],
) -> tuple[dict[str, dict], dict[str, dict]]:
    """The means of groups of pictures, and the gaps between them, with 95 % intervals that draw people.

    Every interval draws the same people, each with all their pictures, so that a gap's is of the difference itself and
    not of two figures that vary each for itself. Without identities pictures are drawn.

    Args:
        values [N, A], thresholds [A]: probabilities of `data`'s attributes. found [N]: whether a face was.
        tags: the same N pictures, with what groups go by.
        wanted: the tags of each division: one gives two groups, two give four.

    Returns:
        {"TAG", "not TAG" or "TAG, not OTHER": {"n", "not_found", "mean", "intervals"}}, a group without pictures left
        out; and for each division by its tags, joined with +, {figure: {"gap", "interval", "better", "worse"}} of the
        groups that are farthest apart, None where fewer than two have that figure.
    """
    people = np.arange(len(data)) if data.identities is None else data.identities
    labels = values > np.asarray(thresholds)
    groups, gaps = {}, {}
    for names in wanted:
        columns = [tags.attributes.index(name) for name in names]
        known = tags.known[:, columns].all(1)
        draws: dict[str, dict[str, np.ndarray]] = {}
        for answers in product((True, False), repeat=len(names)):
            member = known & (tags.tags[:, columns] == answers).all(1)
            if not member.any():
                continue
            title = ", ".join(name if answer else f"not {name}" for name, answer in zip(names, answers, strict=True))
            part = data.select(member)
            figures = evaluate(values[member], part.tags, thresholds, data.attributes, part.known)
            drawn = resampled(labels, data.tags, data.known & member[:, None], people)
            draws[title] = {name: mean_over_attributes(drawn[name]) for name in FIGURES}
            groups[title] = {
                "n": int(member.sum()),
                "not_found": int((~found[member]).sum()),
                "mean": figures["mean"],
                "intervals": {name: interval(draws[title][name]) for name in FIGURES},
            }
        gaps["+".join(names)] = {name: _gap(groups, draws, name) for name in FIGURES}
    return groups, gaps


def _gap(groups: dict[str, dict], draws: dict[str, dict[str, np.ndarray]], figure: str) -> dict | None:
    """Between the best and the worst of the groups that were drawn."""
    known = {title: groups[title]["mean"][figure] for title in draws if groups[title]["mean"][figure] is not None}
    if len(known) < 2:
        return None
    worse, *_, better = sorted(known, key=known.get)  # two groups, also where they are equal
    return {
        "gap": known[better] - known[worse],
        "interval": interval(draws[better][figure] - draws[worse][figure]),
        "better": better,
        "worse": worse,
    }
