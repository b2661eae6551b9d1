"""Teaches a checkpoint to tell faces from what else its LNets propose: one plane on ANet's features.

    fit_face.py --weights cascade.safetensors --celeba DIR --people DIR ... --without DIR 0.03 --without DIR 0.05 \
        --output faceattr.safetensors

It is told whether a picture has a face, never where. With one: CelebA's whole photos and aligned pictures of partition
0, the latter cut tightly, and --people; of each the LNets' best proposal counts. Without: the pictures of each folder,
at several sizes, and pieces of them; all proposals count. A fifth of each small folder is kept and chooses the least
score of a face by which no more than the folder's share of pictures gets one; the largest of the folders' counts. What
that is worth elsewhere each half of a folder tells, whose choice is measured on the other half. Beside a face of that
score a part of it, --company, is enough.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from faceattr.data.celeba import read_celeba
from faceattr.data.photos import LARGE, hold_out, list_pictures, without_faces
from faceattr.evaluation.attributes import rounded
from faceattr.models.checkpoint import load_checkpoint, save_checkpoint
from faceattr.train.arguments import add_machine, prepare
from faceattr.train.face import fit_face, least_score, piece, propose, scores, tight, with_plane


def pictures(paths: Sequence[Path], change: Callable[[Image.Image], Image.Image], what: str) -> Iterator[Image.Image]:
    """The pictures, changed."""
    for path in tqdm(paths, desc=what, unit="picture"):
        with Image.open(path) as image:
            yield change(image.convert("RGB"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="checkpoint of bundle.py")
    parser.add_argument("--celeba", type=Path, required=True, help="label files, img_celeba and img_align_celeba")
    parser.add_argument("--people", type=Path, nargs="*", default=[], help="folders of photos with a face each")
    parser.add_argument(
        "--without",
        nargs=2,
        action="append",
        required=True,
        metavar=("DIR", "SHARE"),
        help="pictures without a face, and how many of them may get one",
    )
    parser.add_argument(
        "--undecided", nargs="*", default=[], help="of these, files whose names begin so are left out (statue cartoon)"
    )
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint with the plane")
    parser.add_argument("--pictures", type=int, default=1500, help="of each kind with a face, at most (default: 1500)")
    parser.add_argument("--pieces", type=int, default=4000, help="of each folder without a face (default: 4000)")
    parser.add_argument("--least", type=float, default=0.1, help="LNets' score that is looked at (default: 0.1)")
    parser.add_argument(
        "--company",
        type=float,
        default=0.7,
        help="part of the least score that is enough beside a face that comes to it (default: 0.7)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-missing", action="store_true", help="the folder holds a part of CelebA")
    add_machine(parser)
    args = parser.parse_args()
    device, dtype = prepare(args)
    # As the weights are used: with nothing asked for the localiser chooses for itself, integers too.
    localization_dtype = None if args.precision == "auto" else dtype

    checkpoint = load_checkpoint(args.weights, device)
    random = np.random.default_rng(args.seed)

    def some(paths: Sequence[Path], count: int) -> list[Path]:
        """So many of them, each as often as the others."""
        rounds = [random.permutation(len(paths)) for _ in range(-(-count // len(paths)))]
        return [paths[row] for row in np.concatenate(rounds)[:count]]

    def up_to(paths: Sequence[Path]) -> list[Path]:
        return some(paths, min(args.pictures, len(paths)))

    whole, aligned = (
        read_celeba(args.celeba, images, args.skip_missing, partition=0).paths
        for images in ("img_celeba", "img_align_celeba")
    )
    folders = {Path(folder): float(share) for folder, share in args.without}
    seen, kept = {}, {}
    for folder in folders:
        paths = without_faces(folder, args.undecided)
        seen[folder], kept[folder] = (paths, []) if len(paths) >= LARGE else hold_out(paths, 0.2)

    def with_face() -> Iterator[Image.Image]:
        yield from pictures(up_to(whole), lambda image: piece(image, random, cut=False), "photos")
        yield from pictures(up_to(aligned), lambda image: tight(image, random), "faces")
        for folder in args.people:
            yield from pictures(up_to(list_pictures(folder)), lambda image: piece(image, random, cut=False), "people")

    def without() -> Iterator[Image.Image]:
        for folder, paths in seen.items():
            yield from pictures(
                some(paths, args.pieces), lambda image: piece(image, random, cut=True), f"without: {folder.name}"
            )

    plane, notes = fit_face(
        propose(checkpoint, with_face(), args.least, localization_dtype),
        propose(checkpoint, without(), args.least, localization_dtype),
    )
    notes |= {"least": args.least, "company": args.company}
    threshold = 0.0
    for folder, share in folders.items():
        if not kept[folder]:
            continue
        apart = propose(checkpoint, pictures(kept[folder], lambda image: image, "kept"), args.least, localization_dtype)
        best = apart.best(scores(plane, apart))
        threshold = max(threshold, least_score(best, share))
        halves = best[::2], best[1::2]
        chosen = [least_score(half, share) for half in halves]
        wrong = sum((half >= other).sum() for half, other in zip(halves, reversed(chosen), strict=True))
        notes[folder.name] = {
            "chosen": chosen,
            "pictures kept from training": len(best),
            "share that gets a face": float(wrong / len(best)),
            "share that the LNets propose in": float(np.isfinite(apart.best(apart.inputs[:, -1])).mean()),
        }
    notes = rounded(notes)
    print(json.dumps({"score_threshold": threshold, **notes}, indent=1))
    metadata = with_plane(checkpoint, plane, args.least, threshold, args.company).metadata
    metadata = {**metadata, "training": {**metadata["training"], "face": notes}}
    nets = checkpoint.nets() | {"face": plane}
    save_checkpoint(args.output, **nets, metadata=metadata)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
