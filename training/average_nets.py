"""Averages nets of one architecture that training took from the same start; the mean finds more than each of them.

average_nets.py NET.safetensors NET.safetensors ... OUT.safetensors
"""

import argparse
from pathlib import Path

import torch

from faceattr.models.lnet import LNet
from faceattr.train.loop import load_model, save_model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", type=Path, nargs="+", help="LNets (lnet.safetensors)")
    parser.add_argument("out", type=Path, help="their mean")
    arguments = parser.parse_args()

    if len(arguments.nets) < 2:
        parser.error(f"a mean takes two nets and more, and {arguments.out} after them for it, which is overwritten")
    loaded = [load_model(LNet, path) for path in arguments.nets]
    mean, notes = loaded[0]
    for path, (net, _) in zip(arguments.nets, loaded, strict=True):
        if net.config != mean.config:
            parser.error(f"{path}: is another net than {arguments.nets[0]}; only equal ones have a mean")
    states = [net.state_dict() for net, _ in loaded]
    state = {
        name: torch.stack([each[name] for each in states]).double().mean(0).to(value.dtype)
        for name, value in mean.state_dict().items()
    }
    mean.load_state_dict(state)
    notes.pop("config")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_model(mean, arguments.out, **{**notes, "mean_of": len(loaded)})


if __name__ == "__main__":
    main()
