"""Measures, on aligned pictures pasted at known places, where the localisation nets see a face: the offsets from their
peaks to its middle, how high they see it, and the --aligned-box of bundle.py.

Nobody tells the nets which point of a face to peak at. What is known here is where the picture was pasted and where
faces lie in aligned pictures (faceattr.data.layout); no annotated box is used.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from tqdm import tqdm

from faceattr.data.celeba import read_celeba
from faceattr.data.layout import FACE_CENTRE, FACE_HEIGHT
from faceattr.localization import Localizer, LocalizerSettings, read_peaks, size_maps
from faceattr.models.lnet import LNet
from faceattr.train.arguments import add_precision, announced
from faceattr.train.loop import load_model


def pasted(
    paths: list[Path], heights: tuple[float, float], canvas: int, random: np.random.Generator
) -> Iterator[tuple[torch.Tensor, np.ndarray, float]]:
    """Aligned pictures pasted on blurred copies of themselves so that the face is `heights` pixels high.

    Yields the photo [3, canvas, canvas], the corner of the picture in it (x, y) and its scale.
    """
    for path in tqdm(paths, unit="picture"):
        with Image.open(path) as image:
            picture = image.convert("RGB")
        scale = random.uniform(*heights) / (FACE_HEIGHT * picture.height)
        small = picture.resize([round(side * scale) for side in picture.size], Image.Resampling.LANCZOS)
        corner = [int(random.integers(min(0, canvas - side), max(0, canvas - side) + 1)) for side in small.size]
        photo = picture.resize((canvas, canvas)).filter(ImageFilter.GaussianBlur(canvas / 8))
        photo.paste(small, tuple(corner))
        yield torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255, np.array(corner), scale


def measure_peaks(net: LNet, paths: list[Path], canvas: int, random: np.random.Generator) -> float:
    """How far below the peak the middle of the face lies, in heights that the net reads: the median, 0 if no face is
    found. To the side there is no offset, since faces are as often mirrored as not."""
    sizes = torch.tensor(net.config["sizes"])
    below, ratio = [], []
    with Image.open(paths[0]) as image:
        size = np.array(image.size)
    with torch.inference_mode():
        for photo, corner, scale in pasted(paths, (sizes[0].item(), sizes[-1].item()), canvas, random):
            [faces], [logits] = read_peaks(size_maps(net, photo[None]), sizes, net.trunk.stride, 0.5, 4)
            if logits.max() == -torch.inf:
                continue
            x, y, height = faces[logits.argmax()].tolist()
            middle = corner + np.array(FACE_CENTRE) * size * scale
            true = FACE_HEIGHT * size[1] * scale
            if np.hypot(x - middle[0], y - middle[1]) < true:
                below.append((middle[1] - y) / height)
                ratio.append(true / height)
    if not below:
        print(f"none of {len(paths)} found")
        return 0.0
    print(
        f"{len(below)} of {len(paths)} found; below the peak, quartiles: {np.percentile(below, [25, 50, 75]).round(3)}"
    )
    print(f"height over the net's, quartiles: {np.percentile(ratio, [25, 50, 75]).round(3)}")
    return float(np.median(below))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--celeba", type=Path, required=True, help="CelebA's label files and img_align_celeba/")
    parser.add_argument("--lnet-o", type=Path, required=True)
    parser.add_argument("--lnet-s", type=Path, help="default: LNet_o does its work, as before LNet_s is trained")
    parser.add_argument("--localization", type=Path, required=True, help="JSON of LocalizerSettings")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="the settings with the offsets, as JSON")
    parser.add_argument("--box", type=Path, help="also write the box on an aligned picture to this JSON file")
    parser.add_argument("--skip-missing", action="store_true", help="the folder holds a part of CelebA")
    add_precision(parser)
    arguments = parser.parse_args()
    dtype = announced(torch.device("cpu"), arguments.precision)

    values = json.loads(arguments.localization.read_text())
    lnet_o, lnet_s = (
        load_model(LNet, path)[0].fold_batch_norm() for path in (arguments.lnet_o, arguments.lnet_s or arguments.lnet_o)
    )
    data = read_celeba(arguments.celeba, skip_missing=arguments.skip_missing).partition(1)
    random = np.random.default_rng(arguments.seed)
    paths = [data.paths[row] for row in random.permutation(len(data))[: arguments.pictures]]
    window = LocalizerSettings(**values).window_pixels
    values["offset_o"] = 0.0, round(measure_peaks(lnet_o, paths, 161, random), 3)
    values["offset_s"] = 0.0, round(measure_peaks(lnet_s, paths, window, random), 3)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(values, indent=1) + "\n")

    localizer = Localizer(lnet_o, lnet_s, LocalizerSettings(**values), dtype)
    boxes = []
    for photo, corner, scale in pasted(paths, (56, 168), 320, random):
        proposals = localizer(photo).proposals
        if proposals:
            boxes.append((np.array(proposals[0].box) - np.tile(corner, 2)) / scale)
    if not boxes:
        sys.exit(f"measure_geometry.py: no face found in {len(paths)} aligned pictures; lower score_threshold")
    print(f"{len(boxes)} of {len(paths)} found; quartiles of x0, y0, x1, y1 on the aligned picture:")
    print(np.percentile(boxes, [25, 50, 75], axis=0).round(1))
    aligned_box = np.median(boxes, axis=0).round(1).tolist()
    print("--aligned-box", *aligned_box)
    if arguments.box:
        arguments.box.parent.mkdir(parents=True, exist_ok=True)
        arguments.box.write_text(json.dumps({"aligned_box": aligned_box}) + "\n")


if __name__ == "__main__":
    main()
