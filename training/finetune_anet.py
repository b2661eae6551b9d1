"""Fine-tunes ANet on the 40 tags, from identity pre-training (--init) or from scratch."""

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from faceattr.data.celeba import read_celeba
from faceattr.data.faces import FaceCache
from faceattr.models.anet import CONFIGS, ANet
from faceattr.train.anet import TagLoss, predict
from faceattr.train.loop import fit, load_model, save_model

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--celeba", type=Path, required=True, help="folder with CelebA's label files and img_align_celeba/")
parser.add_argument("--cache", type=Path, required=True, help="folder for decoded pictures")
parser.add_argument("--output", type=Path, required=True, help="folder for state, log and anet.safetensors")
parser.add_argument("--config", choices=CONFIGS, default="wide")
parser.add_argument("--init", type=Path, help="anet.safetensors of pretrain_anet.py, of the same config")
parser.add_argument("--epochs", type=float, default=22)
parser.add_argument("--batch", type=int, default=128)
parser.add_argument("--lr", type=float, default=2e-3)
parser.add_argument("--weight-decay", type=float, default=0.05)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--threads", type=int, default=torch.get_num_threads())
parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16, keep weights in float32")
parser.add_argument("--resume", action="store_true")
parser.add_argument("--skip-missing", action="store_true", help="the folder holds a part of CelebA")
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(args.seed)
data = read_celeba(args.celeba, skip_missing=args.skip_missing)
model = load_model(ANet, args.init)[0] if args.init else ANet(**CONFIGS[args.config])
model = model.to(memory_format=torch.channels_last)
faces = FaceCache(data.folder, data.names, model.config["input_size"], args.cache / f"aligned-{args.config}.npy")
rows = np.flatnonzero(data.partitions == 0)
validation = np.flatnonzero(data.partitions == 1)


def evaluate(net: ANet) -> dict[str, float]:
    logits, tags = predict(net, faces, validation).numpy(), data.tags[validation]
    return {"validation_accuracy": ((logits > 0) == tags).mean(), "validation_auc": roc_auc_score(tags, logits)}


steps = len(rows) // args.batch
trained = fit(
    model,
    torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=args.weight_decay),
    TagLoss(faces, rows, data.tags[rows], args.batch, args.seed),
    steps=round(args.epochs * steps),
    folder=args.output,
    seed=args.seed,
    bfloat16=args.bfloat16,
    resume=args.resume,
    evaluate=evaluate,
    evaluate_every=2 * steps,
)
save_model(trained, args.output / "anet.safetensors", stage="tags", pictures=len(rows), epochs=args.epochs)
