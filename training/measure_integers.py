"""Measures how large the values inside a checkpoint's nets get, so that they can compute in 8-bit integers.

    measure_integers.py --weights cascade.safetensors --celeba CELEBA --photos DIR ... --output cascade_8.safetensors

On CelebA's whole photos of partition 0 and on pictures of these folders, as many of each, at every scale, in every
window and of every face at which the nets look in them. Of LNets with AlexNet's trunk, and an ANet beside them, nothing
is measured: they compute in float32.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from faceattr.data.celeba import read_celeba
from faceattr.data.photos import list_pictures
from faceattr.models.checkpoint import load_checkpoint, save_checkpoint
from faceattr.models.lnet import PyramidTrunk
from faceattr.models.quantized import largest_outputs
from faceattr.pipeline import FaceAttributes


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
        model = FaceAttributes(checkpoint, localization_dtype=torch.float32)
        with ExitStack() as stack:
            largest_o, largest_s, largest_anet = (
                stack.enter_context(largest_outputs(layers))
                for layers in (model.localizer.lnet_o.trunk, model.localizer.lnet_s.trunk, checkpoint.anet.shared)
            )
            for prediction in tqdm(model.iter_predict(paths, workers=1), total=len(paths), unit="photo"):
                if prediction.error is not None:
                    tqdm.write(f"left out: {prediction.error}", file=sys.stderr)
        preprocessing = checkpoint.metadata["preprocessing"]
        for values, name, largest in (
            (preprocessing["localization"], "largest_o", largest_o),
            (preprocessing["localization"], "largest_s", largest_s),
            (preprocessing, "largest_anet", largest_anet),
        ):
            seen = any(largest_o) and any(largest_s) and any(largest)
            values[name] = [float(f"{value:.4g}") for value in largest] if seen else []
            print(f"{name}: {values[name]}")
        if not preprocessing["localization"]["largest_s"]:
            print("in these pictures the nets saw nothing, or no window that may have a face: they compute in float32")
    else:
        print("AlexNet's trunk: nothing is measured")
    save_checkpoint(arguments.output, **checkpoint.nets(), metadata=checkpoint.metadata)


if __name__ == "__main__":
    main()
