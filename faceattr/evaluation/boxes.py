"""Localisation against boxes, which measure and are never learnt from: recall against overlap, false boxes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from faceattr.data.table import read_table
from faceattr.localization import box_iou

COLUMNS = ("image", "x0", "y0", "x1", "y1", "label")


@dataclass(frozen=True)
class TrueBoxes:
    """What is marked in one photo: `boxes` float [n, 4] (x0, y0, x1, y1 in pixels) and their `labels`."""

    image: str
    boxes: np.ndarray
    labels: tuple[str, ...]

    def labelled(self, labels: Iterable[str]) -> np.ndarray:
        """The boxes with one of `labels`."""
        return self.boxes[[label in set(labels) for label in self.labels]]


def read_boxes(path: str | Path) -> list[TrueBoxes]:
    """Read a table with the columns image, x0, y0, x1, y1, label, a box a row; one entry a photo, in the file's order.

    A missing column, a value that is no number and a box without area raise ValueError with file and line.
    """
    rows: dict[str, list[tuple[list[float], str]]] = {}
    table = read_table(Path(path), "the CSV of boxes")
    places = [table.find(name) for name in COLUMNS]
    if None in places:
        missing = COLUMNS[places.index(None)]
        raise ValueError(f"{path}, line 1: column {missing!r} is missing, expected {', '.join(COLUMNS)}")
    for line, values in table.rows:
        image, *edges, label = (values[place] for place in places)
        try:
            box = [float(edge) for edge in edges]
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}; four numbers are expected") from error
        if not (box[2] > box[0] and box[3] > box[1]):
            raise ValueError(f"{path}, line {line}: the box {box} has no area")
        rows.setdefault(image, []).append((box, label))
    return [
        TrueBoxes(image, np.array([box for box, _ in found]), tuple(label for _, label in found))
        for image, found in rows.items()
    ]


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [n, 4] and [m, 4]: [n, m]."""
    a, b = (np.asarray(x, dtype=np.float64).reshape(-1, 4) for x in (a, b))
    return box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()


def largest(boxes: np.ndarray) -> np.ndarray:
    """The box with the largest area, [1, 4]; [0, 4] when there is none."""
    if not len(boxes):
        return boxes
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return boxes[[area.argmax()]]


def best_overlaps(targets: Sequence[np.ndarray], proposals: Sequence[np.ndarray]) -> np.ndarray:
    """For every target box of every photo the best overlap with any of that photo's proposals (0 without one)."""
    best = [
        overlaps(target, found).max(1) if len(found) else np.zeros(len(target))
        for target, found in zip(targets, proposals, strict=True)
        if len(target)
    ]
    return np.concatenate(best) if best else np.zeros(0)


def recall_curve(best: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Share of targets found at each overlap threshold (Fig. 7); NaN when there is no target."""
    if not len(best):
        return np.full(len(thresholds), np.nan)
    return (best[:, None] >= np.asarray(thresholds)).mean(0)


def precision(truth: Sequence[np.ndarray], proposals: Sequence[np.ndarray], threshold: float = 0.3) -> float:
    """Share of all proposals that lie on some marked face at `threshold`; NaN when nothing is proposed."""
    hits = [
        overlaps(found, boxes).max(1) >= threshold if len(boxes) else np.zeros(len(found), dtype=bool)
        for boxes, found in zip(truth, proposals, strict=True)
        if len(found)
    ]
    return float(np.concatenate(hits).mean()) if hits else float("nan")


def share_with_proposal(proposals: Sequence[np.ndarray]) -> float:
    """Share of photos that got a proposal: for photos without a face, the false alarms."""
    return float(np.mean([len(found) > 0 for found in proposals])) if len(proposals) else float("nan")


def centre_box(width: int, height: int, share: float = 0.5, aspect: float = 1.38) -> np.ndarray:
    """The baseline that looks at nothing: a box of `share` of the photo's height in its middle, [1, 4]."""
    half = np.array([height * share / aspect, height * share]) / 2
    middle = np.array([width, height]) / 2
    return np.concatenate([middle - half, middle + half])[None]


def false_boxes_per_photo(
    truth: Sequence[np.ndarray], proposals: Sequence[np.ndarray], threshold: float = 0.5
) -> float:
    """Mean number, over all photos, of proposals that overlap no marked face by `threshold`; NaN without a photo."""
    count = sum(map(len, proposals))
    right = round(precision(truth, proposals, threshold) * count) if count else 0
    return (count - right) / len(proposals) if len(proposals) else float("nan")
