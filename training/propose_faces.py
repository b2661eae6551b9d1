"""Faces that trained LNets propose in whole CelebA photos, for further training on cuts of these photos.

python training/propose_faces.py --celeba CELEBA --cache CACHE --lnet-o A --lnet-s B OUT.npy
"""

import argparse
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from faceattr.data.celeba import read_celeba
from faceattr.data.composites import FACE_ASPECT, to_images
from faceattr.data.photos import decode_pictures
from faceattr.localization import Localizer, LocalizerSettings
from faceattr.models.lnet import LNet
from faceattr.train.loop import load_model


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
    parser.add_argument("out", type=Path, help=".npy, a row a photo: x, y of the centre and height; height 0: left out")
    arguments = parser.parse_args()

    wild = read_celeba(arguments.celeba, images="img_celeba", skip_missing=True).partition(0)
    paths = [wild.folder / name for name in wild.names]
    photos = decode_pictures(paths, (320, 320), keep_aspect=True, cache=arguments.cache / "photos.npy")
    values = json.loads(arguments.settings.read_text()) if arguments.settings else {}
    geometry = {"box_height": 1.0, "box_aspect": FACE_ASPECT, "score_threshold": arguments.doubt}
    nets = [load_model(LNet, path)[0].fold_batch_norm() for path in (arguments.lnet_o, arguments.lnet_s)]
    localizer = Localizer(*nets, LocalizerSettings(**{**values, **geometry}))
    faces = np.zeros((len(photos), 3))
    for i, (image, (rows, columns)) in enumerate(zip(tqdm(photos.images, unit="photo"), photos.extents, strict=True)):
        found = localizer(to_images(image[None, :rows, :columns])[0]).proposals
        if len(found) == 1 and found[0].score >= arguments.sure:
            x0, y0, x1, y1 = found[0].box
            faces[i] = (x0 + x1) / 2, (y0 + y1) / 2, y1 - y0
    np.save(arguments.out, faces)
    print(f"{(faces[:, 2] > 0).sum()} of {len(faces)} photos have one sure face")


if __name__ == "__main__":
    main()
