"""What each part of ANet brings: small trainings that differ in one thing, on the same pictures for the same epochs.

For every variant: accuracy, balanced accuracy and AUC by the net's own logits, by the SVMs on one view and by the SVMs
on pooled views, on a partition that nothing was chosen on. Variants that are done are read, not trained again.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from faceattr.attributes import ATTRIBUTES
from faceattr.data.celeba import read_celeba
from faceattr.data.faces import FaceCache
from faceattr.evaluation.attributes import choose_threshold, evaluate
from faceattr.models.anet import CONFIGS, ANet
from faceattr.train.anet import IdentityLoss, IdentityNet, TagLoss, pooled_features, predict
from faceattr.train.loop import fit
from faceattr.train.svm import fit_svm

PAPER = {**CONFIGS["paper"], "batch_norm": True}
VARIANTS = {
    # C3's pooling windows must lie within a cell: 5x4 is the finest grid of its 10x8 positions. C4's 4x3 is unshared.
    "paper width": PAPER,
    "shared like a convolution: grids 1x1": {**PAPER, "c3": (60, 3, (1, 1)), "c4": (80, 2, (1, 1))},
    "half the cells: grids 5x2 and 4x1": {**PAPER, "c3": (60, 3, (5, 2)), "c4": (80, 2, (4, 1))},
    "pre-trained on identities": PAPER,
    "wide": CONFIGS["wide"],
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--celeba", type=Path, required=True, help="folder with CelebA's label files and img_align_celeba/")
parser.add_argument("--cache", type=Path, required=True, help="folder for decoded pictures")
parser.add_argument("--output", type=Path, required=True, help="folder for the variants' states and ablation.json")
parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
parser.add_argument("--epochs", type=float, default=10)
parser.add_argument("--identity-epochs", type=float, default=8)
parser.add_argument("--batch", type=int, default=128)
parser.add_argument("--lr", type=float, default=2e-3)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--threads", type=int, default=torch.get_num_threads())
parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16, keep weights in float32")
parser.add_argument("--skip-missing", action="store_true", help="the folder holds a part of CelebA")
args = parser.parse_args()

torch.set_num_threads(args.threads)
data = read_celeba(args.celeba, skip_missing=args.skip_missing)
train, validation, test = (np.flatnonzero(data.partitions == number) for number in range(3))


def run(name: str) -> dict[str, dict[str, float]]:
    """Figures of one variant by how its attributes are read off."""
    torch.manual_seed(args.seed)
    model = ANet(**VARIANTS[name]).to(memory_format=torch.channels_last)
    resolution = "wide" if name == "wide" else "paper"
    faces = FaceCache(data.folder, data.names, model.config["input_size"], args.cache / f"aligned-{resolution}.npy")
    folder = args.output / name.split(":")[0].replace(" ", "-")
    shared = {"seed": args.seed, "bfloat16": args.bfloat16, "resume": True}
    per_epoch = len(train) // args.batch
    if name.startswith("pre-trained"):
        net = IdentityNet(model, len(np.unique(data.identities[train])))
        loss = IdentityLoss(faces, train, data.identities[train], args.batch, 0.5, args.seed)
        steps = round(args.identity_epochs * per_epoch)
        model = fit(net, optimizer(net), loss, steps=steps, folder=folder / "identities", **shared).anet
    loss = TagLoss(faces, train, data.tags[train], args.batch, args.seed)
    model = fit(model, optimizer(model), loss, steps=round(args.epochs * per_epoch), folder=folder, **shared).eval()

    # The net's logits: thresholds on validation, as the SVMs have theirs.
    with torch.no_grad():
        logits = [predict(model, faces, rows).sigmoid().double().numpy() for rows in (validation, test)]
    figures = {"logits": means(logits[1], thresholds_of(logits[0]))}
    net = model.fold_batch_norm()
    prior = (net.head.weight.detach().double().numpy(), net.head.bias.detach().double().numpy())
    for title, positions in (("SVM, one view", (1, 1)), ("SVM, views", (2, 2))):
        features = [pooled_features(net, faces, rows, positions).double().numpy() for rows in (validation, test)]
        svm, thresholds, _, _ = fit_svm(features[0], data.tags[validation], data.identities[validation], prior=prior)
        with torch.no_grad():
            figures[title] = means(svm(torch.from_numpy(features[1]).float()).numpy(), thresholds)
    return figures


def optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.05)


def thresholds_of(probabilities: np.ndarray) -> dict[str, list[float]]:
    columns = list(zip(probabilities.T, data.tags[validation].T, strict=True))
    return {goal: [choose_threshold(*column, goal) for column in columns] for goal in ("accuracy", "balanced")}


def means(probabilities: np.ndarray, thresholds: dict[str, list[float]]) -> dict[str, float]:
    by_goal = {
        goal: evaluate(probabilities, data.tags[test], values, ATTRIBUTES)["mean"]
        for goal, values in thresholds.items()
    }
    return {
        "accuracy": by_goal["accuracy"]["accuracy"],
        "balanced accuracy": by_goal["balanced"]["balanced_accuracy"],
        "AUC": by_goal["accuracy"]["auc"],
    }


results_path = args.output / "ablation.json"
results = json.loads(results_path.read_text()) if results_path.exists() else {}
for name in args.variants:
    if name not in results:
        results[name] = run(name)
        args.output.mkdir(parents=True, exist_ok=True)
        results_path.write_text(json.dumps(results, indent=1) + "\n")
print("| ANet | read off by | accuracy | balanced accuracy | AUC |\n|---|---|---|---|---|")
for name, by_reading in results.items():
    for title, figures in by_reading.items():
        print(f"| {name} | {title} | " + " | ".join(f"{value:.4f}" for value in figures.values()) + " |")
