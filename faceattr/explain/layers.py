"""Fig. 9: how well each layer of ANet tells identity-related attributes, and the others."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from faceattr.attributes import IDENTITY_RELATED
from faceattr.data.tagged import TaggedPictures
from faceattr.evaluation.attributes import mean
from faceattr.explain.inputs import choose_pictures, read_faces, read_nets
from faceattr.explain.output import make_folder, new_figure, save_figure, spoken, write_csv, write_json
from faceattr.explain.probes import Halves, check_tags, halves, probe


def measure(
    by_layer: Mapping[str, np.ndarray], pictures: TaggedPictures, rows: Halves, quiet: bool = True
) -> dict[str, dict[str, dict]]:
    """accuracy, auc and majority of linear classifiers, by layer and attribute; by_layer: responses [N, ...]."""
    progress = tqdm(by_layer.items(), desc="classifiers", unit="layer", disable=quiet, dynamic_ncols=True)
    return {
        layer: dict(zip(pictures.attributes, probe(features, pictures, rows), strict=True))
        for layer, features in progress
    }


def summary(by_layer: Mapping[str, Mapping[str, dict]]) -> dict[str, dict[str, dict]]:
    """Means of accuracy and auc of each layer over the identity-related attributes and over the others."""
    parts = {
        "identity": lambda name: name in IDENTITY_RELATED,
        "others": lambda name: name not in IDENTITY_RELATED,
    }
    return {
        layer: {
            part: {
                figure: mean(row[figure] for name, row in of_attributes.items() if belongs(name))
                for figure in ("accuracy", "auc")
            }
            for part, belongs in parts.items()
        }
        for layer, of_attributes in by_layer.items()
    }


def gains(by_layer: Mapping[str, Mapping[str, dict]]) -> list[tuple[str, float]]:
    """The attributes with what their AUC gains from C3 to FC, rising: what FC has turned away from comes first."""
    changes = [
        (name, row["auc"] - by_layer["c3"][name]["auc"])
        for name, row in by_layer["fc"].items()
        if row["auc"] is not None
    ]
    return sorted(changes, key=lambda change: change[1])


def _list(changes: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {change:+.3f}" for name, change in changes)


def draw(nets: Mapping[str, Mapping[str, Mapping[str, dict]]]) -> Figure:
    """The figure: for each net (title -> what :func:`measure` gives) the layers' AUC over the attributes, as dots.

    Identity-related attributes are above, the others below, each by the AUC of FC; the lines are the means.
    """
    names = list(next(iter(nets.values()))["fc"])
    related = [name for name in names if name in IDENTITY_RELATED]
    others = [name for name in names if name not in IDENTITY_RELATED]
    parts = [(title, part) for title, part in (("identity-related", related), ("others", others)) if part]
    figure = new_figure(2 + 4 * len(nets), 1.5 + 0.21 * len(names))
    grid = figure.subplots(
        len(parts), len(nets), squeeze=False, sharex=True, sharey="row", height_ratios=[len(part) for _, part in parts]
    )
    styles = {"fc": ("o", "tab:red"), "c4": ("s", "tab:blue"), "c3": ("^", "tab:grey")}
    first = next(iter(nets.values()))["fc"]
    for row, (title, part) in enumerate(parts):
        order = sorted(part, key=lambda name: first[name]["auc"] or 0)
        for column, (net, by_layer) in enumerate(nets.items()):
            axes = grid[row, column]
            for layer, (marker, colour) in reversed(styles.items()):
                values = [by_layer[layer][name]["auc"] for name in order]
                known = [(value, place) for place, value in enumerate(values) if value is not None]
                axes.plot(*zip(*known, strict=True), marker, color=colour, ms=5, alpha=0.8, label=layer.upper())
                axes.axvline(mean(values), color=colour, lw=1, alpha=0.6)
            axes.set_yticks(range(len(order)), [spoken(name) for name in order], fontsize=8)
            axes.grid(axis="y", alpha=0.25)
            axes.set_title(f"{net}: {title}", fontsize=10)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    for axes in grid[-1]:
        axes.set_xlabel("area under the ROC curve")
    return figure


def run(options: argparse.Namespace) -> None:
    """Linear classifiers on each layer; see `faceattr.explain.layers`."""
    output = make_folder(options.output)
    nets = read_nets(options)
    pictures = choose_pictures(options, probed=True)
    check_tags(pictures)
    faces = read_faces(options, nets, pictures)
    rows, notes, measured = halves(faces.pictures), {}, {}
    for (title, net), crops in zip(nets.items(), faces.crops, strict=True):
        by_layer = net.responses(crops, options.quiet)
        measured[title] = measure(by_layer, faces.pictures, rows, options.quiet)
        notes[title] = {"file": str(net.path), "means": summary(measured[title])}
        for layer, parts in notes[title]["means"].items():
            text = ", ".join(
                f"{part} {figures['accuracy']:.3f} ({figures['auc']:.3f})"
                for part, figures in parts.items()
                if figures["accuracy"] is not None and figures["auc"] is not None
            )
            print(f"{title}, {layer.upper()}: accuracy (AUC) of attributes: {text}")
        change = gains(measured[title])
        print(f"{title}, AUC from C3 to FC: {_list(change[-5:][::-1])}; {_list(change[:5])}")
    table = [
        {
            "weights": title,
            "layer": layer,
            "attribute": name,
            "identity": int(name in IDENTITY_RELATED),
            **figures,
        }
        for title, by_layer in measured.items()
        for layer, of_attributes in by_layer.items()
        for name, figures in of_attributes.items()
    ]
    write_csv(output / "layers.csv", table)
    write_json(output / "layers.json", {"learnt_from": len(rows.fit), "measured_on": len(rows.test), "weights": notes})
    save_figure(draw(measured), output, "layers", options.format)
