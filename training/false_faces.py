"""What the localisation nets propose in pictures without a face, laid as CelebA's aligned pictures are.

    python training/false_faces.py --without DIR ... --lnet-o A --lnet-s B --localization JSON --box JSON OUT

Writes OUT/NNNNNN.jpg, 178x218, and OUT/tags.csv, by which each has the tag Face=0: with `--people OUT/tags.csv OUT`
finetune_anet.py learns to tell them from the faces of its other pictures. Of each folder --pieces pictures, or pieces
of them, are looked at, but for the fifth of small folders that is kept to measure on.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from faceattr.crops import carried
from faceattr.data.faces import FACE
from faceattr.data.photos import LARGE, hold_out, without_faces
from faceattr.data.tag_csv import write_faces
from faceattr.data.warping import to_images
from faceattr.evaluation.parts import place_by_box
from faceattr.localization import Localizer, LocalizerSettings
from faceattr.models.lnet import LNet
from faceattr.train.arguments import add_machine, prepare
from faceattr.train.face import piece
from faceattr.train.loop import load_model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without", type=Path, nargs="+", required=True, help="folders of pictures without a face")
    parser.add_argument("--undecided", nargs="*", default=[], help="files whose names begin so are left out")
    parser.add_argument("--lnet-o", type=Path, required=True)
    parser.add_argument("--lnet-s", type=Path, required=True)
    parser.add_argument("--localization", type=Path, required=True, help="JSON with the localiser's settings")
    parser.add_argument("--box", type=Path, required=True, help="JSON of measure_geometry.py")
    parser.add_argument("--pieces", type=int, default=6000, help="looked at, of each folder")
    parser.add_argument("--most", type=int, default=3, help="kept of each, the likeliest")
    parser.add_argument("--least", type=float, default=0.02, help="score of what is kept")
    parser.add_argument("--seed", type=int, default=0)
    add_machine(parser)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()

    device, dtype = prepare(arguments)
    nets = [load_model(LNet, path)[0].fold_batch_norm().to(device) for path in (arguments.lnet_o, arguments.lnet_s)]
    values = json.loads(arguments.localization.read_text()) | {"score_threshold": arguments.least}
    localizer = Localizer(*nets, LocalizerSettings(**values), dtype)
    aligned_box = json.loads(arguments.box.read_text())["aligned_box"]
    random = np.random.default_rng(arguments.seed)

    def proposed() -> Iterator[np.ndarray]:
        for folder in arguments.without:
            paths = without_faces(folder, arguments.undecided)
            paths = paths if len(paths) >= LARGE else hold_out(paths, 0.2)[0]
            rows = np.concatenate([random.permutation(len(paths)) for _ in range(-(-arguments.pieces // len(paths)))])
            for row in tqdm(rows[: arguments.pieces], desc=folder.name, unit="picture"):
                with Image.open(paths[row]) as image:
                    pixels = np.array(piece(image.convert("RGB"), random, cut=True))
                for proposal in localizer(to_images(pixels[None])[0]).proposals[: arguments.most]:
                    yield place_by_box(pixels, carried(proposal.frame, aligned_box, FACE))

    count = write_faces(arguments.out, proposed(), face=False)
    if not count:
        sys.exit("false_faces.py: the nets propose nothing in these pictures; lower --least")
    print(f"{count} false faces")


if __name__ == "__main__":
    main()
