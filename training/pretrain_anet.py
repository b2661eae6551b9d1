"""Pre-trains ANet on identities: softmax over the persons of the training partition and the similarity loss."""

import argparse
from pathlib import Path

import numpy as np
import torch

from faceattr.data.celeba import read_celeba
from faceattr.data.faces import FaceCache, crop
from faceattr.data.people import read_people
from faceattr.models.anet import CONFIGS, ANet
from faceattr.train import parallel
from faceattr.train.anet import MARGINS, IdentityLoss, IdentityNet, few_a_person
from faceattr.train.arguments import add_training, prepare
from faceattr.train.loop import fit, save_model, seeded
from faceattr.train.optimizers import make_optimizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--celeba", type=Path, help="folder with CelebA's label files and img_align_celeba/")
    source.add_argument("--people", type=Path, help="folder of aligned 178x218 pictures, a folder a person")
    parser.add_argument("--cache", type=Path, required=True, help="folder for decoded pictures")
    parser.add_argument("--output", type=Path, required=True, help="folder for state, log and anet.safetensors")
    parser.add_argument("--config", choices=CONFIGS, default="deep")
    parser.add_argument("--split", choices=("official", "paper"), default="official", help="paper: its 8,000 people")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--batch", type=int, default=128, help="pictures a process")
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw", help="sgd: as the paper")
    parser.add_argument("--lr", type=float, help="by default what suits the optimiser")
    parser.add_argument("--weight-decay", type=float, help="by default what suits the optimiser")
    parser.add_argument(
        "--margin", choices=MARGINS, default="none", help="by which the right person must win; none: as the paper"
    )
    parser.add_argument("--margin-size", type=float, help="by default what suits ten pictures a person")
    parser.add_argument("--per-person", type=int, metavar="N", help="at most so many pictures of each (default: all)")
    parser.add_argument("--similarity", type=float, default=0.5, help="weight of the similarity loss")
    parser.add_argument("--skip-missing", action="store_true", help="the folder holds a part of CelebA")
    add_training(parser)
    args = parser.parse_args()

    device, dtype = prepare(args)
    with seeded(args.seed):
        model = ANet(**CONFIGS[args.config])
    size = tuple(model.config["input_size"])
    with parallel.first_on_machine():
        if args.people:
            data = read_people(args.people)
        else:
            data = read_celeba(args.celeba, skip_missing=args.skip_missing, split=args.split)
        name = f"{'people' if args.people else 'aligned'}-{args.config}.npy"
        faces = FaceCache(data.folder, data.names, size, args.cache / name, args.workers)
    if data.identities is None:
        parser.error(f"{args.celeba}: has no identity_CelebA.txt, from which to know who is who")
    rows = np.flatnonzero(data.partitions == 0)
    if args.per_person:
        rows = rows[few_a_person(data.identities[rows], args.per_person)]
    identities = np.unique(data.identities[rows], return_inverse=True)[1]
    with seeded(args.seed, 1):
        net = IdentityNet(model, identities.max() + 1)
    net = net.to(device, memory_format=torch.channels_last)
    # To stop early by: known persons on pictures that are kept back.
    aside = np.random.default_rng(args.seed).random(len(rows)) < (0.1 if args.patience else 0)
    kept_back, rows = (rows[aside], identities[aside]), rows[~aside]
    identities = identities[~aside]

    def evaluate(net: IdentityNet) -> dict[str, float]:
        right = 0
        for start in range(0, aside.sum(), 250):
            pictures, persons = (values[start : start + 250] for values in kept_back)
            logits = net(crop(faces.batch(pictures), size, size).to(device))[1]
            right += (logits.argmax(1).cpu().numpy() == persons).sum()
        return {"validation_correct": right / aside.sum()}

    steps = len(rows) // (args.batch * parallel.world())
    trained = fit(
        net,
        make_optimizer(args.optimizer, net, args.lr, args.weight_decay),
        IdentityLoss(
            faces, rows, identities, args.batch, args.similarity, args.seed, size, args.margin, args.margin_size
        ),
        steps=round(args.epochs * steps),
        folder=args.output,
        seed=args.seed,
        dtype=dtype,
        resume=args.resume,
        evaluate=evaluate if args.patience else None,
        evaluate_every=steps,
        watch="validation_correct",
        patience=args.patience,
    )
    notes = {"pictures": len(rows), "people": int(identities.max()) + 1, "epochs": args.epochs}
    notes |= {"margin": args.margin, "seed": args.seed}
    save_model(trained.anet, args.output / "anet.safetensors", stage="identities", **notes)


if __name__ == "__main__":
    main()
