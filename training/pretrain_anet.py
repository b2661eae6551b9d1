"""Pre-trains ANet on identities: softmax over the persons of the training partition and the similarity loss."""

import argparse
from pathlib import Path

import numpy as np
import torch

from faceattr.data.celeba import read_celeba
from faceattr.data.faces import FaceCache
from faceattr.models.anet import CONFIGS, ANet
from faceattr.train.anet import IdentityLoss, IdentityNet
from faceattr.train.loop import fit, save_model

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--celeba", type=Path, required=True, help="folder with CelebA's label files and img_align_celeba/")
parser.add_argument("--cache", type=Path, required=True, help="folder for decoded pictures")
parser.add_argument("--output", type=Path, required=True, help="folder for state, log and anet.safetensors")
parser.add_argument("--config", choices=CONFIGS, default="wide")
parser.add_argument("--epochs", type=float, default=8)
parser.add_argument("--batch", type=int, default=128)
parser.add_argument("--lr", type=float, default=2e-3)
parser.add_argument("--weight-decay", type=float, default=0.05)
parser.add_argument("--similarity", type=float, default=0.5, help="weight of the similarity loss")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--threads", type=int, default=torch.get_num_threads())
parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16, keep weights in float32")
parser.add_argument("--resume", action="store_true")
parser.add_argument("--skip-missing", action="store_true", help="the folder holds a part of CelebA")
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(args.seed)
data = read_celeba(args.celeba, skip_missing=args.skip_missing)
model = ANet(**CONFIGS[args.config])
faces = FaceCache(data.folder, data.names, model.config["input_size"], args.cache / f"aligned-{args.config}.npy")
rows = np.flatnonzero(data.partitions == 0)
net = IdentityNet(model, len(np.unique(data.identities[rows]))).to(memory_format=torch.channels_last)
trained = fit(
    net,
    torch.optim.AdamW(net.parameters(), lr=args.lr, weight_decay=args.weight_decay),
    IdentityLoss(faces, rows, data.identities[rows], args.batch, args.similarity, args.seed),
    steps=round(args.epochs * (len(rows) // args.batch)),
    folder=args.output,
    seed=args.seed,
    bfloat16=args.bfloat16,
    resume=args.resume,
)
save_model(trained.anet, args.output / "anet.safetensors", stage="identities", pictures=len(rows), epochs=args.epochs)
