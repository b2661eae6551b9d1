"""The command line: `faceattr predict | detect | index | search | serve | evaluate | explain | export | info`."""

import argparse
import importlib
import os
import signal
import sys
import threading
import warnings
from contextlib import closing, nullcontext, suppress
from itertools import chain
from pathlib import Path

from faceattr import __version__
from faceattr.arguments import add_device, add_stream, add_weights, positive, span
from faceattr.evaluation import command as evaluation_command
from faceattr.explain import command as explain_command
from faceattr.search import command as search_command

# torch and the pipeline are imported when a command runs, so that --help and wrong options answer at once.

EXIT_SOME_FAILED, EXIT_NOT_STARTED = 1, 2
BESIDE = object()
"""Of --xmp without a folder: sidecars lie beside their photos."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. Exit status: 0, or 1 when a picture failed, 2 when nothing could start or go on."""
    _open_standard_streams()
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's has not
            stream.reconfigure(errors="backslashreplace")  # a file name may hold what the terminal cannot show
    before = _end_on_sigterm()
    try:
        return options.run(options)
    except BrokenPipeError:
        # `| head` has what it wanted. Python would complain once more when it flushes stdout at exit.
        _give_up_stdout()
        return 128 + signal.SIGPIPE
    except _Terminated:
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (ValueError, OSError) as error:
        if isinstance(error, OSError):  # a full disk below stdout, say
            _give_up_stdout()
        from faceattr.records import printable

        print(f"faceattr: {printable(str(error))}", file=sys.stderr)
        return EXIT_NOT_STARTED
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """SIGTERM: as an interruption, so that what was begun is completed."""


def _end_on_sigterm():
    """Makes SIGTERM an exception; gives the handler that was there before, None where this may not be done."""

    def end(*_):
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, end)


def _open_standard_streams() -> None:
    """Where the program was started with one of them closed: nothing else that it opens may come to be stdout."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, mode))


def _give_up_stdout() -> None:
    with suppress(OSError, ValueError):  # ValueError: it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="faceattr", description="Faces and their attributes from any photo.")
    parser.add_argument("--version", action="version", version=f"faceattr {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    predict = commands.add_parser("predict", help="faces and their attributes", description="Faces and attributes.")
    _add_pictures(predict)
    chosen = predict.add_mutually_exclusive_group()
    chosen.add_argument("--attributes", type=_names, metavar="A,B", help="only these attributes")
    chosen.add_argument("--exclude", type=_names, metavar="A,B", help="all attributes but these")
    predict.add_argument(
        "--thresholds",
        choices=("accuracy", "balanced"),
        default="accuracy",
        help="what the labels' thresholds were chosen for: plain or balanced accuracy (default: %(default)s)",
    )
    _add_engine(predict)
    sidecars = predict.add_argument_group("tags for photo managers")
    sidecars.add_argument(
        "--xmp",
        nargs="?",
        const=BESIDE,
        metavar="DIR",
        help="write an XMP sidecar beside each photo, or below DIR; one that is there is merged",
    )
    sidecars.add_argument(
        "--xmp-prefix", default="Face", metavar="NAME", help="above the labels as hierarchical keywords (default: Face)"
    )
    sidecars.add_argument(
        "--xmp-frame",
        choices=("stored", "displayed"),
        default="stored",
        help="regions of photos that EXIF turns: as the pixels are stored, which digiKam and Immich expect, or as the "
        "photo is displayed (default: %(default)s)",
    )
    predict.set_defaults(run=_predict)

    detect = commands.add_parser("detect", help="boxes of faces alone", description="Boxes of faces alone.")
    _add_pictures(detect)
    _add_engine(detect)
    detect.set_defaults(run=_predict, attributes=None, exclude=None, thresholds="accuracy", xmp=None)

    search_command.add_arguments(commands)

    evaluate = commands.add_parser("evaluate", help="figures on labelled pictures", description="Figures on labels.")
    evaluation_command.add_arguments(evaluate)

    explain = commands.add_parser(
        "explain", help="what the nets have learnt", description="What the nets have learnt, as the paper's figures."
    )
    explain_command.add_arguments(explain)

    export = commands.add_parser(
        "export",
        help="the nets as ONNX files or AOTInductor packages",
        description="The nets as ONNX files, for use without torch, or as packages that AOTInductor has compiled for "
        "this kind of machine, for use without Python.",
    )
    export.add_argument("--format", choices=("onnx", "aotinductor"), default="onnx")
    export.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the files go")
    add_weights(export)
    export.set_defaults(run=_export)

    info = commands.add_parser("info", help="versions, devices and what the weights say of themselves")
    add_weights(info)
    add_device(info)
    info.add_argument(
        "--benchmark",
        nargs="?",
        const="",
        metavar="PHOTO",
        help="also time the cascade on a photo at 300x300 pixels (default: scikit-image's astronaut)",
    )
    info.set_defaults(run=_info)
    return parser


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="picture or video, or folder to walk")
    parser.add_argument("--follow-links", action="store_true", help="also walk folders that are links")
    parser.add_argument(
        "--every",
        type=span,
        metavar="T",
        help="of videos a frame each 1s, 500ms, 2m, ... (default: 1s); of folders then also their videos",
    )
    parser.add_argument("--format", choices=("table", "json", "jsonl", "csv"), default="table")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="also write annotated photos, response maps and a page of all photos here",
    )
    add_weights(parser)
    parser.add_argument(
        "--min-score", type=float, default=0.0, metavar="S", help="leave out faces below this score, 0 to 1"
    )
    parser.add_argument("--max-faces", type=positive, metavar="K", help="at most the K best faces of a photo")
    add_stream(parser)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    ray = parser.add_argument_group("more pictures than one machine holds")
    ray.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: on Ray Data, into part files in --output; the same command goes on where it was stopped",
    )
    ray.add_argument("--parts", choices=("jsonl", "parquet"), default="jsonl", help="format of the part files")
    ray.add_argument("--part-size", type=positive, default=256, metavar="N", help="pictures a part (default: 256)")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} holds no name")
    return names


def _predict(options: argparse.Namespace) -> int:
    if options.engine == "ray":
        return _predict_on_ray(options)
    from tqdm import tqdm

    from faceattr.collection import collect
    from faceattr.gallery import Gallery
    from faceattr.pipeline import Prediction, find_weights, load
    from faceattr.records import RecordWriter, printable
    from faceattr.video import is_video

    name_warnings(options.quiet)
    weights = find_weights(options.weights)
    model = load(
        weights,
        device=options.device,
        attributes=options.attributes,
        exclude=options.exclude,
        thresholds=options.thresholds,
        min_score=options.min_score,
        max_faces=options.max_faces,
    )
    found = collect(options.paths, follow_links=options.follow_links, videos=options.every is not None)
    if not options.quiet:
        print(f"faceattr {__version__} on {model.device}, weights {weights}", file=sys.stderr)
        for note in found.notes():
            print(f"faceattr: {printable(note)}", file=sys.stderr)

    detect_only = options.command == "detect"
    columns = () if detect_only else model.attributes
    videos = any(map(is_video, found.pictures))
    gallery = Gallery(options.output, found.pictures, columns) if options.output else None
    sidecars = None
    if options.xmp is not None:
        from faceattr.xmp import Sidecars

        folder = None if options.xmp is BESIDE else Path(options.xmp)
        sidecars = Sidecars(folder, model.metadata["sha256"], options.xmp_prefix, options.xmp_frame)
        if videos and not options.quiet:
            print("faceattr: sidecars are written for photos, none for videos", file=sys.stderr)
    stream = model.iter_predict(
        found.pictures,
        detect_only=detect_only,
        batch_size=options.batch_size,
        workers=options.workers,
        every=options.every or 1.0,
        keep_photos=gallery is not None,
    )
    folders = {str(picture): folder for picture, folder in zip(found.pictures, found.folders, strict=True)}
    total = None if videos else len(found.pictures) + len(found.errors)
    progress = tqdm(total=total, unit="photo", disable=options.quiet, dynamic_ncols=True)
    failed = 0

    def report(error: object) -> None:
        nonlocal failed
        failed += 1
        tqdm.write(f"faceattr: {printable(str(error))}", file=sys.stderr)

    aged = model.tells_age and not detect_only
    writer = RecordWriter(sys.stdout, options.format, columns, timed=videos, aged=aged)
    with closing(stream), progress, writer, gallery or nullcontext():
        for prediction in chain((Prediction(path, error=error) for path, error in found.errors), stream):
            if prediction.error is not None:
                report(prediction.error)
            # Where results and progress share a terminal, the bar makes room.
            with tqdm.external_write_mode() if sys.stdout.isatty() else nullcontext():
                writer.write(prediction)
            if prediction.error is None:
                folder = folders[prediction.image]
                if gallery is not None:
                    try:
                        gallery.write(prediction, _name_in(folder, prediction))
                    except ValueError as error:  # its names are made to be writable: the next would fail as well
                        report(f"{error}; no more pictures are written")
                        gallery = _closed(gallery)
                if sidecars is not None and prediction.time is None:
                    try:
                        sidecars.write(prediction, folder)
                    except ValueError as error:
                        report(error)
            progress.update()
    if gallery is not None and not options.quiet:
        print(f"faceattr: pictures are in {options.output}, gallery.html shows them all", file=sys.stderr)
    return EXIT_SOME_FAILED if failed else 0


def _name_in(folder: Path, prediction) -> str:
    """How a page names a photo: below the folder that was given, which need not be told to whoever sees the page."""
    name = os.path.relpath(prediction.image, folder)
    return name if prediction.time is None else f"{name} at {prediction.time:g} s"


def _closed(gallery) -> None:
    with suppress(ValueError):  # it has been said
        gallery.__exit__(None, None, None)


def name_warnings(quiet: bool) -> None:
    """Warnings while a photo is decoded: with its name, or none."""
    from PIL import Image
    from tqdm import tqdm

    from faceattr.images import being_read
    from faceattr.records import printable

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        name = being_read()
        tqdm.write(f"faceattr: {printable(f'{name}: {message}' if name else str(message))}", file=sys.stderr)

    warnings.simplefilter("ignore" if quiet else "always")
    # Bombs are refused by name; the warning below that size says nothing that matters here.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    warnings.showwarning = show


def _predict_on_ray(options: argparse.Namespace) -> int:
    from faceattr.collection import collect
    from faceattr.ray import predict_parts
    from faceattr.records import printable

    if options.output is None:
        raise ValueError("--engine ray: give the folder for its parts with --output")
    for option, value in (("--xmp", options.xmp), ("--every", options.every)):
        if value is not None:
            raise ValueError(f"{option}: only with --engine local")
    found = collect(options.paths, follow_links=options.follow_links)
    for _, error in found.errors:
        print(f"faceattr: {printable(error)}", file=sys.stderr)
    done = predict_parts(
        found.pictures,
        options.output,
        options.weights,
        format=options.parts,
        part_size=options.part_size,
        workers=options.workers,
        device=options.device,
        quiet=options.quiet,
        detect_only=options.command == "detect",
        faces_a_batch=options.batch_size,
        attributes=options.attributes,
        exclude=options.exclude,
        thresholds=options.thresholds,
        min_score=options.min_score,
        max_faces=options.max_faces,
    )
    if not options.quiet:
        for note in found.notes():
            print(f"faceattr: {printable(note)}", file=sys.stderr)
        kept = f", {done.kept_parts} parts were there before" if done.kept_parts else ""
        print(
            f"faceattr: {done.photos} photos, {done.failed} failed{kept}; parts are in {options.output}",
            file=sys.stderr,
        )
    return EXIT_SOME_FAILED if done.failed or found.errors else 0


def _info(options: argparse.Namespace) -> int:
    import json

    import torch

    from faceattr.models.checkpoint import load_checkpoint
    from faceattr.pipeline import find_weights, load

    print(f"faceattr {__version__}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):
        print(f"device cuda:{index} ({torch.cuda.get_device_name(index)})")
    print(f"kernels {_build()}")
    path = find_weights(options.weights)
    print(f"weights {path}, {path.stat().st_size / 1e6:.1f} MB")
    for key, value in load_checkpoint(path).metadata.items():
        print(f"  {key}: {json.dumps(value)}")
    if options.benchmark is not None:
        from faceattr.speed import SIDE, measure, read_photo

        photo = read_photo(options.benchmark or None)
        model = load(path, device=options.device)
        speed = measure(model, photo)
        print(f"speed on {model.device}, a photo of {SIDE}x{SIDE} pixels with {speed['faces']} faces:")
        print(f"  whole cascade {speed['cascade']:.1f} ms, localisation alone {speed['localisation']:.1f} ms")
        print(f"  many photos, two threads: {speed['photos a second']:.1f} a second")
    return 0


def _export(options: argparse.Namespace) -> int:
    from faceattr.export import export_aotinductor, export_onnx
    from faceattr.models.checkpoint import load_checkpoint
    from faceattr.pipeline import find_weights

    export = export_onnx if options.format == "onnx" else export_aotinductor
    for path in export(load_checkpoint(find_weights(options.weights)), options.output):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


def _build() -> str:
    try:
        build = importlib.import_module("faceattr._build_info")
    except ImportError:
        return "not built; run pip install --no-build-isolation . in the source folder"
    cuda = build.cuda_architectures or "none"
    return f"built by compiler {build.compiler} with torch {build.torch_built_with}, CUDA architectures: {cuda}"


if __name__ == "__main__":
    sys.exit(main())
