"""Train LNet_o or LNet_s by image-level tags; no box and no landmark is read.

python training/finetune_lnet.py --celeba CELEBA --without OBJECTS SCENES --cache CACHE --trunk LNET_PLUS OUT
"""

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors import safe_open
from torch import nn

from faceattr.attributes import ATTRIBUTES
from faceattr.data.celeba import read_celeba
from faceattr.data.composites import Composer, FaceSet
from faceattr.data.cuts import PhotoSet, decode_photos, photo_sets
from faceattr.data.photos import LARGE, decode_pictures, hold_out, list_pictures, without_faces
from faceattr.data.windows import WindowComposer
from faceattr.models.lnet import TRUNKS, LNet, LNetPlus
from faceattr.train import parallel
from faceattr.train.arguments import add_training, prepare
from faceattr.train.lnet import finetune
from faceattr.train.loop import load_model, save_model, seeded

TIGHT_HELD_OUT = 0.05
"""Share of tight pictures kept to measure on."""


def pictures_without(folder: Path, arguments: argparse.Namespace) -> list[Path]:
    """The pictures of a folder without faces that training may see."""
    paths = without_faces(folder, arguments.undecided)
    return paths if len(paths) >= LARGE else hold_out(paths, arguments.hold_out)[0]


def tight_faces(folder: Path, face: list[float], side: int, cache: Path, workers: int) -> FaceSet:
    """The pictures of a folder, of whose faces no attribute is told."""
    paths = hold_out(list_pictures(folder), TIGHT_HELD_OUT)[0]
    pictures = decode_pictures(paths, (side, side), cache=cache / f"{folder.name}-{side}.npy", workers=workers)
    nothing = np.zeros((len(pictures), len(ATTRIBUTES)), dtype=bool)
    x0, y0, x1, y1 = face
    return FaceSet(pictures, nothing, nothing, ((x0 + x1) / 2, (y0 + y1) / 2), y1 - y0)


def whole_photos(arguments: argparse.Namespace) -> list[PhotoSet]:
    """CelebA's whole photos and further ones, each with what propose_faces.py found in it."""
    with np.load(arguments.proposals, allow_pickle=False) as file:
        proposals = dict(file)
    photos = []
    for name, (paths, tags) in photo_sets(arguments.celeba, arguments.photos).items():
        rows = proposals.get(name, ())
        if len(rows) != len(paths):
            raise ValueError(
                f"{arguments.proposals}: has {len(rows)} photos of {name}, there are {len(paths)}; "
                "run propose_faces.py again"
            )
        pictures = decode_photos(paths, arguments.cache / f"{name}-whole.npy", arguments.workers)
        sure = rows[..., 3] >= arguments.sure
        complete = name not in {folder.name for folder in arguments.crowds}
        photos.append(PhotoSet(pictures, rows[..., :3], sure, tags, complete, share=np.count_nonzero(sure) ** 0.5))
    return photos


def trunk_of(path: Path) -> nn.Module:
    """The trunk of an LNet+ or an LNet."""
    with safe_open(path, "pt") as file:
        config = json.loads((file.metadata() or {}).get("faceattr", "{}")).get("config", {})
    return load_model(LNetPlus if "classes" in config else LNet, path)[0].trunk


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--celeba", type=Path, required=True, help="CelebA's label files, img_align_celeba and img_celeba"
    )
    parser.add_argument(
        "--tight",
        nargs=5,
        action="append",
        default=[],
        metavar=("DIR", "X0", "Y0", "X1", "Y1"),
        help="pictures that frame a face each, crown to chin at these parts of their width and height",
    )
    parser.add_argument(
        "--without", type=Path, nargs="+", required=True, help="folders of pictures without a face, drawn from alike"
    )
    parser.add_argument(
        "--undecided", nargs="*", default=[], help="of these, files whose names begin so are left out (statue cartoon)"
    )
    parser.add_argument("--hold-out", type=float, default=0.2, help="share of small folders kept to measure on")
    begin = parser.add_mutually_exclusive_group(required=True)
    begin.add_argument("--trunk", type=Path, help="start from the trunk of this LNet+ or LNet")
    begin.add_argument("--start", type=Path, help="start from this LNet")
    begin.add_argument("--kind", choices=TRUNKS, help="start from random weights of this trunk")
    parser.add_argument("--proposals", type=Path, help="what propose_faces.py found in whole photos, CelebA's and ...")
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="... in those of these folders")
    parser.add_argument(
        "--crowds", type=Path, nargs="*", default=[], help="of these, folders whose photos may show faces not proposed"
    )
    parser.add_argument("--sure", type=float, default=0.8, help="least score of a proposal that is a face")
    parser.add_argument("--proposer", type=Path, help="for LNet_s: the LNet_o in whose windows it learns")
    parser.add_argument("--photo-share", type=float, default=0.5, help="part of a batch cut from whole photos")
    parser.add_argument(
        "--sizes", type=float, nargs="+", default=[20.0, 25.2, 31.75], help="heights of faces, a size tag each"
    )
    parser.add_argument("--picture-sizes", type=int, nargs="+", default=[57, 65, 73, 81])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=32, help="a process")
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--cache", type=Path, required=True, help="folder for decoded pictures")
    add_training(parser)
    parser.add_argument("out", type=Path, help="folder for state, log and the net (lnet.safetensors)")
    arguments = parser.parse_args()
    if arguments.photos and not arguments.proposals:
        parser.error("--photos: --proposals are needed of them")
    if not set(arguments.crowds) <= set(arguments.photos):
        parser.error("--crowds: must be among --photos")

    device, dtype = prepare(arguments)
    cache, workers = arguments.cache, arguments.workers
    with parallel.first_on_machine():
        celeba = read_celeba(arguments.celeba, skip_missing=True).partition(0)
        # As fine as the largest faces ask for, no finer: what is shrunk anyway costs time.
        rows, columns, tight, whole = (round(side * arguments.sizes[-1] / 64) for side in (218, 178, 168, 224))
        aligned = decode_pictures(celeba.paths, (rows, columns), cache=cache / f"aligned-{rows}.npy", workers=workers)
        faces = [FaceSet(aligned, celeba.tags, np.ones_like(celeba.tags))]
        for folder, *edges in arguments.tight:
            faces.append(tight_faces(Path(folder), [float(edge) for edge in edges], tight, cache, workers))
        backgrounds = [
            decode_pictures(
                pictures_without(folder, arguments),
                (whole, whole),
                cache=cache / f"{folder.name}-{whole}.npy",
                workers=workers,
            )
            for folder in arguments.without
        ]
        photos = whole_photos(arguments) if arguments.proposals else []
    composer = Composer(faces, backgrounds, arguments.sizes, photos, arguments.photo_share)
    if arguments.proposer:
        composer = WindowComposer(composer, load_model(LNet, arguments.proposer)[0].fold_batch_norm())

    if arguments.start:
        model = load_model(LNet, arguments.start)[0]
        if model.config["sizes"] != arguments.sizes:
            parser.error(f"{arguments.start}: knows faces of {model.config['sizes']} pixels, not {arguments.sizes}")
    elif arguments.trunk:
        trunk = trunk_of(arguments.trunk)
        with seeded(arguments.seed):
            model = LNet(sizes=arguments.sizes, trunk=trunk.config)
        model.trunk.load_state_dict(trunk.state_dict())
    else:
        with seeded(arguments.seed):
            model = LNet(sizes=arguments.sizes, trunk={"kind": arguments.kind})
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
    notes = {
        "stage": "tags",
        "pictures": {
            "faces": sum(len(each.pictures) for each in faces),
            "without": sum(map(len, backgrounds)),
            "photos": sum(len(each.pictures) for each in photos),
        },
        "steps": arguments.steps,
        "batch": arguments.batch_size * parallel.world(),
        "seed": arguments.seed,
    }
    save_model(model, arguments.out / "lnet.safetensors", **notes)


if __name__ == "__main__":
    main()
