"""Measure LNet_o and LNet_s against boxes, which are used here and nowhere else.

python training/evaluate_localization.py --lnet-o A --lnet-s B --boxes FILE.csv:ROOT:LABELS ... --without-faces FOLDER
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from faceattr.data.photos import hold_out, list_pictures
from faceattr.data.warping import to_images
from faceattr.evaluation import boxes as metrics
from faceattr.localization import Localizer, LocalizerSettings
from faceattr.models.lnet import LNet
from faceattr.train.arguments import add_precision, announced
from faceattr.train.loop import load_model

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)


def read(path: Path) -> torch.Tensor:
    with Image.open(path) as picture:
        return to_images(np.array(picture.convert("RGB"))[None])[0]


def locate(localizer: Localizer, path: Path) -> np.ndarray:
    proposals = localizer(read(path)).proposals
    return np.array([[*proposal.box, proposal.score] for proposal in proposals]).reshape(-1, 5)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lnet-o", type=Path, required=True)
    parser.add_argument("--lnet-s", type=Path, required=True)
    parser.add_argument("--settings", type=Path, help="JSON of LocalizerSettings")
    parser.add_argument(
        "--boxes",
        nargs="*",
        default=[],
        help="FILE.csv:ROOT:TARGETS, the labels of targets with commas; other boxes are faces too",
    )
    parser.add_argument(
        "--without-faces", type=Path, help="folder of photos without a face; the held-out fifth is used"
    )
    parser.add_argument("--limit", type=int, help="at most so many photos of each kind")
    parser.add_argument("--save", type=Path, help="folder for the proposals as JSON")
    add_precision(parser)
    arguments = parser.parse_args()
    settings = LocalizerSettings(**json.loads(arguments.settings.read_text())) if arguments.settings else None
    localizer = Localizer(
        load_model(LNet, arguments.lnet_o)[0].fold_batch_norm(),
        load_model(LNet, arguments.lnet_s)[0].fold_batch_norm(),
        settings,
        announced(torch.device("cpu"), arguments.precision),
    )
    print(
        "| photos | n | "
        + " | ".join(f"IoU {t}" for t in THRESHOLDS)
        + " | best alone 0.5 | centre 0.5 | on a face 0.3 | ms |"
    )
    for entry in arguments.boxes:
        file, root, labels = entry.split(":")
        photos = metrics.read_boxes(file)[: arguments.limit]
        start = time.perf_counter()
        found = [locate(localizer, Path(root) / photo.image) for photo in photos]
        milliseconds = (time.perf_counter() - start) / len(photos) * 1000
        targets = [metrics.largest(photo.labelled(labels.split(","))) for photo in photos]
        recall = metrics.recall_curve(metrics.best_overlaps(targets, [f[:, :4] for f in found]), THRESHOLDS)
        alone = metrics.recall_curve(metrics.best_overlaps(targets, [f[:1, :4] for f in found]), [0.5])[0]
        sizes = [Image.open(Path(root) / photo.image).size for photo in photos]
        centre = metrics.recall_curve(
            metrics.best_overlaps(targets, [metrics.centre_box(*size) for size in sizes]), [0.5]
        )[0]
        share = metrics.precision([photo.boxes for photo in photos], [f[:, :4] for f in found])
        values = [*recall, alone, centre, share]
        print(
            f"| {Path(file).stem} | {sum(map(len, targets))} | "
            + " | ".join(f"{v:.3f}" for v in values)
            + f" | {milliseconds:.0f} |"
        )
        if arguments.save:
            arguments.save.mkdir(parents=True, exist_ok=True)
            named = {photo.image: f.tolist() for photo, f in zip(photos, found, strict=True)}
            (arguments.save / f"{Path(file).stem}.json").write_text(json.dumps(named))
    if arguments.without_faces:
        paths = hold_out(list_pictures(arguments.without_faces), 0.2)[1][: arguments.limit]
        found = [locate(localizer, path) for path in paths]
        print(f"photos without a face that get one: {metrics.share_with_proposal(found):.3f} of {len(paths)}")


if __name__ == "__main__":
    main()
