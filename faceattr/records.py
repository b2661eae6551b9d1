"""Predictions as text: a table for people; JSON, JSON lines and CSV for programs. Each record is written at once."""

import csv
import json
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from faceattr.pipeline import Face, Prediction

FORMATS = ("table", "json", "jsonl", "csv")


class RecordWriter:
    """Writes predictions to `stream` as they come; leaving the context completes the document.

    format: one of FORMATS. attributes: the names that the CSV columns take. timed: also a column for the time, of
    videos' frames. aged: also columns for the age, of weights that tell it.
    """

    def __init__(
        self,
        stream: TextIO,
        format: str,
        attributes: Sequence[str] = (),
        timed: bool = False,
        aged: bool = False,
    ):
        self._stream, self._format = stream, format
        self._timed = timed
        self._aged = aged
        self._count = 0
        self._attributes = attributes
        write: dict[str, Callable[[Prediction], None]] = {
            "table": self._table,
            "json": self._json,
            "jsonl": self._jsonl,
            "csv": self._csv,
        }
        self._write, self._is_array = write[format], format == "json"

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        # Also after an interruption: what was written is then still one document. Only a closed pipe takes no more.
        if error and issubclass(error, BrokenPipeError):
            return
        if self._is_array:
            self._print("\n]" if self._count else "[]")
        elif not self._count:
            self._head()

    def write(self, prediction: Prediction) -> None:
        if not self._count:
            self._head()
        self._write(prediction)
        self._count += 1

    def _print(self, text: str, end: str = "\n") -> None:
        self._stream.write(text + end)
        self._stream.flush()

    def _head(self) -> None:
        if self._format == "table":
            self._print(f"{'image':<28} {'size':>11}  {'box':<23} {'score':>5}  attributes")
        elif self._format == "csv":
            box = ["x0", "y0", "x1", "y1"]
            photo = ["image", *(["time"] if self._timed else []), "width", "height"]
            age = ["age", "age_low", "age_high"] if self._aged else []
            columns = [*photo, "face", *box, "score", *age, *self._attributes, "notes", "error"]
            csv.writer(self._stream, lineterminator="\n").writerow(columns)
            self._stream.flush()

    def _json(self, prediction: Prediction) -> None:
        self._print(("," if self._count else "[") + "\n  " + json.dumps(prediction.to_dict()), end="")

    def _jsonl(self, prediction: Prediction) -> None:
        self._print(json.dumps(prediction.to_dict()))

    def _csv(self, prediction: Prediction) -> None:
        rows = csv.writer(self._stream, lineterminator="\n")
        time = [prediction.time] if self._timed else []
        record: list[Any] = [prediction.image, *time, prediction.width, prediction.height]
        for number, face in enumerate(prediction.faces, 1):
            known = [face.attributes.get(name) for name in self._attributes] if face.attributes else []
            values = ["" if value is None else f"{value:.4f}" for value in known]
            score = "" if face.score is None else f"{face.score:.4f}"
            if self._aged:
                years = [] if face.age is None else [face.age.years, face.age.low, face.age.high]
                values = [*(f"{year:.1f}" for year in years), *[""] * (3 - len(years)), *values]
            rows.writerow([*record, number, *(f"{edge:.1f}" for edge in face.box), score, *values, _notes(face), ""])
        if not prediction.faces:
            empty = 6 + len(self._attributes) + (3 if self._aged else 0)
            rows.writerow([*record, *[""] * empty, "", prediction.error or ""])
        self._stream.flush()

    def _table(self, prediction: Prediction) -> None:
        at = "" if prediction.time is None else f" at {prediction.time:g} s"
        start = f"{_shorten(printable(prediction.image), 28 - len(at)) + at:<28} "
        if prediction.error is not None:
            self._print(f"{start}{'':>11}  error: {printable(prediction.error)}")
            return
        start += f"{f'{prediction.width} x {prediction.height}':>11}  "
        if not prediction.faces:
            self._print(start + "no face")
        for face in prediction.faces:
            box = "{:.0f} {:.0f} {:.0f} {:.0f}".format(*face.box)
            score = "" if face.score is None else f"{face.score:.2f}"
            labels = ", ".join(f"{name} {face.attributes[name]:.2f}" for name in face.labels)
            if face.age is not None:
                labels = f"age {face.age}, {labels}" if labels else f"age {face.age}"
            notes = f"  ({_notes(face)})" if face.notes else ""
            self._print(f"{start}{box:<23} {score:>5}  {labels}{notes}")
            start = " " * len(start)


def printable(text: str) -> str:
    """Text for a terminal: line ends and control characters, which a file's name may hold, as escapes."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _notes(face: Face) -> str:
    return "; ".join(face.notes)


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else "..." + text[3 - length :]
