"""Teaches a checkpoint to put the boxes of its localisation nets right, by ANet's layers.

    fit_frame.py --weights cascade.safetensors --celeba DIR --faces DIR ... --output faceattr.safetensors

Aligned pictures are cropped off their faces' place by known amounts, and one linear map of what ANet's layers respond
tells these amounts. It learns from CelebA's pictures of partition 0, and from folders of 178x218 pictures laid as those
are, by place_faces.py or found_faces.py. No annotated box is used: CelebA's pictures are aligned, and of the others the
place is only as true as the nets that laid them, on average over many.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from faceattr.data.celeba import read_celeba
from faceattr.data.decode import decode
from faceattr.data.faces import displace, picture_size, read_aligned
from faceattr.data.photos import list_pictures
from faceattr.evaluation.attributes import rounded
from faceattr.models.checkpoint import load_checkpoint, save_checkpoint
from faceattr.train.arguments import add_machine, prepare
from faceattr.train.frame import KEPT, fit_frame

BATCH = 50


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint of bundle.py or fit_face.py")
    parser.add_argument("--celeba", type=Path, required=True, help="label files and img_align_celeba")
    parser.add_argument("--faces", type=Path, nargs="*", default=[], help="folders of pictures laid as CelebA's are")
    parser.add_argument("--pictures", type=int, default=8000, help="of CelebA, at most (default: 8000)")
    parser.add_argument("--others", type=int, default=4000, help="of each folder, at most (default: 4000)")
    parser.add_argument("--draws", type=int, default=2, help="crops of each picture (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-missing", action="store_true", help="the folder holds a part of CelebA")
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint with the correction")
    add_machine(parser)
    args = parser.parse_args()
    device, _ = prepare(args)
    checkpoint = load_checkpoint(args.weights, device)
    size = tuple(checkpoint.anet.config["input_size"])
    random, generator = np.random.default_rng(args.seed), torch.Generator().manual_seed(args.seed)

    def some(paths: list[Path], count: int) -> list[Path]:
        return [paths[row] for row in random.permutation(len(paths))[:count]]

    aligned = read_celeba(args.celeba, "img_align_celeba", args.skip_missing, partition=0).paths
    sets = [("CelebA", some(aligned, args.pictures))]
    sets += [(folder.name, some(list_pictures(folder), args.others)) for folder in args.faces]
    paths = [path for _, part in sets for path in part]
    paths = some(paths, len(paths))
    pictures = Counter()
    for name, part in sets:
        pictures[name] += len(part)

    @torch.inference_mode()
    def crops() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        decoded = decode(paths, partial(read_aligned, size=picture_size(size)), args.workers)
        # Of few pictures, as many small batches as it takes.
        batch = max(1, min(BATCH, len(paths) // KEPT))
        for _ in range(0, len(paths), batch):
            pictures = torch.from_numpy(np.stack(list(islice(decoded, batch))))
            images, truth = displace(pictures.repeat(args.draws, 1, 1, 1), size, generator)
            responses = checkpoint.anet.responses(images.to(device))
            yield torch.cat([each.flatten(1).half().cpu() for each in responses], 1), truth

    correction, explained = fit_frame(crops())
    notes = {"pictures": pictures, "explained": rounded(explained)}
    print(f"explained of what crops are off to the side, in height and in size: {notes['explained']}")
    metadata = {**checkpoint.metadata, "training": {**checkpoint.metadata["training"], "frame": notes}}
    save_checkpoint(args.output, **(checkpoint.nets() | {"frame": correction}), metadata=metadata)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
