"""The command line: `faceattr predict | detect | evaluate | explain | export | info`."""

import argparse
import importlib
import os
import signal
import sys
import warnings
from contextlib import closing, nullcontext
from itertools import chain
from pathlib import Path

from faceattr import __version__
from faceattr.arguments import positive
from faceattr.evaluation import command as evaluation_command
from faceattr.explain import command as explain_command

# torch and the pipeline are imported when a command runs, so that --help and wrong options answer at once.

EXIT_SOME_FAILED, EXIT_NOT_STARTED = 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. Exit status: 0, or 1 when a picture failed, 2 when nothing could start."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a file name may hold what the terminal cannot show
    try:
        return options.run(options)
    except BrokenPipeError:
        # `| head` has what it wanted. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except ValueError as error:
        print(f"faceattr: {error}", file=sys.stderr)
        return EXIT_NOT_STARTED


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
    predict.set_defaults(run=_predict)

    detect = commands.add_parser("detect", help="boxes of faces alone", description="Boxes of faces alone.")
    _add_pictures(detect)
    _add_engine(detect)
    detect.set_defaults(run=_predict, attributes=None, exclude=None, thresholds="accuracy")

    evaluate = commands.add_parser("evaluate", help="figures on labelled pictures", description="Figures on labels.")
    evaluation_command.add_arguments(evaluate)

    explain = commands.add_parser(
        "explain", help="what the nets have learnt", description="What the nets have learnt, as the paper's figures."
    )
    explain_command.add_arguments(explain)

    export = commands.add_parser(
        "export", help="the nets as ONNX files", description="The nets as ONNX files, for use without torch."
    )
    export.add_argument("--format", choices=("onnx",), default="onnx")
    export.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the files go")
    _add_weights(export)
    export.set_defaults(run=_export)

    info = commands.add_parser("info", help="versions, devices and what the weights say of themselves")
    _add_weights(info)
    info.add_argument("--device", default="auto", help="cpu, cuda or auto (default: cuda where there is one)")
    info.add_argument(
        "--benchmark",
        nargs="?",
        const="",
        metavar="PHOTO",
        help="also time the cascade on a photo at 300x300 pixels (default: scikit-image's astronaut)",
    )
    info.set_defaults(run=_info)
    return parser


def _add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", metavar="W", help="checkpoint file or its folder (default: the bundled one)")


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="picture, or folder to walk")
    parser.add_argument("--format", choices=("table", "json", "jsonl", "csv"), default="table")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="also write annotated photos, response maps and a page of all photos here",
    )
    _add_weights(parser)
    parser.add_argument(
        "--min-score", type=float, default=0.0, metavar="S", help="leave out faces below this score, 0 to 1"
    )
    parser.add_argument("--max-faces", type=positive, metavar="K", help="at most the K best faces of a photo")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default: cuda where there is one)")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="faces a batch (default: 32)")
    parser.add_argument("--workers", type=positive, default=2, metavar="N", help="threads, a photo each (default: 2)")
    parser.add_argument("--quiet", action="store_true", help="no progress and no notes on stderr")


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
    return [name.strip() for name in text.split(",") if name.strip()]


def _predict(options: argparse.Namespace) -> int:
    if options.engine == "ray":
        return _predict_on_ray(options)
    from PIL import Image
    from tqdm import tqdm

    from faceattr.gallery import Gallery
    from faceattr.images import find_pictures
    from faceattr.pipeline import Prediction, find_weights, load
    from faceattr.records import RecordWriter

    # Bombs are refused by name; Pillow's warning below that size would only spoil the progress bar.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
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
    found = {path: list(find_pictures(path)) for path in options.paths}
    photos = [photo for pictures in found.values() for photo in pictures]
    empty = [Prediction(path, error=f"{path}: no pictures in this folder") for path in found if not found[path]]
    if not options.quiet:
        print(f"faceattr {__version__} on {model.device}, weights {weights}", file=sys.stderr)

    detect_only = options.command == "detect"
    columns = () if detect_only else model.attributes
    gallery = Gallery(options.output, photos, columns) if options.output else None
    stream = model.iter_predict(photos, detect_only=detect_only, batch_size=options.batch_size, workers=options.workers)
    progress = tqdm(total=len(photos) + len(empty), unit="photo", disable=options.quiet, dynamic_ncols=True)
    failed = 0
    writer = RecordWriter(sys.stdout, options.format, columns)
    with closing(stream), progress, writer, gallery or nullcontext():
        for prediction in chain(empty, stream):
            if prediction.error is not None:
                failed += 1
                tqdm.write(f"faceattr: {prediction.error}", file=sys.stderr)
            # Where results and progress share a terminal, the bar makes room.
            with tqdm.external_write_mode() if sys.stdout.isatty() else nullcontext():
                writer.write(prediction)
            if gallery is not None and prediction.photo is not None:
                gallery.write(prediction)
            progress.update()
    if gallery is not None and not options.quiet:
        print(f"faceattr: pictures are in {options.output}, gallery.html shows them all", file=sys.stderr)
    return EXIT_SOME_FAILED if failed else 0


def _predict_on_ray(options: argparse.Namespace) -> int:
    from faceattr.images import find_pictures
    from faceattr.ray import predict_parts

    if options.output is None:
        raise ValueError("--engine ray: give the folder for its parts with --output")
    done = predict_parts(
        [photo for path in options.paths for photo in find_pictures(path)],
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
        kept = f", {done.kept_parts} parts were there before" if done.kept_parts else ""
        print(
            f"faceattr: {done.photos} photos, {done.failed} failed{kept}; parts are in {options.output}",
            file=sys.stderr,
        )
    return EXIT_SOME_FAILED if done.failed else 0


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
    from faceattr.export import export_onnx
    from faceattr.models.checkpoint import load_checkpoint
    from faceattr.pipeline import find_weights

    for path in export_onnx(load_checkpoint(find_weights(options.weights)), options.output):
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
