"""Fits the SVMs on ANet's features of the validation partition, with calibration and thresholds by cross-validation."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from faceattr.attributes import ATTRIBUTES
from faceattr.data.celeba import read_celeba
from faceattr.data.faces import FaceCache
from faceattr.evaluation.attributes import evaluate, table
from faceattr.models.anet import CONFIGS, ANet
from faceattr.train.anet import pooled_features
from faceattr.train.loop import load_model, save_model
from faceattr.train.svm import fit_svm

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--celeba", type=Path, required=True, help="folder with CelebA's label files and img_align_celeba/")
parser.add_argument("--cache", type=Path, required=True, help="folder for decoded pictures")
parser.add_argument("--anet", type=Path, required=True, help="anet.safetensors of finetune_anet.py")
parser.add_argument("--output", type=Path, required=True, help="the SVMs (.safetensors); figures go beside (.json)")
parser.add_argument("--partition", type=int, default=1, help="what the SVMs learn from; ANet must not have seen it")
parser.add_argument("--look", type=int, default=2, help="partition whose figures are printed; nothing is chosen by it")
parser.add_argument("--positions", type=int, nargs=2, default=(2, 2), help="rows and columns of crops that are pooled")
parser.add_argument("--folds", type=int, default=5)
parser.add_argument("--threads", type=int, default=torch.get_num_threads())
parser.add_argument("--skip-missing", action="store_true", help="the folder holds a part of CelebA")
args = parser.parse_args()

torch.set_num_threads(args.threads)
data = read_celeba(args.celeba, skip_missing=args.skip_missing)
anet = load_model(ANet, args.anet)[0]
name = next(name for name, config in CONFIGS.items() if ANet(**config).config == anet.config)
faces = FaceCache(data.folder, data.names, anet.config["input_size"], args.cache / f"aligned-{name}.npy")
anet = anet.fold_batch_norm()


def features_of(partition: int) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features and rows of a partition."""
    rows = np.flatnonzero(data.partitions == partition)
    return pooled_features(anet, faces, rows, tuple(args.positions)).double().numpy(), rows


features, rows = features_of(args.partition)
head = (anet.head.weight.detach().double().numpy(), anet.head.bias.detach().double().numpy())
svm, thresholds, probabilities, strength = fit_svm(
    features, data.tags[rows], data.identities[rows], folds=args.folds, prior=head
)
figures = {"cross-validated": {}, "held out": {}}
for goal in thresholds:
    result = evaluate(probabilities, data.tags[rows], thresholds[goal], ATTRIBUTES)
    figures["cross-validated"][goal] = result["mean"]
features, rows = features_of(args.look)
with torch.no_grad():
    probabilities = svm(torch.from_numpy(features).float()).numpy()
for goal in thresholds:
    result = evaluate(probabilities, data.tags[rows], thresholds[goal], ATTRIBUTES)
    figures["held out"][goal] = result["mean"]
    print(f"partition {args.look}, thresholds for {goal}:\n{table(result)}\n")
print(json.dumps(figures, indent=1))
save_model(svm, args.output, positions=list(args.positions), strength=strength, thresholds=thresholds, metrics=figures)
args.output.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
