"""Train LNet_o or LNet_s by image-level tags; no box and no landmark is read.

python training/finetune_lnet.py --celeba CELEBA --objects OBJECTS --scenes SCENES --cache CACHE --trunk LNET_PLUS OUT
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from faceattr.data.celeba import read_celeba
from faceattr.data.composites import Composer
from faceattr.data.photos import decode_pictures, hold_out, list_pictures
from faceattr.models.lnet import LNet
from faceattr.train.lnet import finetune
from faceattr.train.loop import load_model, save_model


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--celeba", type=Path, required=True, help="CelebA's label files, img_align_celeba and img_celeba"
    )
    parser.add_argument("--objects", type=Path, required=True, help="folder of object pictures, without faces")
    parser.add_argument("--scenes", type=Path, required=True, help="folder of scenes, without faces")
    parser.add_argument("--trunk", type=Path, help="start from the trunk of this LNet+ or LNet")
    parser.add_argument("--start", type=Path, help="start from this LNet")
    parser.add_argument(
        "--proposals", type=Path, help=".npy of propose_faces.py: cut whole photos round proposed faces"
    )
    parser.add_argument("--photo-share", type=float, default=0.5, help="part of a batch cut from whole photos")
    parser.add_argument(
        "--sizes", type=float, nargs="+", default=[40.0, 50.4, 63.5], help="heights of faces, a size tag each"
    )
    parser.add_argument("--picture-sizes", type=int, nargs="+", default=[113, 129, 145, 161])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, required=True, help="folder for decoded pictures")
    parser.add_argument("--threads", type=int, help="threads of torch; 1 is best on a shared machine")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("out", type=Path, help="folder for state, log and the net (lnet.safetensors)")
    arguments = parser.parse_args()

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    celeba = read_celeba(arguments.celeba, skip_missing=True).partition(0)
    faces = decode_pictures([celeba.folder / n for n in celeba.names], (164, 134), cache=arguments.cache / "faces.npy")
    scenes = hold_out(list_pictures(arguments.scenes), 0.2)[0]
    backgrounds = [
        decode_pictures(scenes, (224, 224), cache=arguments.cache / "scenes.npy"),
        decode_pictures(list_pictures(arguments.objects), (84, 84), cache=arguments.cache / "objects.npy"),
    ]
    photos = photo_tags = proposals = None
    if arguments.proposals:
        wild = read_celeba(arguments.celeba, images="img_celeba", skip_missing=True).partition(0)
        paths = [wild.folder / name for name in wild.names]
        photos = decode_pictures(paths, (320, 320), keep_aspect=True, cache=arguments.cache / "photos.npy")
        photo_tags, proposals = wild.tags, np.load(arguments.proposals)
    composer = Composer(
        faces, celeba.tags, backgrounds, arguments.sizes, photos, photo_tags, proposals, arguments.photo_share
    )

    torch.manual_seed(arguments.seed)
    model = LNet(sizes=arguments.sizes)
    if arguments.start:
        model.load_state_dict(load_model(LNet, arguments.start)[0].state_dict())
    elif arguments.trunk:
        tensors = load_file(arguments.trunk)
        trunk = {name.removeprefix("trunk."): tensor for name, tensor in tensors.items() if name.startswith("trunk.")}
        model.trunk.load_state_dict(trunk)
    model = finetune(
        model,
        composer,
        folder=arguments.out / "state",
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        picture_sizes=arguments.picture_sizes,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        resume=arguments.resume,
    )
    save_model(model, arguments.out / "lnet.safetensors")


if __name__ == "__main__":
    main()
