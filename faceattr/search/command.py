"""The commands `faceattr index`, `search` and `serve`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from faceattr.arguments import add_device, add_stream, add_weights, positive

_PATHS = {"paths": "\n", "paths0": "\0"}
"""Formats of paths alone, and what each path ends with: names of files may hold line ends."""


def add_arguments(commands) -> None:
    """Adds the three commands; what they need is imported when one runs."""
    index = commands.add_parser(
        "index", help="the faces of collections into a file to search", description="Indexes collections of photos."
    )
    index.add_argument("paths", nargs="+", metavar="PATH", help="folder to walk, or picture")
    index.add_argument("--db", required=True, metavar="FILE", help="the index, a SQLite file; made where there is none")
    index.add_argument("--follow-links", action="store_true", help="also walk folders that are links")
    add_weights(index)
    add_stream(index)
    index.set_defaults(run=_index)

    search = commands.add_parser(
        "search",
        help="photos of an index by what their faces are like",
        description="Searches an index: Smiling and (Eyeglasses or Wearing_Hat>0.9) and not Young and faces>=2. "
        "All terms speak of the same face; an attribute alone holds where its label does. Where the weights tell ages, "
        "also age<30, in years, and age_low, age_high.",
    )
    search.add_argument("db", metavar="FILE", help="an index that `faceattr index` made")
    search.add_argument("query", nargs="?", default="", help="default: all photos")
    search.add_argument("--name", default="", metavar="TEXT", help="also this is in the photo's path")
    search.add_argument("--order", choices=("probability", "path", "time"), default="probability")
    search.add_argument("--limit", type=positive, metavar="N", help="at most N photos")
    search.add_argument("--thresholds", choices=("accuracy", "balanced"), default="accuracy")
    search.add_argument(
        "--format",
        choices=("table", "json", "jsonl", "csv", *_PATHS, "none"),
        default="table",
        help="paths0: paths that end with NUL instead of a line's end, for xargs -0 (default: %(default)s)",
    )
    search.add_argument("--page", type=Path, metavar="FILE", help="also a page of the photos, which works offline")
    search.add_argument(
        "--links", type=Path, metavar="DIR", help="also a folder of links to the photos, in their order"
    )
    search.set_defaults(run=_search)

    serve = commands.add_parser(
        "serve", help="a page to look and search in an index", description="Serves a page to look and search with."
    )
    serve.add_argument("db", metavar="FILE", help="an index that `faceattr index` made")
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; others than this machine need a token"
    )
    serve.add_argument("--port", type=int, default=8765, help="0: any free one (default: %(default)s)")
    serve.add_argument("--token", help="what others than this machine have to know (default: made anew)")
    serve.add_argument("--weights", metavar="W", help="for photos that are dropped on the page and for explanations")
    add_device(serve)
    serve.set_defaults(run=_serve)


def _index(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from faceattr.cli import name_warnings
    from faceattr.collection import collect
    from faceattr.pipeline import find_weights, load
    from faceattr.records import printable
    from faceattr.search.index import Index

    name_warnings(options.quiet)
    weights = find_weights(options.weights)
    model = load(weights, device=options.device)
    with Index(options.db) as index:
        found = collect(options.paths, follow_links=options.follow_links)
        if not options.quiet:
            print(f"faceattr: on {model.device}, weights {weights}", file=sys.stderr)
            for note in found.notes():
                print(f"faceattr: {printable(note)}", file=sys.stderr)
        done = None
        total = len(found.pictures) + len(found.errors)
        updates = index.update_found(
            model, found, options.paths, batch_size=options.batch_size, workers=options.workers
        )
        with tqdm(total=total, unit="photo", disable=options.quiet, dynamic_ncols=True) as progress:
            for update in updates:
                done, error = update
                if error is not None:
                    tqdm.write(f"faceattr: {printable(error)}", file=sys.stderr)
                progress.update()
        if not options.quiet:
            print(f"faceattr: {done or 'no photos'}; {options.db}: {_counts(index)}", file=sys.stderr)
    return 1 if done is not None and done.failed else 0


def _counts(index) -> str:
    counts = index.counts()
    more = "".join(f", {counts[name]} {name}" for name in ("unreadable", "missing") if counts[name])
    return f"{counts['photos']} photos with {counts['faces']} faces{more}"


def _search(options: argparse.Namespace) -> int:
    from contextlib import nullcontext

    from faceattr.records import RecordWriter
    from faceattr.search.index import Index

    with Index(options.db, read_only=True) as index:
        hits = index.search(
            options.query,
            name=options.name,
            order=options.order,
            limit=options.limit,
            thresholds=options.thresholds,
        )
        links = None if options.links is None else _Links(options.links)
        page = None if options.page is None else _page(index, options)
        records = options.format not in (*_PATHS, "none")
        aged = index.tells_age
        writer = RecordWriter(sys.stdout, options.format, index.attributes, aged=aged) if records else nullcontext()
        roots, found = index.roots, False
        with writer, page or nullcontext():
            for hit in hits:
                found = True
                if records:
                    writer.write(hit.prediction)
                elif options.format in _PATHS:
                    _print_path(hit.prediction.image, _PATHS[options.format])
                if page is not None:
                    _add_to_page(page, index, hit, roots)
                if links is not None:
                    links.add(hit.prediction.image)
    sys.stdout.flush()
    if not found:
        print("faceattr: no photo fits", file=sys.stderr)
    return 0


def _print_path(path: str, end: str) -> None:
    """The bytes of a path, whatever the terminal can show: a program is to open it."""
    if hasattr(sys.stdout, "buffer"):  # a notebook's has not
        sys.stdout.buffer.write(os.fsencode(path + end))
    else:
        sys.stdout.write(path + end)


def _page(index, options: argparse.Namespace):
    from faceattr.page import Page

    return Page(options.page, options.query or "All photos", index.attributes)


def _add_to_page(page, index, hit, roots: Iterable[str]) -> None:
    import io

    import numpy as np
    from PIL import Image

    from faceattr.gallery import remarks
    from faceattr.page import PageFace

    prediction = hit.prediction
    with Image.open(io.BytesIO(index.thumbnail(hit.id))) as image:
        pixels = np.asarray(image.convert("RGB"))
    sides = (prediction.width, prediction.height) * 2
    faces = []
    for face in prediction.faces:
        box = [edge / side for edge, side in zip(face.box, sides, strict=True)]
        labels = [name in face.labels for name in index.attributes]
        values = [face.attributes.get(name, 0.0) for name in index.attributes]
        faces.append(PageFace(box, [labels], [values], remarks(face)))
    page.add(name_below(prediction.image, roots), pixels, faces)


def name_below(path: str, roots: Iterable[str]) -> str:
    """How a photo is called to others: below the folder that was indexed."""
    holding = [root for root in roots if path.startswith(os.path.join(root, ""))]
    return os.path.relpath(path, max(holding, key=len)) if holding else os.path.basename(path)


class _Links:
    """A folder of links: 00001-photo.jpg, ... Links of an earlier search are replaced; anything else is left alone."""

    def __init__(self, folder: Path):
        self._folder, self._number = folder, 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            entries = list(folder.iterdir())
            if not all(entry.is_symlink() for entry in entries):
                raise ValueError(f"{folder}: holds more than links; give an empty folder, or one of an earlier search")
            for entry in entries:
                entry.unlink()
        except OSError as error:
            raise ValueError(
                f"{folder}: cannot be made a folder of links ({error.strerror}); choose another"
            ) from error

    def add(self, path: str) -> None:
        self._number += 1
        start = f"{self._number:05}-"
        stem, suffix = os.path.splitext(os.path.basename(path))
        whole, room = os.fsencode(stem), 255 - len(start) - len(os.fsencode(suffix))
        if len(whole) > room:
            stem = whole[:room].decode(errors="ignore")  # no half of a character: not every system takes it
        try:
            (self._folder / f"{start}{stem}{suffix}").symlink_to(path)
        except OSError as error:
            raise ValueError(f"{self._folder}: cannot be linked into ({error.strerror}); choose another") from error


def _serve(options: argparse.Namespace) -> int:
    from faceattr.search.serve import run

    return run(options)
