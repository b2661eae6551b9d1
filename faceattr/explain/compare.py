"""Two checkpoints over the same faces: what changed for each attribute, and where they disagree most."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from faceattr.data.tagged import TaggedPictures
from faceattr.evaluation.attributes import accuracy, mean
from faceattr.explain.faces import Faces
from faceattr.explain.inputs import choose_pictures, read_faces, read_nets
from faceattr.explain.nets import Net
from faceattr.explain.output import make_folder, spoken, write_csv, write_json
from faceattr.page import Page, PageFace


def shared_attributes(before: Net, after: Net) -> list[str]:
    """The attributes that both decide, in the order of `after`; ValueError where there is none."""
    before.deciding(), after.deciding()
    shared = [name for name in after.attributes if name in before.attributes]
    if not shared:
        raise ValueError(f"{before.path} and {after.path} have no attribute in common")
    return shared


def labels_and_probabilities(
    net: Net, features: np.ndarray, attributes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels bool [N, A] and probabilities [N, A] of some attributes, from features [N, F]."""
    columns = [net.attributes.index(name) for name in attributes]
    values = net.probabilities(features)[:, columns]
    return values >= net.thresholds[columns], values


def measure(
    before: tuple[np.ndarray, np.ndarray],
    after: tuple[np.ndarray, np.ndarray],
    attributes: Sequence[str],
    pictures: TaggedPictures,
) -> list[dict]:
    """For each attribute what changed from `before` to `after`, each labels [N, A] and probabilities [N, A].

    gained, lost: shares of the faces that got or lost the label. before, after: shares with the label.
    moved: mean absolute change of the probability. accuracy_before, accuracy_after: on the known tags of pictures;
    None without.
    """
    rows = []
    for column, name in enumerate(attributes):
        old, new = before[0][:, column], after[0][:, column]
        row = {
            "attribute": name,
            "before": float(old.mean()),
            "after": float(new.mean()),
            "gained": float((new & ~old).mean()),
            "lost": float((old & ~new).mean()),
            "moved": float(np.abs(after[1][:, column] - before[1][:, column]).mean()),
            "accuracy_before": None,
            "accuracy_after": None,
        }
        if name in pictures.attributes:
            tag = pictures.attributes.index(name)
            known = pictures.known[:, tag]
            if known.any():
                truth = pictures.tags[known, tag]
                row |= {"accuracy_before": accuracy(old[known], truth), "accuracy_after": accuracy(new[known], truth)}
        rows.append(row)
    return rows


def disagreement(before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """[N]: how far two nets are apart on a face: the probabilities' distance summed over the labels that changed."""
    return (np.abs(after[1] - before[1]) * (after[0] != before[0])).sum(1)


def summary(rows: Sequence[dict]) -> dict[str, float | None]:
    """Means over the attributes of what :func:`measure` gives."""
    return {key: mean(row[key] for row in rows) for key in rows[0] if key != "attribute"}


def write_page(
    path: Path,
    titles: Sequence[str],
    attributes: Sequence[str],
    rows: Sequence[dict],
    answers: Sequence[tuple[np.ndarray, np.ndarray]],
    faces: Faces,
    shown: Sequence[int],
) -> None:
    """The comparison as a page: what :func:`measure` gave as a table, and some of the faces with what changed.

    answers: of either net, labels [N, A] and probabilities [N, A] of the N faces. shown: rows of the faces, in order.
    """
    columns = {"gained": "gained", "lost": "lost", "moved": "mean change", "before": "before", "after": "after"}
    if any(row["accuracy_before"] is not None for row in rows):
        columns |= {"accuracy_before": "accuracy before", "accuracy_after": "accuracy after"}
    changed = sorted(rows, key=lambda row: -row["gained"] - row["lost"])
    table = [["attribute", *columns.values()]]
    table += [
        [spoken(row["attribute"]), *("" if row[key] is None else f"{row[key]:.1%}" for key in columns)]
        for row in changed
    ]
    title = f"Where two checkpoints disagree most: {len(shown)} of {len(faces)} faces"
    if not shown:
        title = f"Two checkpoints that give all {len(faces)} faces the same labels"
    with Page(path, title, attributes, titles, table) as page:
        for face in shown:
            labels, values = ([part[face] for part in parts] for parts in zip(*answers, strict=True))
            page.add(faces.pictures.names[face], faces.crops[-1][face], [PageFace(None, labels, values)])


def run(options: argparse.Namespace) -> None:
    """Two checkpoints over the same faces; see `faceattr.explain.compare`."""
    output = make_folder(options.output)
    nets = read_nets(options)
    before, after = nets.values()
    attributes = shared_attributes(before, after)
    faces = read_faces(options, nets, choose_pictures(options))
    answers = [
        labels_and_probabilities(net, net.features(crops, options.quiet), attributes)
        for net, crops in zip((before, after), faces.crops, strict=True)
    ]
    rows = measure(*answers, attributes, faces.pictures)
    distances = disagreement(*answers)
    means = summary(rows)
    write_csv(output / "compare.csv", rows)
    ranked = (-distances).argsort(kind="stable")[: options.shown]
    ranked = ranked[distances[ranked] > 0]
    write_json(
        output / "compare.json",
        {
            "before": str(before.path),
            "after": str(after.path),
            "faces": len(faces),
            "mean": means,
            "most_different": {faces.pictures.names[i]: distances[i] for i in ranked},
        },
    )
    write_page(output / "compare.html", list(nets), attributes, rows, answers, faces, ranked.tolist())
    print(f"{len(faces)} faces: labels gained {means['gained']:.1%}, lost {means['lost']:.1%}, mean over attributes")
    if means["accuracy_before"] is not None:
        print(f"accuracy {means['accuracy_before']:.3f} before, {means['accuracy_after']:.3f} after")
    if not len(ranked):
        print(f"they give every face the same labels; probabilities are in {output / 'compare.csv'}")
        return
    changed = [row for row in rows if row["gained"] + row["lost"] > 0]
    for row in sorted(changed, key=lambda row: -row["gained"] - row["lost"])[:5]:
        print(f"  {row['attribute']}: gained {row['gained']:.1%}, lost {row['lost']:.1%}")
    print(f"the {len(ranked)} faces they disagree on most are in {output / 'compare.html'}")
