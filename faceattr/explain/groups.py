"""Fig. 10: attributes that the net decides alike, by k-means over the weights of their decisions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_samples

from faceattr.explain.inputs import choose_pictures, labels_of, read_faces, read_nets
from faceattr.explain.output import make_folder, new_figure, save_figure, spoken, write_csv, write_json


@dataclass(frozen=True)
class Groups:
    """A attributes in K groups.

    group: [A], 0 to K - 1, numbered by the first attribute in each. silhouette: [A], -1 to 1.
    silhouettes: mean silhouette by number of groups, K and others.
    """

    group: np.ndarray
    silhouette: np.ndarray
    silhouettes: dict[int, float]


def directions(weights: np.ndarray) -> np.ndarray:
    """Unit vectors [A, F] of decision planes: how alike two attributes are decided must not go by their margins.

    weights: [A, F]; a plane without weights stays 0.
    """
    lengths = np.linalg.norm(weights, axis=1, keepdims=True)
    return np.divide(weights, lengths, out=np.zeros_like(weights), where=lengths > 0)


def group(vectors: np.ndarray, count: int) -> Groups:
    """k-means of vectors [A, F] into `count` groups.

    Raises ValueError unless 2 <= count < A.
    """
    if not 2 <= count < len(vectors):
        raise ValueError(f"{count} groups of {len(vectors)} attributes: give from 2 to {len(vectors) - 1}")
    labels = _k_means(vectors, count)
    samples = silhouette_samples(vectors, labels)
    tried = sorted({*range(2, min(13, len(vectors))), count})
    silhouettes = {k: float(silhouette_samples(vectors, _k_means(vectors, k)).mean()) for k in tried}
    return Groups(labels, samples, silhouettes)


def _k_means(vectors: np.ndarray, count: int) -> np.ndarray:
    labels = KMeans(count, n_init=50, random_state=0).fit_predict(vectors)
    _, first = np.unique(labels, return_index=True)
    return np.argsort(np.argsort(first))[labels]


def co_occurrence(tags: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Correlation [A, A] of tags [N, A] over the rows where both are known; 0 where one never changes."""
    valid = known.astype(float)
    positive = tags * valid
    n, both = valid.T @ valid, positive.T @ positive
    first, second = positive.T @ valid, valid.T @ positive
    variance = (first * (n - first)) * (second * (n - second))
    return np.divide(n * both - first * second, np.sqrt(variance), out=np.zeros_like(n), where=variance > 0)


def agreement(vectors: np.ndarray, together: np.ndarray) -> float:
    """Correlation over pairs of attributes of how alike their planes are with how often they occur together."""
    pairs = np.triu_indices(len(vectors), 1)
    alike = (vectors @ vectors.T)[pairs]
    if np.ptp(alike) == 0 or np.ptp(together[pairs]) == 0:
        return 0.0
    return float(np.corrcoef(alike, together[pairs])[0, 1])


def order_of(groups: Groups) -> np.ndarray:
    """[A]: the attributes by group, in each by falling silhouette."""
    return np.lexsort((-groups.silhouette, groups.group))


def draw(groups: Groups, vectors: np.ndarray, together: np.ndarray, names: Sequence[str]) -> Figure:
    """The figure: the groups with their silhouettes, how alike the planes are, and how often tags occur together."""
    order = order_of(groups)
    sorted_groups = groups.group[order]
    edges = np.flatnonzero(np.diff(sorted_groups)) + 0.5
    figure = new_figure(20, 2.4 + 0.15 * len(names))
    bars, alike, occur = figure.subplots(1, 3, width_ratios=(0.55, 1, 1))
    colours = [f"C{number % 10}" for number in sorted_groups]
    bars.barh(range(len(order)), groups.silhouette[order], color=colours)
    bars.set_yticks(range(len(order)), [spoken(names[i]) for i in order], fontsize=8)
    for label, colour in zip(bars.get_yticklabels(), colours, strict=True):
        label.set_color(colour)
    bars.set(
        title=f"{groups.group.max() + 1} groups of decision planes", xlabel="silhouette", ylim=(len(order) - 0.5, -0.5)
    )
    for number in np.unique(sorted_groups):
        place = np.flatnonzero(sorted_groups == number).mean()
        bars.text(
            0.98, place, f"#{number + 1}", transform=bars.get_yaxis_transform(), va="center", ha="right", weight="bold"
        )
    for axes, matrix, title in (
        (alike, vectors @ vectors.T, "cosine between decision planes"),
        (occur, together, "co-occurrence: correlation of the tags"),
    ):
        image = axes.imshow(matrix[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set_title(title)
        axes.set_xticks(range(len(order)), [spoken(names[i]) for i in order], rotation=90, fontsize=7)
        axes.set_yticks(range(len(order)), [spoken(names[i]) for i in order], fontsize=7)
        for edge in edges:
            axes.axhline(edge, color="black", lw=0.7)
            axes.axvline(edge, color="black", lw=0.7)
    figure.colorbar(image, ax=occur, shrink=0.6)
    return figure


def draw_dendrogram(vectors: np.ndarray, names: Sequence[str]) -> Figure:
    """The attributes joined one by one, by the mean distance of their planes' unit vectors (average linkage)."""
    from scipy.cluster.hierarchy import dendrogram, linkage

    figure = new_figure(8, 1.2 + 0.19 * len(names))
    axes = figure.subplots()
    joined = linkage(vectors, "average")
    dendrogram(joined, labels=[spoken(name) for name in names], orientation="right", ax=axes, leaf_font_size=8)
    axes.set_xlabel("distance of the decision planes' unit vectors")
    return figure


def run(options: argparse.Namespace) -> None:
    """Attributes decided alike; see `faceattr.explain.groups`."""
    output = make_folder(options.output)
    nets = read_nets(options)
    (net,) = nets.values()
    vectors = directions(net.deciding().weight.double().cpu().numpy())
    found = group(vectors, options.groups)
    pictures = choose_pictures(options)
    if not set(net.attributes) <= set(pictures.attributes):
        # Not all of the tags are known: what the net itself says stands for them.
        faces = read_faces(options, nets, pictures)
        tags, known, _ = labels_of(net, faces.crops[0], options)
    else:
        pictures = pictures.columns(net.attributes)
        tags, known = pictures.tags, pictures.known
    together = co_occurrence(tags, known)
    alike = agreement(vectors, together)
    order = order_of(found)
    write_csv(
        output / "groups.csv",
        [
            {
                "attribute": net.attributes[i],
                "group": int(found.group[i]) + 1,
                "silhouette": float(found.silhouette[i]),
                "share": float(tags[known[:, i], i].mean()) if known[:, i].any() else None,
            }
            for i in order
        ],
    )
    members = {
        int(number) + 1: [net.attributes[i] for i in order if found.group[i] == number]
        for number in np.unique(found.group)
    }
    write_json(
        output / "groups.json",
        {
            "file": str(net.path),
            "pictures": len(tags),
            "groups": members,
            "silhouettes": found.silhouettes,
            "agreement": alike,
            "attributes": net.attributes,
            "cosine": vectors @ vectors.T,
            "co_occurrence": together,
        },
    )
    for number, names in members.items():
        print(f"#{number}: {', '.join(names)}")
    print(f"cosines of decision planes and co-occurrence of tags correlate with {alike:.2f}")
    save_figure(draw(found, vectors, together, net.attributes), output, "groups", options.format)
    if options.dendrogram:
        save_figure(draw_dendrogram(vectors, net.attributes), output, "dendrogram", options.format)
