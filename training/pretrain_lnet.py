"""Pre-trains LNet+ on object categories: `python training/pretrain_lnet.py OBJECTS OUT`."""

import argparse
from pathlib import Path

from faceattr.data.objects import ObjectFolder
from faceattr.models.lnet import TRUNKS, LNetPlus
from faceattr.train import parallel
from faceattr.train.arguments import add_training, prepare
from faceattr.train.lnet import CROPS, pretrain
from faceattr.train.loop import save_model, seeded


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("objects", type=Path, help="folder with train/CLASS/* and val/CLASS/*")
    parser.add_argument("out", type=Path, help="folder for state, cache and the net (lnet_plus.safetensors)")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--batch-size", type=int, default=64, help="a process")
    parser.add_argument("--size", type=int, default=97, help="pixels of the training crops")
    parser.add_argument(
        "--crops", choices=CROPS, default="random", help="ten: the paper's centre, corners and flips, one at a time"
    )
    parser.add_argument("--trunk", choices=TRUNKS, default="pyramid", help="alexnet: the paper's")
    parser.add_argument("--hidden", type=int, nargs="*", default=[512], help="sizes of the hidden layers")
    parser.add_argument("--learning-rate", type=float, default=0.05)
    add_training(parser)
    arguments = parser.parse_args()

    device, dtype = prepare(arguments)
    with parallel.first_on_machine():
        train, validation = (
            ObjectFolder(
                arguments.objects / part, cache=arguments.out / f"objects-{part}.npy", workers=arguments.workers
            )
            for part in ("train", "val")
        )
    with seeded(arguments.seed):
        model = LNetPlus(classes=len(train.classes), hidden=arguments.hidden, trunk={"kind": arguments.trunk})
    model = pretrain(
        model.to(device),
        train,
        validation,
        folder=arguments.out / "state",
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        size=arguments.size,
        crops=arguments.crops,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        dtype=dtype,
        resume=arguments.resume,
        patience=arguments.patience,
    )
    notes = {"stage": "objects", "pictures": len(train), "epochs": arguments.epochs, "seed": arguments.seed}
    save_model(model, arguments.out / "lnet_plus.safetensors", classes=train.classes, **notes)


if __name__ == "__main__":
    main()
