"""What the commands write: pictures for people, CSV and JSON for programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure


def make_folder(path: Path) -> Path:
    """The folder, made if need be; ValueError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot be made a folder ({error}); choose another with --output") from None
    return path


class FreeNames:
    """Files of a folder whose names are told apart by a number, however often a stem comes."""

    def __init__(self, folder: Path):
        self._folder, self._taken = folder, set()

    def path(self, stem: str, suffix: str) -> Path:
        number, name = 1, f"{stem}.{suffix}"
        while name.casefold() in self._taken:
            number += 1
            name = f"{stem}-{number}.{suffix}"
        self._taken.add(name.casefold())
        return self._folder / name


def new_figure(width: float, height: float) -> Figure:
    """An empty matplotlib figure of so many inches."""
    return Figure(figsize=(width, height), dpi=160, layout="constrained")


def save_figure(figure: Figure, folder: Path, name: str, format: str) -> Path:
    """Writes the figure to a file of that name and format ("png", "svg", "pdf") in the folder; the file."""
    path = folder / f"{name}.{format}"
    # Text stays text in vector formats; no date, so that the same figure is the same file.
    with rc_context({"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "faceattr"}):
        figure.savefig(path, metadata={"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[format])
    return path


def write_csv(path: Path, rows: Sequence[dict]) -> None:
    """A row a dict, whose keys are the columns; numbers with six digits, None an empty cell, no row no file content."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def write_json(path: Path, content: dict) -> None:
    """JSON with arrays as lists and NaN as null."""
    path.write_text(json.dumps(_plain(content), indent=1) + "\n", encoding="utf-8")


def spoken(name: str) -> str:
    """An attribute's name for people."""
    return name.replace("_", " ")


def _cell(value):
    return f"{value:.6g}" if isinstance(value, float | np.floating) else value


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return round(value, 6) if np.isfinite(value) else None
    return value
