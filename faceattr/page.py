"""A page of photos with their faces that needs nothing but itself: pictures are inside, filters work offline."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

PICTURE_SIDE = 400
"""Longest side of a picture in the page, in pixels."""


@dataclass(frozen=True)
class PageFace:
    """A face of a photo in a page.

    box: x0, y0, x1, y1 in parts of the photo's width and height; None where the photo is the face.
    labels, values: for each column of the page whether each attribute holds, and its probability.
    notes: what else is to be said of it.
    """

    box: Sequence[float] | None
    labels: Sequence[Sequence[bool]]
    values: Sequence[Sequence[float]]
    notes: Sequence[str] = ()


class Page:
    """Writes one HTML file, a photo at a time, in memory that does not grow; it appears when the context is left.

    A page that cannot be completed (the disk is full, say) leaves nothing behind; the error is a ValueError.

    columns: what the probabilities are of: one name, or two for a comparison, whose changes are then shown.
    table: rows of text, the first the header, shown above the photos.
    """

    def __init__(
        self,
        path: Path,
        title: str,
        attributes: Sequence[str],
        columns: Sequence[str] = ("probability",),
        table: Sequence[Sequence[str]] = (),
    ):
        self._path = path
        template = resources.files("faceattr").joinpath("page.html").read_text(encoding="utf-8")
        # A plain replacement of the markers: what replaces one is not searched for the next.
        head, self._tail = template.split("{{photos}}")
        settings = {"attributes": list(attributes), "columns": list(columns)}
        parts = {"title": html.escape(title), "table": _table(table), "settings": _json(settings)}
        pieces = head.split("{{")
        head = pieces[0] + "".join(parts[name] + rest for name, rest in (piece.split("}}", 1) for piece in pieces[1:]))
        if os.path.lexists(path) and not os.path.isfile(path):  # a device, say: it would be replaced
            raise ValueError(f"{path}: is there and no file; choose another name")
        try:
            # A name of its own: two programs may write the same page, of which the last one then stays.
            handle, self._partial = tempfile.mkstemp(".partial", f".{path.name}.", path.parent)
            os.chmod(self._partial, 0o666 & ~_umask())
            self._file = open(handle, "w", encoding="utf-8")
            self._file.write(head)
        except OSError as error:
            raise self._unwritten(error) from error

    def __enter__(self) -> Page:
        return self

    def __exit__(self, raised: type[BaseException] | None, *_) -> None:
        # Also after an interruption: what is there makes a page.
        try:
            try:
                self._file.write(self._tail)
            finally:
                self._file.close()
            os.replace(self._partial, self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(self._partial)
            if raised is None:  # what was raised before says more
                raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> ValueError:
        return ValueError(f"{self._path}: cannot be written ({error.strerror}); choose another folder")

    def add(self, name: str, pixels: np.ndarray, faces: Sequence[PageFace]) -> None:
        """One more photo: its name, its pixels, uint8 RGB [H, W, 3], which are reduced, and its faces."""
        photo = {
            "name": os.fsencode(name).decode(errors="replace"),  # a file name need not be text
            "image": _data_uri(pixels),
            "faces": [
                {
                    "box": None if face.box is None else [round(100 * edge, 2) for edge in _as_span(face.box)],
                    "labels": [[int(label) for label in column] for column in face.labels],
                    "values": [[round(float(value), 3) for value in column] for column in face.values],
                    "notes": list(face.notes),
                }
                for face in faces
            ],
        }
        try:
            self._file.write(f'<script type="application/json" class="photo">{_json(photo)}</script>\n')
        except OSError as error:
            raise self._unwritten(error) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _as_span(box: Sequence[float]) -> tuple[float, ...]:
    x0, y0, x1, y1 = box
    return x0, y0, x1 - x0, y1 - y0


def _data_uri(pixels: np.ndarray) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _json(content: dict) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _table(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [
        "<tr>" + "".join(f"<{cell}>{html.escape(text)}</{cell}>" for text in row) + "</tr>"
        for cell, row in zip(["th", *["td"] * (len(rows) - 1)], rows, strict=True)
    ]
    return "<table>" + "\n".join(lines) + "</table>"
