"""Fig. 13: accuracy against the number of training pictures: SVMs on frozen features and on what the baselines see."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from faceattr.data.tagged import TaggedPictures
from faceattr.evaluation.attributes import mean
from faceattr.evaluation.baselines import Placement, check_known
from faceattr.evaluation.facetracer import FaceTracer
from faceattr.evaluation.panda import Panda
from faceattr.explain.faces import aligned_face
from faceattr.explain.inputs import choose_pictures, read_faces, read_localiser, read_nets
from faceattr.explain.output import make_folder, new_figure, save_figure, write_csv, write_json
from faceattr.explain.probes import Halves, check_tags, figures, halves, probe

SHARES = (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
DRAWS = 3
LEAST = 10
"""Pictures below which nothing is fitted."""

Learner = Callable[[Halves], list[dict]]
"""Learns from the rows to fit; gives :func:`faceattr.explain.probes.figures` on the rows to test."""


@dataclass(frozen=True)
class Point:
    """Mean accuracy over the attributes of a method that learnt from so many pictures; low to high: over draws."""

    method: str
    pictures: int
    accuracy: float
    low: float
    high: float


def measure(method: str, learner: Learner, pictures: TaggedPictures, rows: Halves, quiet: bool = True) -> list[Point]:
    """Points of what learns from shares of the rows to fit, each drawn DRAWS times.

    People are drawn, with all their pictures, where they are known: pictures of one person resemble each other.
    """
    people = _people(pictures)
    known = np.unique(people[rows.fit])
    points = []
    draws = [(share, draw) for share in SHARES for draw in range(DRAWS if share < 1 else 1)]
    results: dict[float, list[tuple[int, float]]] = {}
    for share, draw in tqdm(draws, desc=method, unit="fit", disable=quiet, dynamic_ncols=True):
        drawn = np.random.default_rng(draw).permutation(known)[: round(share * len(known))]
        fit = rows.fit[np.isin(people[rows.fit], drawn)]
        if len(fit) >= LEAST:
            accuracy = mean(row["accuracy"] for row in learner(Halves(fit, rows.test)))
            results.setdefault(share, []).append((len(fit), accuracy))
    for result in results.values():
        counts, values = zip(*result, strict=True)
        points.append(Point(method, round(mean(counts)), mean(values), min(values), max(values)))
    return points


def baseline(name: str, pictures: TaggedPictures, placement: Placement, quiet: bool = True) -> Learner:
    """FaceTracer or PANDA, with the SVMs that ANet's features are probed with in place of their own.

    Raises:
        ValueError: an unknown tag, which PANDA's nets cannot learn from.
    """
    if name == "panda":
        check_known(name, pictures)
    method = FaceTracer() if name == "facetracer" else Panda()
    names = tqdm(pictures.names, name, unit="picture", disable=quiet, dynamic_ncols=True)
    described = np.stack([method.describe(placement(pictures.folder, picture)) for picture in names])
    if isinstance(method, FaceTracer):
        return partial(probe, described, pictures)
    people = _people(pictures)

    def learn(rows: Halves) -> list[dict]:
        aside = method.fit_nets(described[rows.fit], pictures.tags[rows.fit], people[rows.fit])
        used = np.concatenate([rows.fit[aside], rows.test])
        places = np.arange(len(used))
        halves = Halves(places[: -len(rows.test)], places[-len(rows.test) :])
        return probe(method.features(described[used]), pictures.select(used), halves)

    return learn


def _people(pictures: TaggedPictures) -> np.ndarray:
    return np.arange(len(pictures)) if pictures.identities is None else pictures.identities


def read_points(path: Path) -> list[Point]:
    """Points from results that are there.

    path: a CSV with the columns method, pictures, accuracy (0 to 1); or what `faceattr evaluate --format json
    --baseline NAME` printed, for its baselines; or the folder of a run of `training/finetune_anet.py`, whose
    anet.safetensors tells the pictures and whose log.csv the last validation accuracy.

    Raises:
        ValueError: none of these; the message names the file, and the line where it is a CSV.
    """
    if path.is_dir():
        return [_of_run(path)]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: cannot be read ({error}); give a CSV, a JSON of evaluate or a run's folder"
        ) from None
    return _of_json(path, text) if path.suffix == ".json" else _of_csv(path, text)


def _of_csv(path: Path, text: str) -> list[Point]:
    reader = csv.DictReader(text.splitlines())
    if not {"method", "pictures", "accuracy"} <= set(reader.fieldnames or ()):
        raise ValueError(f"{path}, line 1: the columns method, pictures and accuracy are needed")
    points = []
    for row in reader:
        try:
            point = _measured(row["method"], int(row["pictures"]), float(row["accuracy"]))
        except (TypeError, ValueError):
            raise ValueError(f"{path}, line {reader.line_num}: pictures or accuracy is no number") from None
        if point.pictures < 1 or not 0 <= point.accuracy <= 1:
            raise ValueError(f"{path}, line {reader.line_num}: needed are pictures from 1 on, an accuracy from 0 to 1")
        points.append(point)
    if not points:
        raise ValueError(f"{path}: has no row but the header")
    return points


def _of_json(path: Path, text: str) -> list[Point]:
    try:
        baselines = json.loads(text)["baselines"]
        points = [_measured(name, row["training"], row["mean"]["accuracy"]) for name, row in baselines.items()]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: not what `faceattr evaluate --format json` prints") from None
    if not points:
        raise ValueError(f"{path}: holds no baseline; run `faceattr evaluate --format json --baseline NAME`")
    return points


def _of_run(path: Path) -> Point:
    try:
        with safe_open(path / "anet.safetensors", "pt") as file:
            pictures = json.loads(file.metadata()["faceattr"])["pictures"]
        with open(path / "log.csv", newline="") as file:
            values = [float(row["value"]) for row in csv.DictReader(file) if row["figure"] == "validation_accuracy"]
        return _measured("fine-tuned", pictures, values[-1])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
        problem = "not the folder of a finished run of finetune_anet.py"
        raise ValueError(f"{path}: {problem} (anet.safetensors, log.csv: {error!r})") from None


def _measured(method: str, pictures: int, accuracy: float) -> Point:
    return Point(method, pictures, accuracy, accuracy, accuracy)


def draw(points: Sequence[Point], majority: float | None) -> Figure:
    """The figure: a curve a method, with the range of its draws; dotted: always the more frequent answer."""
    figure = new_figure(6.5, 4.5)
    axes = figure.subplots()
    for method in dict.fromkeys(point.method for point in points):
        curve = sorted((point for point in points if point.method == method), key=lambda point: point.pictures)
        sizes = [point.pictures for point in curve]
        line = axes.plot(sizes, [point.accuracy for point in curve], "o-", ms=4, label=method)[0]
        ranges = [point.low for point in curve], [point.high for point in curve]
        axes.fill_between(sizes, *ranges, color=line.get_color(), alpha=0.2)
    if majority is not None:
        axes.axhline(majority, color="black", ls=":", lw=1, label="more frequent answer")
    axes.set(xlabel="training pictures", ylabel="accuracy, mean over attributes", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def run(options: argparse.Namespace) -> None:
    """Accuracy against the number of training pictures; see `faceattr.explain.size`."""
    output = make_folder(options.output)
    points, majority = [point for path in options.results for point in read_points(path)], None
    if options.root is not None:
        nets = read_nets(options)
        pictures = choose_pictures(options, probed=True)
        check_tags(pictures)
        faces = read_faces(options, nets, pictures)
        rows = halves(faces.pictures)
        majority = mean(
            row["majority"]
            for row in figures(np.zeros((len(rows.test), len(pictures.attributes))), faces.pictures, rows.test)
        )
        measured = []
        for (title, net), crops in zip(nets.items(), faces.crops, strict=True):
            learner = partial(probe, net.features(crops, options.quiet), faces.pictures)
            method = "SVMs on frozen features" + (f", {title}" if len(nets) > 1 else "")
            measured += measure(method, learner, faces.pictures, rows, options.quiet)
        aligned = options.crop == "aligned"
        for name in options.baseline:
            placement = Placement(aligned_face(pictures)) if aligned else Placement(model=read_localiser(options))
            learner = baseline(name, faces.pictures, placement, options.quiet)
            measured += measure(name, learner, faces.pictures, rows, options.quiet)
        points = measured + points
    write_csv(output / "size.csv", [asdict(point) for point in points])
    write_json(output / "size.json", {"majority": majority, "points": [asdict(point) for point in points]})
    for point in points:
        print(f"{point.method}: {point.pictures} pictures, accuracy {point.accuracy:.3f}")
    save_figure(draw(points, majority), output, "size", options.format)
