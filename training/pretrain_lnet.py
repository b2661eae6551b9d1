"""Pre-train LNet+ on object categories: `python training/pretrain_lnet.py OBJECTS OUT`."""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from faceattr.data.objects import ObjectFolder
from faceattr.models.lnet import LNetPlus
from faceattr.train.lnet import pretrain


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("objects", type=Path, help="folder with train/CLASS/* and val/CLASS/*")
    parser.add_argument("out", type=Path, help="folder for checkpoint, cache and the trunk (lnet_plus.safetensors)")
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
    pretrain(
        model,
        train,
        validation,
        checkpoint=arguments.out / "lnet_plus.pt",
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        size=arguments.size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        bfloat16=not arguments.float32,
        resume=arguments.resume,
    )
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, arguments.out / "lnet_plus.safetensors")


if __name__ == "__main__":
    main()
