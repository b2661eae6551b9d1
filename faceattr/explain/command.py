"""`faceattr explain WHAT`: the paper's findings on any checkpoint and any folder."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

from faceattr.arguments import add_device, positive

FORMATS = ("png", "svg", "pdf")

# torch and what needs it are imported when the command runs, so that --help answers at once.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands, each with `run` set to the function that takes the parsed options."""
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")

    neurons = _add(kinds, "neurons", 2000, "Fig. 8: mean faces and concepts of single neurons")
    neurons.add_argument("--neurons", type=_numbers, metavar="N,N", help="these (default: the most selective)")
    neurons.add_argument(
        "--top",
        type=positive,
        metavar="N",
        help="mean faces of so many strongest, middle and weakest responses (default: a third each, or as many as have "
        "the neuron's concept, or lack it, where these are fewer)",
    )
    _add_before(neurons, "also these weights beside, such as those before fine-tuning")

    layers = _add(kinds, "layers", 2000, "Fig. 9: attributes read off FC, C4 and C3")
    _add_before(layers, "also these weights beside, such as those before fine-tuning")

    groups = _add(kinds, "groups", 20_000, "Fig. 10: attributes that are decided alike")
    groups.add_argument("--groups", type=positive, default=6, metavar="K", help="how many (default: 6)")
    groups.add_argument("--dendrogram", action="store_true", help="also draw how the attributes join one by one")

    regions = _add(kinds, "regions", 100, "Fig. 11: where on the face each attribute is decided", root=False)
    regions.add_argument("photos", nargs="*", metavar="PHOTO", help="why the faces of these photos got their labels")
    regions.add_argument("--attributes", type=_names, metavar="A,B", help="of photos: these instead of the labels")

    maps = _add(kinds, "maps", 20, "Fig. 2, 4, 6, 14: response maps, density peaks, offsets", root=False)
    maps.add_argument("photos", nargs="*", metavar="PHOTO", help="photos, a sheet each (or a folder with --root)")

    size = _add(kinds, "size", 3500, "Fig. 13: accuracy against the number of training pictures", root=False)
    _add_before(size, "also SVMs on the features of these weights")
    size.add_argument(
        "--baseline",
        action="append",
        default=[],
        choices=("facetracer", "panda"),
        metavar="NAME",
        help="also SVMs on what facetracer or panda sees of the same faces; may be repeated",
    )
    size.add_argument(
        "--results",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="add what was measured before: a CSV method,pictures,accuracy, a JSON of `faceattr evaluate --baseline`, "
        "or the folder of a fine-tuning run; may be repeated",
    )

    compare = _add(kinds, "compare", 500, "two checkpoints over one folder, as a page")
    _add_before(compare, "the weights to compare with", required=True)
    compare.add_argument("--shown", type=positive, default=60, metavar="K", help="faces in the page (default: 60)")


def _add(kinds, name: str, pictures: int, help: str, root: bool = True) -> argparse.ArgumentParser:
    kind = kinds.add_parser(name, help=help, description=help + ".")
    kind.add_argument(
        "--root",
        type=Path,
        required=root,
        metavar="DIR",
        help="CelebA, LFWA, pictures with a CSV of tags, or pictures alone",
    )
    kind.add_argument(
        "--weights", metavar="W", help="checkpoint, or anet.safetensors of training (default: the bundled checkpoint)"
    )
    kind.add_argument("--output", type=Path, required=True, metavar="DIR", help="pictures, CSV and JSON go here")
    kind.add_argument(
        "--crop",
        choices=("aligned", "detect"),
        help="the pictures are aligned faces, or photos in which the best face is taken (default: aligned for CelebA)",
    )
    kind.add_argument(
        "--pictures",
        type=positive,
        default=pictures,
        metavar="N",
        help=f"at most so many, evenly (default: {pictures})",
    )
    kind.add_argument(
        "--format",
        choices=FORMATS,
        default="png",
        help="of the pictures: png for screens, svg or pdf for papers (default: png)",
    )
    kind.add_argument("--skip-missing", action="store_true", help="leave out pictures that are listed but not there")
    add_device(kind)
    kind.add_argument("--workers", type=positive, default=2, metavar="N", help="decoding threads (default: 2)")
    kind.add_argument("--quiet", action="store_true", help="no progress and no notes on stderr")
    kind.set_defaults(run=_run)
    return kind


def _add_before(parser: argparse.ArgumentParser, help: str, required: bool = False) -> None:
    parser.add_argument("--before", required=required, metavar="W", help=help)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers N,N") from None


def _run(options: argparse.Namespace) -> int:
    """What the file of that name does with the options; its findings go to stdout."""
    _check(options)
    try:
        # Whatever is missing must be told before minutes of work, not when it comes to the picture.
        importlib.import_module("matplotlib")
        what = importlib.import_module(f"faceattr.explain.{options.what}")
    except ModuleNotFoundError as error:
        raise ValueError(f'explain needs {error.name}, which is missing; pip install "faceattr[train]"') from None
    what.run(options)
    return 0


def _check(options: argparse.Namespace) -> None:
    """ValueError for options that do not go together or name what is not there, before anything is loaded."""
    if options.what in ("regions", "maps") and bool(options.photos) == (options.root is not None):
        raise ValueError(f"{options.what}: give photos, or a folder with --root")
    if options.what == "regions" and options.attributes and not options.photos:
        raise ValueError("--attributes: choose them for photos; over a folder all are written")
    if options.what == "size" and options.root is None and (options.baseline or not options.results):
        raise ValueError("size: give a folder of faces with --root, or measured --results, or both")
    if options.what == "groups" and options.groups < 2:
        raise ValueError(f"--groups {options.groups}: give two or more")
    if options.root is not None and not options.root.is_dir():
        raise ValueError(f"{options.root}: no such folder; --root takes a folder of pictures")
    files = {"--weights": options.weights, "--before": getattr(options, "before", None)}
    for name, path in files.items():
        if path is not None and not Path(path).exists():
            raise ValueError(f"{name} {path}: no such file or folder")
    for path in [*getattr(options, "photos", ()), *getattr(options, "results", ())]:
        if not Path(path).exists():
            raise ValueError(f"{path}: no such file")
    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"--output {options.output}: is a file; give a folder")
    if options.device != "auto" and not re.fullmatch(r"(cpu|cuda)(:\d+)?", options.device):
        raise ValueError(f"--device {options.device}: use cpu, cuda, cuda:N or auto")
