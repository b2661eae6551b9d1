"""Pre-train LNet+ on object categories: `python training/pretrain_lnet.py OBJECTS OUT`."""

import argparse
from pathlib import Path

import torch

from faceattr.data.objects import ObjectFolder
from faceattr.models.lnet import LNetPlus
from faceattr.train.lnet import pretrain
from faceattr.train.loop import save_model


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("objects", type=Path, help="folder with train/CLASS/* and val/CLASS/*")
    parser.add_argument("out", type=Path, help="folder for state, cache and the net (lnet_plus.safetensors)")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=97, help="pixels of the training crops")
    parser.add_argument("--hidden", type=int, nargs="*", default=[512], help="sizes of the hidden layers")
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--float32", action="store_true", help="no bfloat16 autocast")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()

    train = ObjectFolder(arguments.objects / "train", cache=arguments.out / "objects-train.npy")
    validation = ObjectFolder(arguments.objects / "val", cache=arguments.out / "objects-val.npy")
    torch.manual_seed(arguments.seed)
    model = LNetPlus(classes=len(train.classes), hidden=arguments.hidden)
    model = pretrain(
        model,
        train,
        validation,
        folder=arguments.out / "state",
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        size=arguments.size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        bfloat16=not arguments.float32,
        resume=arguments.resume,
    )
    save_model(model, arguments.out / "lnet_plus.safetensors", classes=train.classes)


if __name__ == "__main__":
    main()
