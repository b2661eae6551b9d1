"""Fig. 8: which concepts single neurons of the fully connected layer stand for, and how sparsely they answer."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from faceattr.data.tagged import TaggedPictures
from faceattr.evaluation.attributes import mean
from faceattr.explain.inputs import choose_pictures, read_faces, read_nets, tags_or_labels
from faceattr.explain.output import make_folder, new_figure, save_figure, spoken, write_csv, write_json
from faceattr.explain.probes import Halves, fit_probes, halves, probe

SHOWN = 8
"""Neurons in the picture, where none are asked for."""
STRONG = 0.5
"""Correlation from which on a neuron is counted as standing for its concept."""
TOP = 0.1
"""Share of the neurons that are kept, as in the paper's remark on sparsity."""


@dataclass(frozen=True)
class Neurons:
    """What N faces tell of F neurons and A attributes.

    correlation: [F, A], of a neuron's response with an attribute's tag; 0 where either never changes.
    concept: [F], the attribute with the largest absolute correlation.
    active: [F], share of the faces to which the neuron responds at all.
    active_a_face: mean share of the neurons that respond to a face.
    """

    correlation: np.ndarray
    concept: np.ndarray
    active: np.ndarray
    active_a_face: float

    @property
    def strength(self) -> np.ndarray:
        """[F]: the correlation with the neuron's concept, signed."""
        return self.correlation[np.arange(len(self.concept)), self.concept]

    def most_selective(self, count: int) -> np.ndarray:
        """Neurons in falling absolute correlation with their concept, one a concept."""
        order = np.argsort(-np.abs(self.strength), kind="stable")
        first = np.unique(self.concept[order], return_index=True)[1]
        return order[np.sort(first)][:count]


def measure(features: np.ndarray, tags: np.ndarray, known: np.ndarray) -> Neurons:
    """features [N, F], at least 0; tags and known [N, A] bool, where unknown tags do not count."""
    correlation = np.zeros((features.shape[1], tags.shape[1]))
    for column in range(tags.shape[1]):
        rows = known[:, column]
        responses = features[rows] - features[rows].mean(0) if rows.any() else features[:0]
        truth = tags[rows, column] - tags[rows, column].mean() if rows.any() else np.zeros(0)
        scale = np.sqrt((responses**2).sum(0) * (truth**2).sum())
        correlation[:, column] = np.divide(truth @ responses, scale, out=np.zeros_like(scale), where=scale > 1e-12)
    active = features > 0
    return Neurons(correlation, np.abs(correlation).argmax(1), active.mean(0), float(active.mean()))


def mean_faces(crops: np.ndarray, responses: np.ndarray, count: int) -> list[np.ndarray]:
    """Mean faces of the `count` strongest, of as many middle and as many weakest of N responses: uint8 [h, w, 3] each,
    of crops [N, h, w, 3].

    Raises ValueError for fewer than three times as many faces.
    """
    if len(crops) < 3 * count or count < 1:
        raise ValueError(f"{len(crops)} faces have no {count} strongest, middle and weakest; give more faces, or --top")
    order = np.argsort(-responses, kind="stable")
    middle = (len(order) - count) // 2
    parts = order[:count], order[middle : middle + count], order[-count:]
    return [crops[np.sort(part)].mean(0).round().astype(np.uint8) for part in parts]


def faces_a_mean(tags: np.ndarray, known: np.ndarray) -> int:
    """How many faces to average of N, for a concept with tags and known [N] bool: a third, or as many as have it, or
    lack it, where these are fewer. Of a rare concept, the strongest third would be mostly faces without it."""
    fewer = min((tags & known).sum(), (~tags & known).sum())
    return max(1, min(len(tags) // 3, int(fewer) or len(tags)))


def kept_by_the_few(features: np.ndarray, pictures: TaggedPictures, rows: Halves) -> dict[str, float]:
    """Accuracy of linear classifiers, mean over attributes, on all neurons and on a tenth of them.

    "all": on every neuron. "a_face": each face keeps its strongest tenth of responses, the others are put to 0.
    "an_attribute": each attribute keeps the tenth of the neurons that weigh most in its classifier on all, with the
    neurons' standard deviation taken into account. "majority": of always giving the more frequent answer.
    """
    count = max(1, round(TOP * features.shape[1]))
    least_kept = -np.partition(-features, count - 1, axis=1)[:, count - 1 : count]
    strongest = np.where(features >= least_kept, features, 0)
    # Weights count by how far their neuron's response moves them.
    influence = np.abs(fit_probes(features, pictures, rows.fit)[0]) * features[rows.fit].std(0)
    of_attributes = []
    for name, row in zip(pictures.attributes, influence, strict=True):
        heaviest = np.argsort(-row, kind="stable")[:count]
        of_attributes += probe(features[:, heaviest], pictures.columns([name]), rows)
    on_all = probe(features, pictures, rows)
    return {
        "all": mean(row["accuracy"] for row in on_all),
        "a_face": mean(row["accuracy"] for row in probe(strongest, pictures, rows)),
        "an_attribute": mean(row["accuracy"] for row in of_attributes),
        "majority": mean(row["majority"] for row in on_all),
    }


def draw(
    columns: Sequence[tuple[str, Neurons, np.ndarray, list[list[np.ndarray]], list[int]]], names: Sequence[str]
) -> Figure:
    """The figure: for each net (title, its neurons, the chosen ones, their mean faces, of how many) a block, side by
    side."""
    rows = max(len(chosen) for _, _, chosen, _, _ in columns)
    figure = new_figure(6.4 * len(columns), 0.9 + 1.22 * rows)
    blocks = figure.subfigures(1, len(columns), squeeze=False)[0]
    for block, (title, neurons, chosen, faces, counts) in zip(blocks, columns, strict=True):
        block.suptitle(f"{title}: mean faces by a neuron's response")
        grid = block.subplots(rows, 4, squeeze=False, width_ratios=(2.2, 1, 1, 1))
        for axes in grid.flat:
            axes.axis("off")
        for row, (neuron, thirds, count) in enumerate(zip(chosen, faces, counts, strict=True)):
            sign, concept = neurons.strength[neuron], spoken(names[neurons.concept[neuron]])
            text = (
                f"neuron {neuron}\n{concept}, r = {sign:+.2f}\nanswers {neurons.active[neuron]:.0%}\nmeans of {count}"
            )
            grid[row, 0].text(1, 0.5, text, ha="right", va="center", transform=grid[row, 0].transAxes)
            for axes, face in zip(grid[row, 1:], thirds, strict=True):
                axes.imshow(face)
        for axes, third in zip(grid[0, 1:], ("strongest", "middle", "weakest"), strict=True):
            axes.set_title(third, fontsize=10)
    return figure


def run(options: argparse.Namespace) -> None:
    """Mean faces and concepts of neurons; see `faceattr.explain.neurons`."""
    output = make_folder(options.output)
    nets = read_nets(options)
    faces = read_faces(options, nets, choose_pictures(options, probed=True))
    # A net before fine-tuning has no labels: those of the last net stand for missing tags.
    tags, known, names = tags_or_labels(faces.pictures, list(nets.values())[-1], faces.crops[-1], options)
    columns, rows, notes = [], [], {}
    for (title, net), crops in zip(nets.items(), faces.crops, strict=True):
        features = net.responses(crops, options.quiet)["fc"]
        found = measure(features, tags, known)
        chosen = found.most_selective(SHOWN) if options.neurons is None else options.neurons
        missing = [number for number in chosen if not 0 <= number < features.shape[1]]
        if missing:
            raise ValueError(f"--neurons: {net.path} has no neuron {missing[0]}; give 0 to {features.shape[1] - 1}")
        concepts = [found.concept[number] for number in chosen]
        counts = [options.top or faces_a_mean(tags[:, i], known[:, i]) for i in concepts]
        means = [mean_faces(crops, features[:, i], n) for i, n in zip(chosen, counts, strict=True)]
        columns.append((title, found, chosen, means, counts))
        rows += [
            {
                "weights": title,
                "neuron": number,
                "attribute": names[found.concept[number]],
                "correlation": float(found.strength[number]),
                "active": float(found.active[number]),
            }
            for number in range(features.shape[1])
        ]
        kept = None
        if faces.pictures.attributes:
            kept = kept_by_the_few(features, faces.pictures, halves(faces.pictures))
        strong, concepts = int((np.abs(found.strength) > STRONG).sum()), len(set(found.concept.tolist()))
        notes[title] = {
            "file": str(net.path),
            "faces": len(faces),
            "active_a_face": found.active_a_face,
            "concepts": concepts,
            "strong": strong,
            "accuracy": kept,
            "chosen": chosen,
            "faces_a_mean": counts,
        }
        print(
            f"{title}: {found.active_a_face:.0%} of {features.shape[1]} neurons respond to a face; {strong} correlate "
            f"by more than {STRONG} with their concept; {concepts} attributes are a neuron's concept"
        )
        for number in chosen:
            print(f"  neuron {number}: {names[found.concept[number]]} {found.strength[number]:+.2f}")
        if kept is not None:
            print(
                f"  accuracy of linear classifiers {kept['all']:.3f}; on the strongest tenth of each face "
                f"{kept['a_face']:.3f}, on the heaviest tenth for each attribute {kept['an_attribute']:.3f}; "
                f"more frequent answer {kept['majority']:.3f}"
            )
    write_csv(output / "neurons.csv", rows)
    write_json(output / "neurons.json", notes)
    save_figure(draw(columns, names), output, "neurons", options.format)
