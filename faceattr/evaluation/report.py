"""Figures as text for people or as JSON, beside the majority class and the paper's Table 1."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from faceattr.attributes import ATTRIBUTES
from faceattr.data.tagged import TaggedPictures
from faceattr.evaluation.attributes import evaluate, mean, table


def share_of_positives(data: TaggedPictures) -> np.ndarray:
    """[A]: the share of each attribute's known tags that hold; 0.5 where none is known."""
    known = data.known.sum(0)
    return np.where(known > 0, (data.tags & data.known).sum(0) / np.maximum(known, 1), 0.5)


def by_tags(
    values: np.ndarray, data: TaggedPictures, thresholds: Sequence[float], found: np.ndarray, groups: TaggedPictures
) -> dict[str, dict]:
    """The means of the pictures that have each tag of `groups`, and of those that do not.

    values [N, A], thresholds [A]: probabilities of `data`'s attributes. found [N]: whether a face was. groups: the same
    N pictures. Returns {"TAG" or "not TAG": {"n", "not_found", "mean"}}; a group without pictures is left out.
    """
    result = {}
    for column, name in enumerate(groups.attributes):
        for title, tag in ((name, True), (f"not {name}", False)):
            rows = np.flatnonzero((groups.tags[:, column] == tag) & groups.known[:, column])
            if len(rows):
                part = data.select(rows)
                figures = evaluate(values[rows], part.tags, thresholds, data.attributes, part.known)
                result[title] = {"n": len(rows), "not_found": int((~found[rows]).sum()), "mean": figures["mean"]}
    return result


def report(
    result: dict, format: str, paper: Mapping[str, Sequence[int]], baselines: Mapping[str, dict] | None = None
) -> str:
    """The result of :func:`faceattr.evaluation.attributes.evaluate`, with "not_found" and, from :func:`by_tags`,
    "groups", as a table or as JSON.

    paper: the methods of Table 1 and their percentages for CelebA's 40 attributes; empty where they do not apply.
    baselines: results of other methods on the same pictures.
    """
    names = list(result["attributes"])
    published = {
        method: {name: column[ATTRIBUTES.index(name)] / 100 for name in names if name in ATTRIBUTES}
        for method, column in paper.items()
    }
    baselines = baselines or {}
    if format == "json":
        majority = mean(row["majority"] for row in result["attributes"].values())
        beside = {
            "majority": majority,
            "table_1": {method: {"mean": mean(cells.values()), **cells} for method, cells in published.items()},
            "baselines": dict(baselines),
        }
        return json.dumps({**result, **beside}, indent=2)
    columns = {name: [row["accuracy"] for row in other["attributes"].values()] for name, other in baselines.items()}
    columns |= {f"{method}*": [cells.get(name) for name in names] for method, cells in published.items()}
    lines = [table(result, columns), "", f"{result['n']} pictures; majority: always the more frequent answer"]
    if result["not_found"]:
        lines.append(f"no face found in {result['not_found']}: they count with the share of positives as probability")
    for title, group in result["groups"].items():
        figures = ", ".join(f"{name} {value:.3f}" for name, value in group["mean"].items() if value is not None)
        missed = f", no face found in {group['not_found']}" if group["not_found"] else ""
        lines.append(f"{title}: {group['n']} pictures{missed}: {figures}")
    if result["intervals"] is not None:
        lines.append("95 %: of accuracy and of balanced accuracy, drawing people with all their pictures")
    if baselines:
        learnt = ", ".join(f"{name} from {other['training']}" for name, other in baselines.items())
        lines.append(f"accuracy of methods that learnt from pictures of partition 0: {learnt}")
    if published:
        lines.append("* accuracy in Table 1 of the paper, on the whole data set")
    return "\n".join(lines)
