"""Localisation of a whole set of photos against its boxes, beside a centre box and class activation maps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from faceattr.evaluation import boxes as metrics
from faceattr.evaluation.detectors import DETECTORS, framed_alike, load_detector
from faceattr.evaluation.maps import THRESHOLDS, baseline_maps, boxes_at, enlarge, max_box_acc_v2, overlaps_by_threshold
from faceattr.evaluation.plots import new_figure
from faceattr.images import load_image
from faceattr.localization import LocalizerSettings
from faceattr.models.checkpoint import Checkpoint
from faceattr.pipeline import FaceAttributes

OVERLAPS = tuple(round(0.1 * i, 1) for i in range(1, 10))


def evaluate_boxes(
    checkpoint: Checkpoint,
    photos: Sequence[metrics.TrueBoxes],
    root: Path,
    targets: Sequence[str] | None = None,
    largest: bool = False,
    *,
    min_score: float = 0.0,
    localization_dtype: torch.dtype | None = None,
    others: Mapping[str, Checkpoint] | None = None,
    detectors: Sequence[str] = (),
    workers: int = 2,
    quiet: bool = True,
) -> dict:
    """Figures of the localiser on photos whose faces are marked.

    Args:
        photos: what is marked in them; their paths are below `root`.
        targets: labels of the boxes to be found; None: all. The others are faces too, but need not be found.
        largest: only the largest target of each photo is to be found.
        min_score: proposals below it are left out.
        localization_dtype: as of :class:`FaceAttributes`.
        others: checkpoints to measure beside, by title. detectors: of :mod:`faceattr.evaluation.detectors`, beside too.

    Returns:
        "n" photos, "targets", and a value for each of "overlap": "recall" (share of targets that some proposal overlaps
        so far), "recall_best_alone" (the best proposal of each photo), "recall_response_map", "recall_mean_c5" and
        "recall_cam" (LNet_o's response map, the plain average of its C5 and class activation maps, cut at the threshold
        that does best at overlap 0.5), "recall_centre" (a box in the middle), "precision" (share of proposals on some
        marked face; None without a proposal) and "false_positives_per_image"; "max_box_acc_v2" of the proposals, of
        these maps and of the centre box; "methods", recall of all proposals by title ("LNets", others, "... response
        map", "... mean C5" and "... CAM" of the nets, detectors), the boxes of each framed alike; empty where there are
        no others and no detectors.

    Raises:
        ValueError: no photo, or one that cannot be read; the message names it.
    """
    if not photos:
        raise ValueError("evaluate_boxes: no photo")
    wanted = [photo.boxes if targets is None else photo.labelled(targets) for photo in photos]
    wanted = [metrics.largest(boxes) for boxes in wanted] if largest else wanted
    if not any(map(len, wanted)):
        labels = sorted({label for photo in photos for label in photo.labels})
        raise ValueError(f"no box with the labels {', '.join(targets or ())}; there are {', '.join(labels)}")
    paths = [root / photo.image for photo in photos]
    loaded = {name: load_detector(name) for name in detectors}
    options = {"min_score": min_score, "localization_dtype": localization_dtype}
    found, maps, sizes = _look(checkpoint, paths, "photos", workers, quiet, **options)
    best = {
        "recall": metrics.best_overlaps(wanted, found),
        "recall_best_alone": metrics.best_overlaps(wanted, [boxes[:1] for boxes in found]),
        "recall_centre": metrics.best_overlaps(wanted, [metrics.centre_box(*size) for size in sizes]),
    }
    by_threshold = {name: overlaps_by_threshold(of, wanted, sizes) for name, of in maps.items()}
    for name, values in by_threshold.items():
        best[f"recall_{name}"] = values[(values >= 0.5).mean(1).argmax()]
    marked = [photo.boxes for photo in photos]
    result = {"n": len(photos), "targets": sum(map(len, wanted)), "overlap": list(OVERLAPS)}
    result |= {name: metrics.recall_curve(values, OVERLAPS).tolist() for name, values in best.items()}
    proposed = any(map(len, found))
    result["precision"] = [metrics.precision(marked, found, overlap) for overlap in OVERLAPS] if proposed else None
    result["false_positives_per_image"] = [
        metrics.false_boxes_per_photo(marked, found, overlap) for overlap in OVERLAPS
    ]
    result["max_box_acc_v2"] = {
        "proposals": max_box_acc_v2(best["recall"][None]),
        **{name: max_box_acc_v2(values) for name, values in by_threshold.items()},
        "centre": max_box_acc_v2(best["recall_centre"][None]),
    }
    proposed_by = {"LNets": found, **_boxes_of_maps("LNets", maps, by_threshold, sizes)}
    for title, other in (others or {}).items():
        boxes, other_maps, _ = _look(other, paths, title, workers, quiet, **options)
        scores = {name: overlaps_by_threshold(of, wanted, sizes) for name, of in other_maps.items()}
        proposed_by |= {title: boxes, **_boxes_of_maps(title, other_maps, scores, sizes)}
    for name, detect in loaded.items():
        progress = tqdm(paths, desc=name, unit="photo", disable=quiet, dynamic_ncols=True)
        proposed_by[name] = [detect(load_image(path))[:, :4] for path in progress]
    result["methods"] = {}
    if others or loaded:
        proposed_by["centre box"] = [metrics.centre_box(*size) for size in sizes]
        for title, boxes in proposed_by.items():
            curve = metrics.recall_curve(metrics.best_overlaps(wanted, framed_alike(boxes, wanted)), OVERLAPS)
            result["methods"][title] = curve.tolist()
    return result


def _look(checkpoint: Checkpoint, paths: Sequence[Path], title: str, workers: int, quiet: bool, **options) -> tuple:
    """Of each photo: proposed boxes [K, 4]; maps by their names in MAPS; width and height."""
    model = FaceAttributes(checkpoint, **options)
    settings = LocalizerSettings(**checkpoint.metadata["preprocessing"]["localization"])
    found, responses, baselines, sizes = [], [], [], []
    stream = model.iter_predict(paths, detect_only=True, workers=workers, keep_photos=True)
    with closing(stream):
        progress = tqdm(stream, total=len(paths), desc=title, unit="photo", disable=quiet, dynamic_ncols=True)
        for prediction in progress:
            if prediction.error is not None:
                raise ValueError(prediction.error)
            found.append(np.array([face.box for face in prediction.faces]).reshape(-1, 4))
            sizes.append((prediction.width, prediction.height))
            pixels = torch.from_numpy(prediction.photo.pixels).to(model.device).permute(2, 0, 1).float() / 255
            responses.append(enlarge(prediction.response_maps["lnet_o"], sizes[-1]))
            side = min(settings.finest_side, settings.largest_enlargement * max(pixels.shape[1:]))
            baselines.append(baseline_maps(checkpoint.lnet_o, pixels, side))
    maps = {"response_map": responses, **{name: [each[name] for each in baselines] for name in baselines[0]}}
    return found, maps, sizes


MAPS = {"response_map": "response map", "mean_c5": "mean of C5", "cam": "CAM"}


def _boxes_of_maps(title: str, maps: dict[str, Sequence], scores: dict[str, np.ndarray], sizes: Sequence) -> dict:
    """The boxes of each kind of map, cut at the threshold that does best at overlap 0.5, by the method's title."""
    return {
        f"{title}, {MAPS[name]}": boxes_at(maps[name], THRESHOLDS[(overlaps >= 0.5).mean(1).argmax()], sizes)
        for name, overlaps in scores.items()
    }


ROWS = {
    "recall": "recall",
    "recall_best_alone": "recall, best proposal alone",
    "recall_response_map": "recall, LNet_o's response map",
    "recall_cam": "recall, class activation map",
    "recall_mean_c5": "recall, mean of C5",
    "recall_centre": "recall, centre box",
    "precision": "precision",
    "false_positives_per_image": "false positives an image",
}


def report_boxes(result: dict, format: str) -> str:
    """What :func:`evaluate_boxes` gives, as a table or as JSON."""
    if format == "json":
        return json.dumps(result, indent=2)
    width = max(map(len, ROWS.values()))
    lines = [f"{'overlap':{width}}" + "".join(f"{overlap:7.1f}" for overlap in result["overlap"])]
    for key, title in ROWS.items():
        if result[key] is not None:
            lines.append(f"{title:{width}}" + "".join(f"{value:7.3f}" for value in result[key]))
    if result["methods"]:
        width = max(width, *map(len, result["methods"]))
        lines += ["", "recall of all proposals by method, boxes framed alike"]
        for title, curve in result["methods"].items():
            lines.append(f"{title:{width}}" + "".join(f"{value:7.3f}" for value in curve))
    scores = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in result["max_box_acc_v2"].items())
    lines += ["", f"MaxBoxAccV2: {scores}", f"{result['n']} photos, {result['targets']} faces to be found"]
    return "\n".join(lines)


def plot_boxes(result: dict, path: Path) -> None:
    """Recall against overlap as the paper's Fig. 7 has it; the file's suffix says its format. Where there are other
    methods, all of them, boxes framed alike."""
    figure = new_figure(6.4 if result["methods"] else 5, 4.6 if result["methods"] else 4)
    axes = figure.subplots()
    if result["methods"]:
        for number, (title, curve) in enumerate(result["methods"].items()):
            # A net's ways to be read share a colour; detectors are dashed.
            net, comma, _ = title.partition(",")
            nets = list(dict.fromkeys(name.partition(",")[0] for name in result["methods"]))
            style = (":" if title == "centre box" else "--" if net in DETECTORS else "-", "osD^vPX*"[number % 8])
            colour = f"C{nets.index(net) % 10}"
            axes.plot(
                result["overlap"], curve, "".join(style), color=colour, ms=4, alpha=0.6 if comma else 1, label=title
            )
    else:
        styles = ("-o", "-s", "--d", "--^", "--v", ":x")
        for key, style in zip((key for key in ROWS if key.startswith("recall")), styles, strict=True):
            label = "localiser, all proposals" if key == "recall" else ROWS[key].removeprefix("recall, ")
            axes.plot(result["overlap"], result[key], style, label=label)
    axes.set(xlabel="overlap ratio", ylabel="recall", ylim=(0, 1.02), xlim=(0.08, 0.92))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path)
