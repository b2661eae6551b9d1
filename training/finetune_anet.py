"""Fine-tunes ANet on the 40 tags, from identity pre-training (--init) or from scratch.

The faces are CelebA's aligned pictures or, with --images, those that the localisation nets propose (place_faces.py), or
both. With --people more pictures, whose tags are partly known, such as sex and age, teach what CelebA's celebrities
cannot; the net then has a logit for each of their tags too, after CelebA's 40.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from faceattr.attributes import ATTRIBUTES
from faceattr.data.celeba import read_celeba
from faceattr.data.faces import FaceCache, crop
from faceattr.data.tag_csv import read_tag_csv
from faceattr.data.tagged import joined
from faceattr.models.anet import CONFIGS, ANet
from faceattr.train import parallel
from faceattr.train.anet import TagLoss, freeze, grow, predict
from faceattr.train.arguments import add_people, add_training, prepare
from faceattr.train.loop import fit, load_model, save_model, seeded
from faceattr.train.modern import NETS, ModernNet
from faceattr.train.optimizers import make_optimizer


@torch.no_grad()
def teach(teacher: ANet, faces: FaceCache, rows: np.ndarray) -> np.ndarray:
    """A trained net's probabilities, float32 [N, A]: the mean over the plain crops and their mirror images."""
    teacher = teacher.to(memory_format=torch.channels_last)
    views = [predict(teacher, faces, rows, mirrored=mirrored).sigmoid().numpy() for mirrored in (False, True)]
    return np.mean(views, axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--celeba", type=Path, required=True, help="folder with CelebA's label files and pictures")
    parser.add_argument(
        "--images",
        nargs="+",
        default=["img_align_celeba"],
        help="aligned pictures: folders below --celeba, or full paths",
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder for decoded pictures")
    parser.add_argument("--output", type=Path, required=True, help="folder for state, log and anet.safetensors")
    add_people(
        parser,
        "partly known tags (image, Male, age, ...; empty: unknown) of pictures laid as CelebA's (place_faces.py)",
    )
    parser.add_argument("--repeat", type=int, default=1, help="how often an epoch shows each picture of --people")
    parser.add_argument("--config", choices=CONFIGS, default="deep")
    parser.add_argument("--split", choices=("official", "paper"), default="official", help="paper: by its identities")
    parser.add_argument("--net", choices=NETS, help="instead of ANet, on crops of its size; needs torchvision")
    parser.add_argument(
        "--freeze",
        choices=("nothing", "shared", "features"),
        default="nothing",
        help="layers of --init that stay as they are: C1 and C2, or all but the last",
    )
    parser.add_argument("--init", type=Path, help="anet.safetensors to go on from; it may be narrower than --config")
    parser.add_argument(
        "--teachers", type=Path, nargs="*", default=[], help="fine-tuned ANets whose opinions count beside the tags"
    )
    parser.add_argument(
        "--trust",
        type=float,
        default=0.5,
        help="how much the teachers' mean counts, 0 to 1, beside CelebA's tags; alone, half as much where none is told",
    )
    parser.add_argument(
        "--weight", type=float, default=8, help="of what --people tells of CelebA's 40 tags, over one of CelebA's own"
    )
    parser.add_argument("--epochs", type=float, default=22)
    parser.add_argument("--batch", type=int, default=128, help="crops a process")
    parser.add_argument("--augment", type=float, default=1.0, help="strength of augmentation, 0 to 1")
    parser.add_argument("--views", type=int, default=1, help="crops of each face in a batch")
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw", help="sgd: as the paper")
    parser.add_argument("--lr", type=float, help="by default what suits the optimiser")
    parser.add_argument("--weight-decay", type=float, help="by default what suits the optimiser")
    parser.add_argument("--skip-missing", action="store_true", help="the folder holds a part of CelebA")
    add_training(parser)
    args = parser.parse_args()
    if args.batch % args.views:
        parser.error(f"--batch {args.batch} is no multiple of --views {args.views}")
    if args.net and args.init or args.freeze != "nothing" and not args.init:
        parser.error("--init is for ANet alone, and --freeze needs it")

    device, dtype = prepare(args)
    with parallel.first_on_machine():
        sets = [read_celeba(args.celeba, images, args.skip_missing, args.split) for images in args.images]
        sets += [read_tag_csv(csv, folder, skip_missing=True).with_ages() for csv, folder in args.people]
        data = joined(sets)
        config = {**CONFIGS[args.config], "attributes": len(data.attributes)}
        size = tuple(ANet(**config).config["input_size"])
        names = ["aligned" if images == "img_align_celeba" else Path(images).name for images in args.images]
        names += [folder.name for _, folder in args.people]
        faces = FaceCache(
            data.folder, data.names, size, args.cache / f"{'-'.join(names)}-{args.config}.npy", args.workers
        )
    if "Face" in data.attributes:
        # Every picture shows one that is not said to show none.
        column = data.attributes.index("Face")
        data.tags[~data.known[:, column], column] = True
        data.known[:, column] = True
    rows = np.flatnonzero(data.partitions == 0)
    more = rows[~data.known[rows, : len(ATTRIBUTES)].all(1)]
    rows = np.concatenate([rows, *[more] * (args.repeat - 1)])
    validation = np.flatnonzero(data.partitions == 1)
    with seeded(args.seed):
        model = ModernNet(args.net, size, len(data.attributes)) if args.net else ANet(**config)
    if args.init:
        source = load_model(ANet, args.init)[0]
        if source.config == model.config:
            model = source
        else:
            grow(model, source, crop(faces.batch(rows[:: max(1, len(rows) // 1000)]), size, size))
    if args.freeze != "nothing":
        freeze(*([model.shared] if args.freeze == "shared" else list(model.children())[:-1]))
    model = model.to(device, memory_format=torch.channels_last)
    if args.patience and not len(validation):
        raise ValueError(f"{args.celeba}: no picture of partition 1, by which --patience could stop; leave it out")

    def evaluate(net: ANet) -> dict[str, float]:
        logits = predict(net, faces, validation).numpy()
        tags, known = data.tags[validation], data.known[validation]
        ranks = {}
        for column, name in enumerate(data.attributes):
            of_known = known[:, column]
            truth = tags[of_known, column]
            if truth.any() and not truth.all():
                ranks[name] = roc_auc_score(truth, logits[of_known, column])
        celeba = [rank for name, rank in ranks.items() if name in ATTRIBUTES]
        figures = {"validation_accuracy": ((logits > 0) == tags)[known].mean(), "validation_auc": np.mean(celeba)}
        return figures | {name: rank for name, rank in ranks.items() if name not in ATTRIBUTES or name == "Male"}

    targets, trust = data.tags[rows].astype(np.float32), data.known[rows].astype(np.float32)
    forty, told = slice(len(ATTRIBUTES)), data.known[rows, : len(ATTRIBUTES)]
    partly = ~told.all(1)
    trust[partly, forty] *= args.weight
    if args.teachers:
        once, again = np.unique(rows, return_inverse=True)
        opinions = [teach(load_model(ANet, path)[0].to(device), faces, once)[:, forty] for path in args.teachers]
        opinion = np.mean(opinions, axis=0)[again]
        mixed = (1 - args.trust) * targets[:, forty] + args.trust * opinion
        # Teachers know CelebA's people; of others they are heard only where nothing is told.
        targets[:, forty] = np.where(partly[:, None], np.where(told, targets[:, forty], opinion), mixed)
        trust[:, forty][~told] = args.trust / 2

    steps = len(rows) * args.views // (args.batch * parallel.world())
    trained = fit(
        model,
        make_optimizer(args.optimizer, model, args.lr, args.weight_decay),
        TagLoss(faces, rows, targets, args.batch, args.seed, size, args.views, args.augment, trust),
        steps=round(args.epochs * steps),
        folder=args.output,
        seed=args.seed,
        dtype=dtype,
        resume=args.resume,
        evaluate=evaluate if len(validation) else None,
        evaluate_every=2 * steps,
        watch="validation_auc",
        patience=args.patience,
    )
    pictures = Counter()
    for name, part in zip(names, sets, strict=True):
        pictures[name] += int((part.partitions == 0).sum())
    notes = {"pictures": pictures.total(), "images": pictures, "epochs": args.epochs, "tags": data.attributes}
    save_model(trained, args.output / "anet.safetensors", stage="tags", seed=args.seed, **notes)


if __name__ == "__main__":
    main()
