"""Train LNet_o or LNet_s by image-level tags; no box and no landmark is read.

python training/finetune_lnet.py --celeba CELEBA --objects OBJECTS --scenes SCENES --cache CACHE --trunk LNET_PLUS OUT
"""

import argparse
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from faceattr.data.celeba import read_celeba
from faceattr.data.composites import Composer
from faceattr.data.photos import decode_pictures, hold_out, list_pictures
from faceattr.models.lnet import LNet
from faceattr.train import parallel
from faceattr.train.arguments import add_training, prepare
from faceattr.train.lnet import finetune
from faceattr.train.loop import load_model, save_model, seeded


def load_rows(path: Path, photos: int) -> np.ndarray:
    """An array of propose_faces.py, checked."""
    rows = np.load(path, allow_pickle=False)
    if len(rows) != photos:
        raise ValueError(f"{path}: made for {len(rows)} photos, here are {photos}; run propose_faces.py again")
    return rows


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
    parser.add_argument(
        "--windows",
        type=Path,
        help=".npy of propose_faces.py: for LNet_s, cut them to the windows that LNet_o proposes",
    )
    parser.add_argument("--photo-share", type=float, default=0.5, help="part of a batch cut from whole photos")
    parser.add_argument(
        "--sizes", type=float, nargs="+", default=[40.0, 50.4, 63.5], help="heights of faces, a size tag each"
    )
    parser.add_argument("--picture-sizes", type=int, nargs="+", default=[113, 129, 145, 161])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=32, help="a process")
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--cache", type=Path, required=True, help="folder for decoded pictures")
    add_training(parser)
    parser.add_argument("out", type=Path, help="folder for state, log and the net (lnet.safetensors)")
    arguments = parser.parse_args()
    if arguments.windows and not arguments.proposals:
        parser.error("--windows needs --proposals, which say where in a window the face is")

    device, dtype = prepare(arguments)
    cache, workers = arguments.cache, arguments.workers
    photos = photo_tags = proposals = windows = None
    with parallel.first_on_machine():
        celeba = read_celeba(arguments.celeba, skip_missing=True).partition(0)
        faces = decode_pictures(celeba.paths, (164, 134), cache=cache / "faces.npy", workers=workers)
        scenes = hold_out(list_pictures(arguments.scenes), 0.2)[0]
        objects = list_pictures(arguments.objects)
        backgrounds = [
            decode_pictures(scenes, (224, 224), cache=cache / "scenes.npy", workers=workers),
            decode_pictures(objects, (84, 84), cache=cache / "objects.npy", workers=workers),
        ]
        if arguments.proposals:
            wild = read_celeba(arguments.celeba, images="img_celeba", skip_missing=True).partition(0)
            photos = decode_pictures(
                wild.paths, (320, 320), keep_aspect=True, cache=cache / "photos.npy", workers=workers
            )
            photo_tags, proposals = wild.tags, load_rows(arguments.proposals, len(wild))
            windows = load_rows(arguments.windows, len(wild)) if arguments.windows else None
    composer = Composer(
        faces,
        celeba.tags,
        backgrounds,
        arguments.sizes,
        photos,
        photo_tags,
        proposals,
        arguments.photo_share,
        windows,
    )

    with seeded(arguments.seed):
        model = LNet(sizes=arguments.sizes)
    if arguments.start:
        model.load_state_dict(load_model(LNet, arguments.start)[0].state_dict())
    elif arguments.trunk:
        tensors = load_file(arguments.trunk)
        trunk = {name.removeprefix("trunk."): tensor for name, tensor in tensors.items() if name.startswith("trunk.")}
        model.trunk.load_state_dict(trunk)
    model = finetune(
        model.to(device),
        composer,
        folder=arguments.out / "state",
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        picture_sizes=arguments.picture_sizes,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        dtype=dtype,
        resume=arguments.resume,
        patience=arguments.patience,
    )
    proposed = 0 if proposals is None else int((proposals[:, 2] > 0).sum())
    notes = {
        "stage": "tags",
        "pictures": {"faces": len(faces), "scenes": len(scenes), "objects": len(objects), "photos": proposed},
        "steps": arguments.steps,
        "batch": arguments.batch_size * parallel.world(),
        "seed": arguments.seed,
    }
    save_model(model, arguments.out / "lnet.safetensors", **notes)


if __name__ == "__main__":
    main()
