"""Figures as text for people or as JSON, beside the majority class and the paper's Table 1."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from faceattr.attributes import ATTRIBUTES
from faceattr.data.tagged import TaggedPictures
from faceattr.evaluation.ages import describe_ages
from faceattr.evaluation.attributes import mean, table


def share_of_positives(data: TaggedPictures) -> np.ndarray:
    """[A]: the share of each attribute's known tags that hold; 0.5 where none is known."""
    known = data.known.sum(0)
    return np.where(known > 0, (data.tags & data.known).sum(0) / np.maximum(known, 1), 0.5)


def report(
    result: dict, format: str, paper: Mapping[str, Sequence[int]], baselines: Mapping[str, dict] | None = None
) -> str:
    """The result of :func:`faceattr.evaluation.attributes.evaluate`, with "ece_of_calibrated"
    (:func:`faceattr.evaluation.attributes.calibrated_error`), "not_found", "age" (None or as of
    :func:`faceattr.evaluation.ages.evaluate_ages`) and, from :func:`faceattr.evaluation.groups.by_groups`, "groups" and
    "gaps", as a table or as JSON.

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
    lines = []
    if names:
        lines += [table(result, columns), "", f"{result['n']} pictures; majority: always the more frequent answer"]
    if result["ece_of_calibrated"] is not None:
        lines.append(f"ECE: calibrated probabilities would have {result['ece_of_calibrated']:.3f} by so many pictures")
    if result["age"]:
        lines += describe_ages(result["age"])
    for title, other in baselines.items():
        if other.get("age"):
            lines += [f"{title}: {line}" for line in describe_ages(other["age"])]
    if names and result["not_found"]:
        lines.append(f"no face found in {result['not_found']}: they count with the share of positives as probability")
    for title, group in result["groups"].items():
        figures = ", ".join(f"{name} {value:.3f}" for name, value in group["mean"].items() if value is not None)
        missed = f", no face found in {group['not_found']}" if group["not_found"] else ""
        lines.append(f"{title}: {group['n']} pictures{missed}: {figures}")
    for division, gaps in result["gaps"].items():
        for figure, gap in gaps.items():
            if gap is not None:
                bounds = f" ({gap['interval'][0]:.3f} to {gap['interval'][1]:.3f})" if gap["interval"] else ""
                name = figure.replace("_", " ")
                lines.append(
                    f"gap by {division}, {name}: {gap['gap']:.3f}{bounds}, {gap['better']} over {gap['worse']}"
                )
    if result["gaps"]:
        drawn = "people with all their pictures" if result["intervals"] is not None else "pictures"
        lines.append(f"gaps: of means over attributes; in brackets 95 %, drawing {drawn}, the same for both groups")
    if result["intervals"] is not None:
        lines.append("95 %: of accuracy and of balanced accuracy, drawing people with all their pictures")
    if result["learnt"]:
        lines.append(f"SVMs on frozen features learnt from {result['learnt']} pictures of partition 0")
    trained = {name: other["training"] for name, other in baselines.items() if other["training"]}
    if trained:
        learnt = ", ".join(f"{name} from {count}" for name, count in trained.items())
        lines.append(f"accuracy of methods that learnt from pictures of partition 0: {learnt}")
    if published:
        lines.append("* accuracy in Table 1 of the paper, on the whole data set")
    return "\n".join(lines)
