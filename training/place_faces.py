"""The faces that the localisation nets propose in whole CelebA photos, laid as CelebA's aligned pictures are.

Writes OUT/NAME.jpg, 178x218, of the best face of each photo of img_celeba, and OUT/placed.json when all are done;
pictures that are there already stay. finetune_anet.py and fit_svm.py take OUT as --images, with --skip-missing: a photo
without a proposal has no picture there.
"""

import argparse
import json
import os
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from faceattr.data.celeba import read_celeba
from faceattr.data.composites import to_images
from faceattr.data.faces import FACE
from faceattr.evaluation.parts import place_by_box
from faceattr.evaluation.predict import carried
from faceattr.images import load_image
from faceattr.localization import Localizer, LocalizerSettings
from faceattr.models.lnet import LNet
from faceattr.train import parallel
from faceattr.train.arguments import add_machine, prepare
from faceattr.train.loop import load_model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--celeba", type=Path, required=True, help="CelebA's label files and img_celeba")
    parser.add_argument("--lnet-o", type=Path, required=True)
    parser.add_argument("--lnet-s", type=Path, required=True)
    parser.add_argument("--localization", type=Path, required=True, help="JSON with the localiser's settings")
    parser.add_argument("--box", type=Path, required=True, help="JSON of measure_geometry.py")
    parser.add_argument("--skip-missing", action="store_true", help="the folder holds a part of CelebA")
    add_machine(parser)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()

    device, dtype = prepare(arguments)
    data = read_celeba(arguments.celeba, "img_celeba", arguments.skip_missing)
    nets = [load_model(LNet, path)[0].fold_batch_norm().to(device) for path in (arguments.lnet_o, arguments.lnet_s)]
    localizer = Localizer(*nets, LocalizerSettings(**json.loads(arguments.localization.read_text())), dtype)
    aligned_box = json.loads(arguments.box.read_text())["aligned_box"]
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in tqdm(data.names[parallel.rank() :: parallel.world()], unit="photo", disable=parallel.rank() > 0):
        path = arguments.out / name
        if path.exists():
            continue
        pixels = load_image(data.folder / name)
        proposals = localizer(to_images(pixels[None])[0]).proposals
        if proposals:
            face = place_by_box(pixels, carried(proposals[0].box, aligned_box, FACE))
            partial = path.with_suffix(".partial")
            Image.fromarray(face).save(partial, "JPEG", quality=95)
            os.replace(partial, path)
    parallel.wait()
    if parallel.rank() == 0:
        found = sum((arguments.out / name).exists() for name in data.names)
        (arguments.out / "placed.json").write_text(json.dumps({"photos": len(data), "faces": found}) + "\n")
        print(f"{found} of {len(data)} photos have a face")


if __name__ == "__main__":
    main()
