"""Faces of photos, laid as CelebA's aligned pictures are: the best that the localisation nets propose in each.

Writes OUT/NAME.jpg, 178x218, of each photo of img_celeba or of a CSV, and OUT/placed.json when all are done; pictures
that are there already stay. finetune_anet.py and fit_svm.py take OUT as --images, with --skip-missing, or with the CSV
as --people: a photo without a proposal has no picture there. With --face the nets are not asked: the face is at the
same place in every picture, as in sets of tight pictures.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from faceattr.crops import carried
from faceattr.data.celeba import read_celeba
from faceattr.data.faces import FACE
from faceattr.data.tag_csv import read_tag_csv
from faceattr.data.warping import to_images
from faceattr.evaluation.parts import place_by_box
from faceattr.images import load_image
from faceattr.localization import Localizer, LocalizerSettings
from faceattr.models.checkpoint import load_checkpoint
from faceattr.models.lnet import LNet
from faceattr.pipeline import FaceAttributes
from faceattr.train import parallel
from faceattr.train.arguments import add_machine, prepare
from faceattr.train.face import by_lnets
from faceattr.train.loop import load_model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--celeba", type=Path, help="CelebA's label files and img_celeba")
    source.add_argument("--csv", type=Path, help="pictures and their tags")
    parser.add_argument("--root", type=Path, help="folder of the CSV's pictures (default: that of the CSV)")
    parser.add_argument("--only", default="", help="of the CSV, the pictures whose names begin so")
    parser.add_argument("--lnet-o", type=Path)
    parser.add_argument("--lnet-s", type=Path)
    parser.add_argument("--localization", type=Path, help="JSON with the localiser's settings")
    parser.add_argument("--box", type=Path, help="JSON of measure_geometry.py")
    parser.add_argument("--weights", type=Path, help="checkpoint of fit_frame.py, in place of these")
    parser.add_argument(
        "--face",
        type=float,
        nargs=4,
        metavar=("X0", "Y0", "X1", "Y1"),
        help="crown to chin, in parts of a picture's width and height, in place of the nets",
    )
    parser.add_argument("--skip-missing", action="store_true", help="the folder holds a part of the pictures")
    add_machine(parser)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()

    nets = [arguments.lnet_o, arguments.lnet_s, arguments.localization, arguments.box]
    if arguments.face is None and arguments.weights is None and None in nets:
        parser.error("--lnet-o, --lnet-s, --localization and --box are needed, or --weights, or --face")

    device, dtype = prepare(arguments)
    if arguments.celeba:
        data = read_celeba(arguments.celeba, "img_celeba", arguments.skip_missing)
    else:
        data = read_tag_csv(arguments.csv, arguments.root, arguments.skip_missing)
        data = data.select(np.array([name.startswith(arguments.only) for name in data.names]))
    if arguments.weights is not None:
        checkpoint = load_checkpoint(arguments.weights, device)
        integers = None if arguments.precision == "auto" else dtype
        checkpoint = replace(by_lnets(checkpoint), frame=checkpoint.frame)
        model = FaceAttributes(checkpoint, max_faces=1, localization_dtype=integers)
        aligned_box = model.metadata["preprocessing"]["aligned_box"]
    elif arguments.face is None:
        lnets = [load_model(LNet, path)[0].fold_batch_norm().to(device) for path in nets[:2]]
        localizer = Localizer(*lnets, LocalizerSettings(**json.loads(arguments.localization.read_text())), dtype)
        aligned_box = json.loads(arguments.box.read_text())["aligned_box"]

    def face_of(pixels: np.ndarray) -> list[float] | None:
        """Crown to chin: x0, y0, x1, y1 in pixels."""
        if arguments.face is not None:
            height, width = pixels.shape[:2]
            return [edge * side for edge, side in zip(arguments.face, (width, height) * 2, strict=True)]
        if arguments.weights is not None:
            faces = model.detect(pixels)
            return carried(faces[0].frame, aligned_box, FACE) if faces else None
        proposals = localizer(to_images(pixels[None])[0]).proposals
        return carried(proposals[0].frame, aligned_box, FACE) if proposals else None

    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in tqdm(data.names[parallel.rank() :: parallel.world()], unit="photo", disable=parallel.rank() > 0):
        path = arguments.out / name
        if path.exists():
            continue
        pixels = load_image(data.folder / name)
        face = face_of(pixels)
        if face is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            Image.fromarray(place_by_box(pixels, face)).save(partial, "JPEG", quality=95)
            os.replace(partial, path)
    parallel.wait()
    if parallel.rank() == 0:
        found = sum((arguments.out / name).exists() for name in data.names)
        (arguments.out / "placed.json").write_text(json.dumps({"photos": len(data), "faces": found}) + "\n")
        print(f"{found} of {len(data)} photos have a face")


if __name__ == "__main__":
    main()
