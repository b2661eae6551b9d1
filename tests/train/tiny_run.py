"""A training of a tiny net, run as a program by the tests that kill it or run it on several processes.

python tiny_run.py FOLDER [--steps N] [--batch N] [--dropout P] [--resume] [--die-at STEP] [--pause SECONDS]
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from faceattr.models.anet import ANet
from faceattr.train import parallel
from faceattr.train.anet import IdentityLoss, IdentityNet, TagLoss
from faceattr.train.loop import fit, save_model

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_anet import TINY  # noqa: E402


class MadeUpFaces:
    """Noise in place of decoded pictures; each identity has a colour, whose red and green are the two tags."""

    identities = np.arange(192) % 24

    def __init__(self):
        random = np.random.default_rng(0)
        colours = random.integers(60, 200, (24, 3, 1, 1))[self.identities]
        self.tags = colours[:, :2, 0, 0] > 130
        self.pictures = (colours + random.integers(-50, 50, (192, 3, 44, 36))).astype(np.uint8)

    def batch(self, rows):
        return torch.from_numpy(self.pictures[rows])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dropout", type=float, help="learn the tags, with dropout, instead of the identities")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--die-at", type=int, help="the last process kills itself before this step, once")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds a step, so that there is time to be killed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parallel.join("cpu")
    torch.manual_seed(0)
    faces, rows, size = MadeUpFaces(), np.arange(192), TINY["input_size"]
    if args.dropout is None:
        anet = ANet(**TINY, batch_norm=True)
        net = IdentityNet(anet, 24)
        loss = IdentityLoss(faces, rows, faces.identities, args.batch, 0.5, 0, size)
    else:
        net = anet = ANet(**TINY, batch_norm=True, dropout=args.dropout)
        loss = TagLoss(faces, rows, faces.tags, args.batch, 0, size)

    died = args.folder / "died"

    def loss_or_death(model, step):
        if step == args.die_at and parallel.rank() == parallel.world() - 1 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(args.pause)
        return loss(model, step)

    trained = fit(
        net,
        torch.optim.AdamW(net.parameters(), lr=1e-3),
        loss_or_death,
        steps=args.steps,
        folder=args.folder / "state",
        warmup=5,
        save_every=5,
        log_every=1,
        resume=args.resume,
    )
    save_model(trained if net is anet else trained.anet, args.folder / "anet.safetensors")


if __name__ == "__main__":
    main()
