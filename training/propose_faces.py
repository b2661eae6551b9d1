"""Faces that trained LNets propose in whole CelebA photos, for further training on cuts of these photos.

python training/propose_faces.py --celeba CELEBA --cache CACHE --lnet-o A --lnet-s B OUT.npy
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from faceattr.data.celeba import read_celeba
from faceattr.data.layout import FACE_ASPECT
from faceattr.data.photos import decode_pictures
from faceattr.data.warping import to_images
from faceattr.localization import Localizer, LocalizerSettings
from faceattr.models.lnet import LNet
from faceattr.train import parallel
from faceattr.train.arguments import add_machine, prepare
from faceattr.train.loop import load_model


def write(path: Path, values: np.ndarray) -> None:
    """The file appears whole or not at all."""
    partial = path.with_suffix(".partial.npy")
    np.save(partial, values)
    os.replace(partial, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--celeba", type=Path, required=True, help="CelebA's label files and img_celeba")
    parser.add_argument("--cache", type=Path, required=True, help="folder for decoded pictures")
    parser.add_argument("--lnet-o", type=Path, required=True)
    parser.add_argument("--lnet-s", type=Path, required=True)
    parser.add_argument(
        "--settings", type=Path, help="JSON of LocalizerSettings; its box height and aspect are not used"
    )
    parser.add_argument("--sure", type=float, default=0.8, help="least score of a face to train on")
    parser.add_argument("--doubt", type=float, default=0.2, help="a second face with this score leaves the photo out")
    parser.add_argument(
        "--windows",
        type=Path,
        help=".npy: also what LNet_o alone proposes, a row of x, y, height for each of 8 windows",
    )
    add_machine(parser)
    parser.add_argument("out", type=Path, help=".npy, a row a photo: x, y of the centre and height; height 0: left out")
    arguments = parser.parse_args()

    device, dtype = prepare(arguments)
    with parallel.first_on_machine():
        wild = read_celeba(arguments.celeba, images="img_celeba", skip_missing=True).partition(0)
        cache = arguments.cache / "photos.npy"
        photos = decode_pictures(wild.paths, (320, 320), keep_aspect=True, cache=cache, workers=arguments.workers)
    values = json.loads(arguments.settings.read_text()) if arguments.settings else {}
    geometry = {"box_height": 1.0, "box_aspect": FACE_ASPECT, "score_threshold": arguments.doubt}
    nets = [load_model(LNet, path)[0].fold_batch_norm().to(device) for path in (arguments.lnet_o, arguments.lnet_s)]
    localizer = Localizer(*nets, LocalizerSettings(**{**values, **geometry}), dtype)
    faces = np.zeros((len(photos), 3))
    windows = np.zeros((len(photos), localizer.settings.max_windows, 3))
    own = range(parallel.rank(), len(photos), parallel.world())
    for i in tqdm(own, unit="photo", disable=parallel.rank() > 0):
        rows, columns = photos.extents[i]
        photo = to_images(photos.images[i : i + 1, :rows, :columns])[0]
        found = localizer(photo).proposals
        if len(found) == 1 and found[0].score >= arguments.sure:
            x0, y0, x1, y1 = found[0].box
            faces[i] = (x0 + x1) / 2, (y0 + y1) / 2, y1 - y0
        if arguments.windows:
            proposed = localizer.windows(photo)
            windows[i, : len(proposed)] = proposed
    faces, windows = (parallel.total(torch.from_numpy(values).to(device)).cpu().numpy() for values in (faces, windows))
    if parallel.rank() > 0:
        return
    if arguments.windows:
        write(arguments.windows, windows)
    write(arguments.out, faces)
    print(f"{(faces[:, 2] > 0).sum()} of {len(faces)} photos have one sure face")


if __name__ == "__main__":
    main()
