"""Figures on labelled pictures, drawn: accuracy of every attribute by method, and of groups with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from faceattr.attributes import ATTRIBUTES
from faceattr.evaluation.attributes import mean


def new_figure(width: float, height: float):
    """An empty matplotlib figure of so many inches; ValueError where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError('to draw, matplotlib is needed; pip install "faceattr[train]"') from None
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def plot_attributes(result: dict, others: Mapping[str, dict], path: Path, title: str = "LNets+ANet") -> None:
    """A row an attribute, a mark a method, as the paper's Fig. 12; CelebA's 40 and further ones each in a column.

    result, others: of :func:`faceattr.evaluation.attributes.evaluate`. The path's suffix says the format.
    """
    methods = {title: result, **others}
    names = [name for name, row in result["attributes"].items() if row["accuracy"] is not None]
    parts = {
        "CelebA's attributes": [name for name in names if name in ATTRIBUTES],
        "further attributes": [name for name in names if name not in ATTRIBUTES],
    }
    parts = {heading: part for heading, part in parts.items() if part}
    figure = new_figure(5.5 * len(parts), 1.2 + 0.19 * max(map(len, parts.values())))
    grid = figure.subplots(1, len(parts), squeeze=False)[0]
    for axes, (heading, part) in zip(grid, parts.items(), strict=True):
        order = sorted(part, key=lambda name: result["attributes"][name]["accuracy"])
        majority = [result["attributes"][name]["majority"] for name in order]
        axes.plot(majority, range(len(order)), "|", color="black", ms=8, label="more frequent answer")
        for (method, figures), marker in zip(methods.items(), "osD^vPX*", strict=False):
            values = [figures["attributes"][name]["accuracy"] for name in order]
            label = f"{method}, mean {mean(values):.3f}"
            axes.plot(values, range(len(order)), marker, ms=5, alpha=0.8, label=label)
        axes.set_yticks(range(len(order)), [name.replace("_", " ") for name in order], fontsize=7)
        axes.set(title=f"{heading} ({len(part)})", xlabel="accuracy", ylim=(-0.7, len(order) - 0.3))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2)
    figure.savefig(path)


def plot_groups(groups: Mapping[str, dict], gaps: Mapping[str, dict], path: Path) -> None:
    """A row a group with its 95 % interval, a panel a figure, divisions apart from each other.

    groups, gaps: of :func:`faceattr.evaluation.groups.by_groups`. The path's suffix says the format.
    """
    figures = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}
    figure = new_figure(9, 1.4 + 0.32 * len(groups) + 0.12 * len(gaps))
    grid = figure.subplots(1, 2, sharey=True)
    places, below, titles, place = {}, {}, list(groups), 0.0
    for division in gaps:
        for title in list(titles):
            if "+".join(name.removeprefix("not ") for name in title.split(", ")) == division:
                places[title] = place
                titles.remove(title)
                place += 1
        below[division] = place - 0.38
        place += 0.4
    for axes, (key, heading) in zip(grid, figures.items(), strict=True):
        for title, at in places.items():
            value, bounds = groups[title]["mean"][key], groups[title]["intervals"][key]
            if value is None:
                continue
            if bounds is not None:
                axes.plot(bounds, [at, at], color="tab:blue", lw=2, alpha=0.6)
            axes.plot(value, at, "o", color="tab:blue")
        for division, gap in gaps.items():
            if gap[key] is None:
                continue
            bounds = gap[key]["interval"]
            between = f" ({bounds[0]:.3f} to {bounds[1]:.3f})" if bounds is not None else ""
            ends = [groups[gap[key][end]]["mean"][key] for end in ("worse", "better")]
            rows = [places[gap[key][end]] for end in ("worse", "better")]
            axes.annotate("", (ends[1], rows[1]), (ends[0], rows[0]), arrowprops={"arrowstyle": "->", "alpha": 0.5})
            text = f"{division}: {gap[key]['gap']:.3f}{between}"
            axes.text(0.02, below[division], text, fontsize=7, transform=axes.get_yaxis_transform())
        axes.set(xlabel=f"{heading}, mean over attributes, 95 %")
        axes.grid(axis="x", alpha=0.3)
        axes.margins(x=0.15)
    grid[0].set_yticks(list(places.values()), [f"{title} ({groups[title]['n']})" for title in places], fontsize=8)
    grid[0].set_ylim(place, -0.7)
    figure.savefig(path)
