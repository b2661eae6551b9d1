"""Measures how large the values inside a checkpoint's LNets get, so that they can compute in 8-bit integers.

    measure_integers.py --weights cascade.safetensors --celeba CELEBA --photos DIR ... --output cascade_8.safetensors

On CelebA's whole photos of partition 0 and on pictures of these folders, as many of each, at every scale and in every
window at which the localiser sees them. Of nets with AlexNet's trunk nothing is measured: they compute in float32.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from faceattr.data.celeba import read_celeba
from faceattr.data.photos import list_pictures
from faceattr.images import ImageError, load_photo
from faceattr.localization import Localizer, LocalizerSettings
from faceattr.models.checkpoint import load_checkpoint, save_checkpoint
from faceattr.models.lnet import PyramidTrunk
from faceattr.models.quantized import largest_outputs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint of bundle.py or fit_face.py")
    parser.add_argument("--celeba", type=Path, required=True, help="label files and img_celeba")
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="folders of pictures, with faces or without")
    parser.add_argument("--pictures", type=int, default=100, help="of each, at most (default: 100)")
    parser.add_argument("--skip-missing", action="store_true", help="the folder holds a part of CelebA")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint with what was measured")
    arguments = parser.parse_args()

    checkpoint = load_checkpoint(arguments.weights)
    if all(isinstance(net.trunk, PyramidTrunk) for net in (checkpoint.lnet_o, checkpoint.lnet_s)):
        sets = [read_celeba(arguments.celeba, "img_celeba", arguments.skip_missing, partition=0).paths]
        sets += [list_pictures(folder) for folder in arguments.photos]
        random = np.random.default_rng(arguments.seed)
        paths = [paths[row] for paths in sets for row in random.permutation(len(paths))[: arguments.pictures]]
        localization = checkpoint.metadata["preprocessing"]["localization"]
        settings = LocalizerSettings(**localization)
        localizer = Localizer(checkpoint.lnet_o, checkpoint.lnet_s, settings, torch.float32)
        with largest_outputs(localizer.lnet_o.trunk) as largest_o, largest_outputs(localizer.lnet_s.trunk) as largest_s:
            for path in tqdm(paths, unit="photo"):
                try:
                    pixels = load_photo(path).pixels
                except ImageError as error:
                    tqdm.write(f"left out: {error}", file=sys.stderr)
                    continue
                localizer(torch.from_numpy(pixels).permute(2, 0, 1))
        measured = {"largest_o": largest_o, "largest_s": largest_s}
        seen = all(any(largest) for largest in measured.values())
        for name, largest in measured.items():
            localization[name] = [float(f"{value:.4g}") for value in largest] if seen else []
            print(f"{name}: {localization[name]}")
        if not seen:
            print("in these pictures the nets saw nothing, or no window that may have a face: they compute in float32")
    else:
        print("AlexNet's trunk: nothing is measured")
    save_checkpoint(arguments.output, **checkpoint.nets(), metadata=checkpoint.metadata)


if __name__ == "__main__":
    main()
