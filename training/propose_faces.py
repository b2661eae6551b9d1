"""Faces that trained LNets propose in whole photos, for further training on pieces of these photos.

python training/propose_faces.py --celeba CELEBA --photos DIR ... --cache CACHE --lnet-o A --lnet-s B OUT.npz
python training/propose_faces.py --celeba CELEBA --photos DIR ... --cache CACHE --weights FACEATTR.safetensors OUT.npz

With --weights the scores are those of a whole checkpoint, whose plane has ANet's features beside the LNets' word.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from faceattr.data.cuts import decode_photos, photo_sets
from faceattr.data.layout import FACE_ASPECT
from faceattr.data.warping import to_images
from faceattr.localization import Localizer, LocalizerSettings
from faceattr.models.checkpoint import load_checkpoint
from faceattr.models.lnet import LNet
from faceattr.pipeline import FaceAttributes
from faceattr.train import parallel
from faceattr.train.arguments import add_machine, prepare
from faceattr.train.face import by_lnets
from faceattr.train.loop import load_model


def lnets(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Callable:
    """What the LNets find in a photo uint8 [H, W, 3]: (x, y of the centre, height, score) of each face."""
    values = json.loads(arguments.settings.read_text()) if arguments.settings else {}
    geometry = {"box_height": 1.0, "box_aspect": FACE_ASPECT, "box_below": 0.0, "score_threshold": arguments.doubt}
    nets = [load_model(LNet, path)[0].fold_batch_norm().to(device) for path in (arguments.lnet_o, arguments.lnet_s)]
    localizer = Localizer(*nets, LocalizerSettings(**{**values, **geometry}), dtype)

    def find(photo: np.ndarray) -> list[tuple[float, float, float, float]]:
        rows = []
        for proposal in localizer(to_images(photo[None])[0]).proposals:
            x0, y0, x1, y1 = proposal.frame
            rows.append(((x0 + x1) / 2, (y0 + y1) / 2, y1 - y0, proposal.score))
        return rows

    return find


def cascade(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Callable:
    """The same, scored by the plane of a checkpoint, best first."""
    checkpoint = load_checkpoint(arguments.weights, device)
    settings = LocalizerSettings(**checkpoint.metadata["preprocessing"]["localization"])
    model = FaceAttributes(by_lnets(checkpoint, arguments.doubt), localization_dtype=dtype)

    def find(photo: np.ndarray) -> list[tuple[float, float, float, float]]:
        rows = []
        faces, evidence = model.candidates(photo)
        with torch.inference_mode():
            scores = checkpoint.face(torch.from_numpy(evidence).to(device))[:, 0].tolist()
        for face, score in zip(faces, scores, strict=True):
            x0, y0, x1, y1 = face.frame
            # From the box that is reported back to the whole face.
            height = (y1 - y0) / settings.box_height
            rows.append(((x0 + x1) / 2, (y0 + y1) / 2 - settings.box_below * height, height, score))
        return sorted(rows, key=lambda row: -row[3])

    return find


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--celeba", type=Path, required=True, help="CelebA's label files and img_celeba: partition 0")
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="folders of further photos")
    parser.add_argument("--cache", type=Path, required=True, help="folder for decoded pictures")
    parser.add_argument("--lnet-o", type=Path)
    parser.add_argument("--lnet-s", type=Path)
    parser.add_argument("--weights", type=Path, help="a checkpoint instead of the nets and their settings")
    parser.add_argument(
        "--settings", type=Path, help="JSON of LocalizerSettings; its box height and aspect are not used"
    )
    parser.add_argument("--doubt", type=float, default=0.1, help="least score of the LNets of what may be a face")
    parser.add_argument("--most", type=int, default=24, help="proposals of a photo, at most")
    add_machine(parser)
    parser.add_argument(
        "out",
        type=Path,
        help=".npz; by the folder's name [photos, most, 4]: x, y of the centre, height and score; 0: none",
    )
    arguments = parser.parse_args()

    if arguments.weights is None and None in (arguments.lnet_o, arguments.lnet_s):
        parser.error("--lnet-o and --lnet-s are needed, or --weights")

    device, dtype = prepare(arguments)
    find = (cascade if arguments.weights else lnets)(arguments, device, dtype)
    results = {}
    for name, (paths, _) in photo_sets(arguments.celeba, arguments.photos).items():
        with parallel.first_on_machine():
            photos = decode_photos(paths, arguments.cache / f"{name}-whole.npy", arguments.workers)
        found = np.zeros((len(photos), arguments.most, 4))
        own = range(parallel.rank(), len(photos), parallel.world())
        for i in tqdm(own, desc=name, unit="photo", disable=parallel.rank() > 0):
            rows, columns = photos.extents[i]
            for row, face in zip(found[i], find(photos.images[i, :rows, :columns]), strict=False):
                row[:] = face
        results[name] = parallel.total(torch.from_numpy(found).to(device)).cpu().numpy()
        if parallel.rank() == 0:
            sure = results[name][..., 3] >= 0.8
            print(f"{name}: {sure.any(1).sum()} of {len(found)} photos have a face with a score of 0.8 or more")
    if parallel.rank() > 0:
        return
    # The file appears whole or not at all.
    partial = arguments.out.with_suffix(".partial.npz")
    np.savez(partial, **results)
    os.replace(partial, arguments.out)


if __name__ == "__main__":
    main()
