"""`faceattr evaluate celeba | lfwa | csv | boxes`: the model's figures on labelled pictures of one's own."""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from faceattr.arguments import PRECISIONS, add_stream, add_weights, positive

if TYPE_CHECKING:
    import torch

    from faceattr.data.tagged import TaggedPictures
    from faceattr.evaluation.predict import Probabilities
    from faceattr.models.checkpoint import Checkpoint
    from faceattr.pipeline import FaceAttributes

# torch and what needs it are imported when the command runs, so that --help answers at once.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands, each with `run` set to the function that takes the parsed options."""
    kinds = parser.add_subparsers(dest="data", required=True, metavar="DATA")
    for name, help in (
        ("celeba", "CelebA: official text files or Kaggle's CSV"),
        ("lfwa", "LFWA or LFWA+ (.mat)"),
        ("csv", "one's own: a CSV with the columns image and attributes, or age"),
    ):
        kind = kinds.add_parser(name, help=help, description=f"Attributes on {help}.")
        _add_common(kind)
        _add_attributes(kind, name)
    boxes = kinds.add_parser(
        "boxes", help="localisation against boxes", description="Localisation against a CSV image,x0,y0,x1,y1,label."
    )
    _add_common(boxes)
    boxes.add_argument("--labels", type=Path, metavar="FILE", help="the CSV (default: the only one in DIR)")
    boxes.add_argument("--targets", metavar="A,B", help="labels of the boxes to be found (default: all)")
    boxes.add_argument("--largest", action="store_true", help="only the largest target of each photo is to be found")
    boxes.add_argument("--min-score", type=float, default=0.0, metavar="S", help="leave out faces below this score")
    boxes.add_argument("--photos", type=positive, metavar="N", help="at most so many, evenly (default: all)")
    boxes.add_argument(
        "--detector",
        action="append",
        choices=("haar", "hog", "blazeface"),
        default=[],
        help="also a detector that learnt from boxes: OpenCV's Haar cascade, dlib's HOG, MediaPipe's BlazeFace; may be "
        "repeated",
    )
    boxes.add_argument(
        "--beside",
        action="append",
        default=[],
        type=_titled,
        metavar="TITLE=W",
        help="also other weights: a checkpoint, or lnet.safetensors of training, which then does both LNets' work, or "
        "two with a comma; may be repeated",
    )
    boxes.add_argument("--plot", type=Path, metavar="FILE", help="also draw recall against overlap (.png, .svg, .pdf)")
    boxes.set_defaults(run=run_boxes)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder of the labels and pictures")
    add_weights(parser)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument(
        "--precision",
        choices=(*PRECISIONS, "int8"),
        default="auto",
        help="dtype of localisation (default: what suits the device and the weights)",
    )
    add_stream(parser)


def _add_attributes(parser: argparse.ArgumentParser, data: str) -> None:
    parser.add_argument(
        "--partition",
        type=int,
        choices=(0, 1, 2),
        default=None if data == "csv" else 2,
        help="0 train, 1 validation, 2 test (default: %(default)s)" if data != "csv" else "default: every row",
    )
    parser.add_argument(
        "--crop",
        choices=("aligned", "detect"),
        default="aligned" if data == "celeba" else "detect",
        help="the pictures are aligned faces, or whole photos in which the best face is taken (default: %(default)s)",
    )
    parser.add_argument(
        "--face",
        type=_fractions,
        metavar="X0,Y0,X1,Y1",
        help="with --crop aligned: crown to chin in parts of the picture (default: as in CelebA's, or LFW's, pictures)",
    )
    parser.add_argument(
        "--thresholds",
        choices=("accuracy", "balanced", "0.5"),
        default="accuracy",
        help="those of the weights for accuracy or balanced accuracy, or 0.5 (default: %(default)s)",
    )
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE", help="write a CSV: image, a probability an attribute"
    )
    parser.add_argument(
        "--baseline",
        action="append",
        choices=("facetracer", "panda-l", "panda-w"),
        metavar="NAME",
        help="also train, on partition 0, and measure facetracer, panda-l or panda-w; may be repeated",
    )
    parser.add_argument(
        "--baseline-pictures",
        type=positive,
        default=3000,
        metavar="N",
        help="of partition 0, at most, for them (default: 3000)",
    )
    parser.add_argument(
        "--by",
        type=_tags,
        default=[],
        metavar="A,B",
        help="also the means of pictures with each of these tags and of those without it, and how far they are "
        "apart; A+B: of the four groups by two; in a CSV any column",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw every attribute by method (.png, .svg, .pdf)")
    parser.add_argument("--plot-groups", type=Path, metavar="FILE", help="draw the groups of --by and their gaps")
    parser.add_argument(
        "--learn",
        action="store_true",
        help="first fit new SVMs for all of the data's attributes on partition 0, on the frozen features",
    )
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        type=_titled,
        metavar="TITLE=W",
        help="also other weights, a checkpoint or anet.safetensors of training, measured alike; may be repeated",
    )
    parser.add_argument("--skip-missing", action="store_true", help="leave out pictures that are listed but not there")
    if data == "celeba":
        parser.add_argument(
            "--split", choices=("official", "paper"), default="official", help="paper: its 8,000/1,000/1,000 people"
        )
    if data != "csv":
        parser.add_argument("--images", metavar="FOLDER", help="subfolder of the pictures (default: the official name)")
    if data != "celeba":
        parser.add_argument("--labels", type=Path, metavar="FILE", help="label file (default: the one in DIR)")
    parser.set_defaults(run=run_attributes)


def _tags(text: str) -> list[list[str]]:
    """Names with commas between, each alone or several joined by +."""
    return [division.split("+") for division in text.split(",")]


def _titled(text: str) -> tuple[str, str]:
    title, equals, weights = text.partition("=")
    if not (title and equals and weights):
        raise argparse.ArgumentTypeError(f"{text!r} is not TITLE=W")
    return title, weights


def _fractions(text: str) -> tuple[float, ...]:
    try:
        x0, y0, x1, y1 = box = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not four numbers X0,Y0,X1,Y1") from None
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise argparse.ArgumentTypeError(f"{text!r}: needed are 0 <= X0 < X1 <= 1 and 0 <= Y0 < Y1 <= 1")
    return box


def run_attributes(options: argparse.Namespace) -> int:
    """Evaluates attributes; what is asked for goes to stdout."""
    from faceattr.attributes import TABLE_1
    from faceattr.data.table import plain
    from faceattr.evaluation.predict import ALIGNED_FACES, write_predictions
    from faceattr.evaluation.report import report
    from faceattr.models.checkpoint import load_checkpoint
    from faceattr.pipeline import choose_device, find_weights

    if options.plot_groups and not options.by:
        raise ValueError("--plot-groups: name the tags that groups go by with --by")
    if options.plot or options.plot_groups:
        from faceattr.evaluation.plots import new_figure

        new_figure(1, 1)  # what is missing is told before minutes of work
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = read_data(options)
    for warning in caught:
        _note(options, str(warning.message))
    weights = find_weights(options.weights)
    device = choose_device(options.device)
    checkpoint = load_checkpoint(weights, device)
    _note(options, f"{len(data)} pictures of {data.folder}, {device}, weights {weights}")
    dtype = _localization_dtype(options, checkpoint, device)
    # However they are written, as names in tables may be.
    known = {plain(name): name for name in data.attributes}
    absent = [name for division in options.by for name in division if plain(name) not in known]
    if absent:
        raise ValueError(f"--by: {options.root} has no tag {absent[0]!r}; it has {', '.join(data.attributes)}")
    options.by = [[known[plain(name)] for name in division] for division in options.by]
    tags = data.columns(list(dict.fromkeys(name for division in options.by for name in division)))
    aligned = options.face or ALIGNED_FACES["lfwa" if options.data == "lfwa" else "celeba"]
    face = aligned if options.crop == "aligned" else None
    beside = {title: read_other(path, checkpoint) for title, path in options.beside}
    result, model, predicted = evaluate_checkpoint(options, checkpoint, data, face, dtype, tags)
    data = data.columns(model.attributes)
    if options.predictions is not None:
        write_predictions(options.predictions, data.names, predicted.values, model.attributes)
    others = {title: evaluate_other(options, title, other, data, face, dtype) for title, other in beside.items()}
    others |= evaluate_baselines(options, data, model, aligned) if options.baseline else {}
    paper = TABLE_1.get({"celeba": "CelebA", "lfwa": "LFWA"}.get(options.data, ""), {})
    if options.plot:
        from faceattr.evaluation.plots import plot_attributes

        plot_attributes(result, others, options.plot)
    if options.plot_groups:
        from faceattr.evaluation.plots import plot_groups

        plot_groups(result["groups"], result["gaps"], options.plot_groups)
    print(report(result, options.format, paper, others))
    return 0


def evaluate_checkpoint(
    options: argparse.Namespace, checkpoint: Checkpoint, data: TaggedPictures, face, dtype, tags: TaggedPictures
) -> tuple[dict, FaceAttributes, Probabilities]:
    """The result of a checkpoint, or with --learn of new SVMs on its features; the model; what it says of the data.

    Where the data tell ages and the weights do, "age" of the result is as of
    :func:`faceattr.evaluation.ages.evaluate_ages`, else None.
    """
    import numpy as np

    from faceattr.attributes import AGE
    from faceattr.evaluation.ages import evaluate_ages
    from faceattr.evaluation.attributes import calibrated_error, evaluate
    from faceattr.evaluation.groups import by_groups
    from faceattr.evaluation.predict import predict_pictures
    from faceattr.evaluation.report import share_of_positives
    from faceattr.pipeline import FaceAttributes

    def look_at(model: FaceAttributes, pictures: TaggedPictures, prior: np.ndarray) -> Probabilities:
        how = {"batch_size": options.batch_size, "workers": options.workers, "quiet": options.quiet}
        return predict_pictures(model, pictures.paths, prior, face, **how)

    aged = data.ages is not None and checkpoint.age is not None
    if data.ages is not None and not aged:
        _note(options, "the weights tell no ages: the column of ages is left out")
    learnt = None
    if options.learn and data.attributes:
        from faceattr.train.own import fit_own

        training = _learning(options, "--learn").columns(data.attributes)
        model = FaceAttributes(checkpoint, localization_dtype=dtype)
        seen = look_at(model, training, np.full(len(model.attributes), 0.5))  # of which the features are wanted
        checkpoint, _ = fit_own(checkpoint, training, seen)
        learnt = int(seen.found.sum())
    names = checkpoint.metadata["attributes"]
    shared = [name for name in names if name in data.attributes]
    if not shared and not aged:
        raise ValueError(f"the weights know none of the attributes of {options.root}; they know {', '.join(names)}")
    asked = [option for option in ("learn", "baseline", "by", "plot") if getattr(options, option)]
    if not shared and asked:
        raise ValueError(f"--{asked[0]}: {options.root} has ages, but no attribute that the weights know")
    unknown = [name for name in data.attributes if name not in [*shared, *tags.attributes]]
    if unknown:
        _note(options, f"attributes that the weights do not know are left out: {', '.join(unknown)}")
    data = data.columns(shared)
    model = FaceAttributes(checkpoint, attributes=[*shared, AGE] if aged else shared, localization_dtype=dtype)
    if options.thresholds == "0.5":
        thresholds = [0.5] * len(shared)
    else:
        of = dict(zip(names, checkpoint.metadata["thresholds"][options.thresholds], strict=True))
        thresholds = [of[name] for name in shared]
    predicted = look_at(model, data, share_of_positives(data))
    result = evaluate(predicted.values, data.tags, thresholds, shared, data.known, data.identities)
    result["ece_of_calibrated"] = calibrated_error(predicted.values, data.known)
    result["not_found"] = int(np.sum(~predicted.found))
    result["learnt"] = learnt
    result["age"] = evaluate_ages(predicted.ages, data.ages) if aged else None
    found = predicted.found
    result["groups"], result["gaps"] = by_groups(predicted.values, data, thresholds, found, tags, options.by)
    return result, model, predicted


def read_other(path: str, checkpoint: Checkpoint) -> Checkpoint:
    """Other weights; an ANet alone sees the faces that those of `checkpoint` find."""
    from faceattr.explain.nets import is_anet_alone
    from faceattr.models.checkpoint import load_checkpoint
    from faceattr.pipeline import find_weights
    from faceattr.train.own import with_anet

    if is_anet_alone(path):
        return with_anet(checkpoint, path)
    return load_checkpoint(find_weights(path), checkpoint.anet.head.weight.device)


def evaluate_other(
    options: argparse.Namespace, title: str, other: Checkpoint, data: TaggedPictures, face, dtype
) -> dict:
    """The result of other weights, measured as the main ones."""
    quiet = argparse.Namespace(**{**vars(options), "by": []})
    result, model, _ = evaluate_checkpoint(quiet, other, data, face, dtype, data.columns([]))
    if set(model.attributes) != set(data.attributes):
        raise ValueError(
            f"--beside {title}: knows other attributes than the weights; --learn fits SVMs for all of them"
        )
    attributes = {name: result["attributes"][name] for name in data.attributes}
    return {**result, "attributes": attributes, "training": result["learnt"]}


def _learning(options: argparse.Namespace, option: str) -> TaggedPictures:
    """What partition 0 has; what is missing of it does no harm."""
    if not options.partition:
        raise ValueError(f"{option}: it learns from partition 0; measure on another with --partition")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_data(argparse.Namespace(**{**vars(options), "partition": 0, "skip_missing": True}))


def evaluate_baselines(
    options: argparse.Namespace, data: TaggedPictures, model: FaceAttributes, face
) -> dict[str, dict]:
    """The results of the methods asked for, trained on partition 0."""
    import numpy as np

    from faceattr.data.celeba import read_landmarks
    from faceattr.evaluation.baselines import Placement, evaluate_baseline

    aligned = options.crop == "aligned"
    landmarks = read_landmarks(options.root, aligned) if options.data == "celeba" else None
    if not aligned and landmarks is None and any(name != "panda-w" for name in options.baseline):
        problem = "facetracer and panda-l need --crop aligned or CelebA's file of landmarks; panda-w does not"
        raise ValueError(f"{options.root}: {problem}")
    training = _learning(options, "--baseline").columns(data.attributes)
    count = min(options.baseline_pictures, len(training))
    training = training.select(np.linspace(0, len(training) - 1, count).astype(int))
    results = {}
    for name in options.baseline:
        placement = Placement(model=model) if name == "panda-w" else Placement(face, landmarks)
        results[name] = evaluate_baseline(name, training, data, placement, options.thresholds, options.quiet)
    return results


def read_data(options: argparse.Namespace) -> TaggedPictures:
    """The pictures to evaluate."""
    from faceattr.data.celeba import read_celeba
    from faceattr.data.lfwa import read_lfwa
    from faceattr.data.tag_csv import read_tag_csv

    if options.data == "celeba":
        images = options.images or ("img_align_celeba" if options.crop == "aligned" else "img_celeba")
        return read_celeba(options.root, images, options.skip_missing, options.split, options.partition)
    if options.data == "lfwa":
        if options.labels is not None and options.labels.suffix != ".mat":
            data = read_tag_csv(_csv_file(options), _csv_root(options), options.skip_missing)
        else:
            data = read_lfwa(options.root, options.labels, options.images, options.skip_missing)
    else:
        data = read_tag_csv(_csv_file(options), _csv_root(options), options.skip_missing)
    return data if options.partition is None else data.partition(options.partition)


def _localization_dtype(
    options: argparse.Namespace, checkpoint: Checkpoint, device: torch.device
) -> torch.dtype | None:
    """As :class:`FaceAttributes` takes it: None where each checkpoint chooses for itself. Notes what this one does."""
    from faceattr.localization import LocalizerSettings
    from faceattr.precision import compute_dtype

    measured = LocalizerSettings(**checkpoint.metadata["preprocessing"]["localization"]).integers
    dtype, why = compute_dtype(device, options.precision, integers=measured or options.precision == "int8")
    _note(options, f"localisation in {dtype}: {why}")
    return None if options.precision == "auto" else dtype


def run_boxes(options: argparse.Namespace) -> int:
    """Evaluates localisation; what is asked for goes to stdout."""
    import numpy as np

    from faceattr.evaluation.boxes import read_boxes
    from faceattr.evaluation.localization import evaluate_boxes, plot_boxes, report_boxes
    from faceattr.models.checkpoint import load_checkpoint
    from faceattr.pipeline import choose_device, find_weights

    weights = find_weights(options.weights)
    photos = read_boxes(_csv_file(options))
    if options.photos:
        photos = [photos[i] for i in np.linspace(0, len(photos) - 1, min(options.photos, len(photos))).astype(int)]
    device = choose_device(options.device)
    checkpoint = load_checkpoint(weights, device)
    _note(options, f"{len(photos)} photos of {_csv_root(options)}, {device}, weights {weights}")
    dtype = _localization_dtype(options, checkpoint, device)
    result = evaluate_boxes(
        checkpoint,
        photos,
        _csv_root(options),
        options.targets.split(",") if options.targets else None,
        options.largest,
        min_score=options.min_score,
        localization_dtype=dtype,
        others={title: read_localisation(path, checkpoint) for title, path in options.beside},
        detectors=options.detector,
        workers=options.workers,
        quiet=options.quiet,
    )
    if options.plot is not None:
        plot_boxes(result, options.plot)
    print(report_boxes(result, options.format))
    return 0


def read_localisation(path: str, checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint; or the given one with other LNets, one file for both or two with a comma."""
    from faceattr.models.checkpoint import load_checkpoint
    from faceattr.models.lnet import LNet
    from faceattr.pipeline import find_weights
    from faceattr.train.face import by_lnets
    from faceattr.train.loop import load_model

    device = checkpoint.anet.head.weight.device
    files = path.split(",")
    try:
        nets = [load_model(LNet, Path(file))[0].fold_batch_norm().to(device) for file in (files[0], files[-1])]
    except (ValueError, TypeError):
        if len(files) > 1:
            raise
        return load_checkpoint(find_weights(path), device)
    return by_lnets(replace(checkpoint, lnet_o=nets[0], lnet_s=nets[1]))


def _csv_root(options: argparse.Namespace) -> Path:
    return options.root.parent if options.root.is_file() else options.root


def _csv_file(options: argparse.Namespace) -> Path:
    """--root itself where it is a file or a dataset; --labels, as it is or below --root; or the only CSV in it."""
    from faceattr.data.hub import is_dataset

    if options.root.is_file() or is_dataset(options.root):
        return options.root
    if options.labels is not None:
        below = options.root / options.labels
        return below if below.exists() else options.labels
    files = sorted(options.root.glob("*.csv"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"{options.root}: which CSV? There are {names}; give one with --labels")
    return files[0]


def _note(options: argparse.Namespace, text: str) -> None:
    if not options.quiet:
        print(f"faceattr: {text}", file=sys.stderr)
