"""Measures where the localiser puts its box on an aligned face: the --aligned-box of bundle.py.

Aligned pictures are pasted at random size and place on a blurred copy of themselves, localised, and the boxes carried
back. No annotated box is used.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from tqdm import tqdm

from faceattr.data.celeba import read_celeba
from faceattr.localization import Localizer, LocalizerSettings
from faceattr.models.lnet import LNet
from faceattr.train.loop import load_model

CANVAS = 320


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--celeba", type=Path, required=True, help="folder with CelebA's label files and img_align_celeba/"
    )
    parser.add_argument("--lnet-o", type=Path, required=True)
    parser.add_argument("--lnet-s", type=Path, required=True)
    parser.add_argument("--localization", type=Path, required=True, help="JSON with the localiser's settings")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="also write it to this JSON file, for bundle.py and place_faces.py")
    parser.add_argument("--skip-missing", action="store_true", help="the folder holds a part of CelebA")
    args = parser.parse_args()

    lnet_o, lnet_s = (load_model(LNet, path)[0].fold_batch_norm() for path in (args.lnet_o, args.lnet_s))
    localizer = Localizer(lnet_o, lnet_s, LocalizerSettings(**json.loads(args.localization.read_text())))
    data = read_celeba(args.celeba, skip_missing=args.skip_missing).partition(1)
    random = np.random.default_rng(args.seed)
    boxes = []
    for row in tqdm(random.permutation(len(data))[: args.pictures], unit="picture"):
        with Image.open(data.folder / data.names[row]) as image:
            picture = image.convert("RGB")
        scale = random.uniform(0.4, 1.2)
        small = picture.resize([round(side * scale) for side in picture.size], Image.Resampling.LANCZOS)
        place = [int(random.integers(CANVAS - side + 1)) for side in small.size]
        canvas = picture.resize((CANVAS, CANVAS)).filter(ImageFilter.GaussianBlur(CANVAS / 8))
        canvas.paste(small, tuple(place))
        photo = torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255
        proposals = localizer(photo).proposals
        if proposals:
            boxes.append((np.array(proposals[0].box) - place * 2) / scale)
    if not boxes:
        raise ValueError(
            f"no face found in {args.pictures} aligned pictures; the localisation nets have not learnt yet"
        )
    print(f"{len(boxes)} of {args.pictures} found; quartiles of x0, y0, x1, y1:")
    print(np.percentile(boxes, [25, 50, 75], axis=0).round(1))
    box = np.median(boxes, axis=0).round(1).tolist()
    print("--aligned-box", *box)
    if args.output:
        args.output.write_text(json.dumps({"aligned_box": box}) + "\n")


if __name__ == "__main__":
    main()
