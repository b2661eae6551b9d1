"""Fine-tunes ANet on the 40 tags, from identity pre-training (--init) or from scratch.

The faces are CelebA's aligned pictures or, with --images, those that the localisation nets propose (place_faces.py), or
both.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from faceattr.data.celeba import read_celeba
from faceattr.data.faces import FaceCache
from faceattr.data.tagged import joined
from faceattr.models.anet import CONFIGS, ANet
from faceattr.train import parallel
from faceattr.train.anet import TagLoss, freeze, predict
from faceattr.train.arguments import add_training, prepare
from faceattr.train.loop import fit, load_model, save_model, seeded
from faceattr.train.modern import NETS, ModernNet
from faceattr.train.optimizers import make_optimizer


@torch.no_grad()
def teach(teacher: ANet, faces: FaceCache, rows: np.ndarray) -> np.ndarray:
    """A trained net's probabilities, float32 [N, A], of the plain crops."""
    return predict(teacher.to(memory_format=torch.channels_last), faces, rows).sigmoid().numpy()


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
    parser.add_argument("--config", choices=CONFIGS, default="deep")
    parser.add_argument("--split", choices=("official", "paper"), default="official", help="paper: by its identities")
    parser.add_argument("--net", choices=NETS, help="instead of ANet, on crops of its size; needs torchvision")
    parser.add_argument(
        "--freeze",
        choices=("nothing", "shared", "features"),
        default="nothing",
        help="layers of --init that stay as they are: C1 and C2, or all but the last",
    )
    parser.add_argument("--init", type=Path, help="anet.safetensors of pretrain_anet.py, of the same config")
    parser.add_argument(
        "--teachers", type=Path, nargs="*", default=[], help="fine-tuned ANets whose opinions count beside the tags"
    )
    parser.add_argument("--trust", type=float, default=0.5, help="how much the teachers' mean counts, 0 to 1")
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
    with seeded(args.seed):
        if args.net:
            model = ModernNet(args.net, ANet(**CONFIGS[args.config]).config["input_size"])
        else:
            model = load_model(ANet, args.init)[0] if args.init else ANet(**CONFIGS[args.config])
    if args.freeze != "nothing":
        freeze(*([model.shared] if args.freeze == "shared" else list(model.children())[:-1]))
    model = model.to(device, memory_format=torch.channels_last)
    size = tuple(model.config["input_size"])
    with parallel.first_on_machine():
        data = joined([read_celeba(args.celeba, images, args.skip_missing, args.split) for images in args.images])
        name = "-".join("aligned" if images == "img_align_celeba" else Path(images).name for images in args.images)
        faces = FaceCache(data.folder, data.names, size, args.cache / f"{name}-{args.config}.npy", args.workers)
    rows = np.flatnonzero(data.partitions == 0)
    validation = np.flatnonzero(data.partitions == 1)
    if args.patience and not len(validation):
        raise ValueError(f"{args.celeba}: no picture of partition 1, by which --patience could stop; leave it out")

    def evaluate(net: ANet) -> dict[str, float]:
        logits, tags = predict(net, faces, validation).numpy(), data.tags[validation]
        mixed = tags.any(0) & ~tags.all(0)
        return {
            "validation_accuracy": ((logits > 0) == tags).mean(),
            "validation_auc": roc_auc_score(tags[:, mixed], logits[:, mixed]),
        }

    targets = data.tags[rows].astype(np.float32)
    if args.teachers:
        opinions = [teach(load_model(ANet, path)[0].to(device), faces, rows) for path in args.teachers]
        targets = (1 - args.trust) * targets + args.trust * np.mean(opinions, axis=0)

    steps = len(rows) * args.views // (args.batch * parallel.world())
    trained = fit(
        model,
        make_optimizer(args.optimizer, model, args.lr, args.weight_decay),
        TagLoss(faces, rows, targets, args.batch, args.seed, size, args.views, args.augment),
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
    notes = {"pictures": len(rows), "images": [Path(images).name for images in args.images], "epochs": args.epochs}
    save_model(trained, args.output / "anet.safetensors", stage="tags", seed=args.seed, **notes)


if __name__ == "__main__":
    main()
