"""What each part of ANet brings: small trainings that differ in one thing, on the same pictures for the same epochs.

For every variant: accuracy, balanced accuracy and AUC by the net's own logits, by the SVMs on one view and by the SVMs
on pooled views, on a partition that nothing was chosen on. Variants that are done are read, not trained again.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from faceattr.attributes import ATTRIBUTES
from faceattr.data.celeba import read_celeba
from faceattr.data.faces import FaceCache
from faceattr.data.tagged import TaggedPictures
from faceattr.evaluation.attributes import choose_threshold, evaluate
from faceattr.models.anet import CONFIGS, ANet
from faceattr.train.anet import (
    IdentityLoss,
    IdentityNet,
    TagLoss,
    few_a_person,
    for_tags,
    freeze,
    pooled_features,
    predict,
)
from faceattr.train.arguments import add_machine, prepare
from faceattr.train.loop import fit, seeded
from faceattr.train.optimizers import make_optimizer
from faceattr.train.svm import THRESHOLD_TRUST, fit_svm

PAPER = CONFIGS["small"]


@dataclass(frozen=True)
class Variation:
    """What a variant has its own: the net's config, and of identity pre-training, if there is any, the margin, the most
    pictures of a person, and which layers the tags leave as they are."""

    config: dict
    margin: str | None = None
    per_person: int | None = None
    frozen: str | None = None


VARIANTS = {
    # C3's pooling windows must lie within a cell: 5x4 is the finest grid of its 10x8 positions. C4's 4x3 is unshared.
    "paper width": Variation(PAPER),
    "shared like a convolution: grids 1x1": Variation({**PAPER, "c3": (60, 3, (1, 1)), "c4": (80, 2, (1, 1))}),
    "half the cells: grids 5x2 and 4x1": Variation({**PAPER, "c3": (60, 3, (5, 2)), "c4": (80, 2, (4, 1))}),
    "pre-trained on identities": Variation(PAPER, "none"),
    "identities, ArcFace": Variation(PAPER, "arcface"),
    "identities, CosFace": Variation(PAPER, "cosface"),
    "identities, C1 and C2 frozen": Variation(PAPER, "none", frozen="shared"),
    "identities, all layers frozen": Variation(PAPER, "none", frozen="features"),
    **{f"identities, {n} pictures a person": Variation(PAPER, "none", per_person=n) for n in (2, 4, 6, 8)},
    "wide": Variation(CONFIGS["wide"]),
    "wide, identities": Variation(CONFIGS["wide"], "none"),
    "wide, identities, ArcFace": Variation(CONFIGS["wide"], "arcface"),
}
DEFAULT = ("paper width", "shared like a convolution: grids 1x1", "half the cells: grids 5x2 and 4x1")
DEFAULT += ("pre-trained on identities", "wide")


class Variant:
    """One net on the pictures of ``data``: trained, and its figures by how its attributes are read off."""

    def __init__(self, name: str, data: TaggedPictures, args: argparse.Namespace):
        self.name, self.data, self.args = name, data, args
        self.train, self.validation, self.test = (np.flatnonzero(data.partitions == number) for number in range(3))

    def run(self) -> dict[str, dict[str, float]]:
        args, data = self.args, self.data
        variation = VARIANTS[self.name]
        with seeded(args.seed):
            model = ANet(**variation.config).to(memory_format=torch.channels_last)
        size = tuple(model.config["input_size"])
        resolution = "wide" if variation.config is CONFIGS["wide"] else "paper"
        self.faces = FaceCache(data.folder, data.names, size, args.cache / f"aligned-{resolution}.npy", args.workers)
        folder = args.output / self.name.split(":")[0].replace(",", "").replace(" ", "-")
        tags = data.tags[self.train].astype(np.float32)
        if variation.margin:
            rows = self.train
            if variation.per_person:
                rows = rows[few_a_person(data.identities[rows], variation.per_person)]
            persons = np.unique(data.identities[rows], return_inverse=True)[1]
            loss = IdentityLoss(self.faces, rows, persons, args.batch, 0.5, args.seed, size, variation.margin)
            with seeded(args.seed, 1):
                net = IdentityNet(model, persons.max() + 1).to(memory_format=torch.channels_last)
            # As many steps for few pictures as for all: what differs is what they can teach. Variants that differ in
            # what comes after go on from one pre-training.
            taught = f"{resolution}-{variation.margin}-{variation.per_person or 'all'}"
            model = for_tags(self._fit(net, loss, args.identity_epochs, args.output / "identities" / taught))
        if variation.frozen:
            freeze(*([model.shared] if variation.frozen == "shared" else list(model.children())[:-1]))
        loss = TagLoss(self.faces, self.train, tags, args.batch, args.seed, size)
        return self._figures(self._fit(model, loss, args.epochs, folder).eval())

    def _fit(self, net: nn.Module, loss, epochs: float, folder: Path) -> nn.Module:
        steps = round(epochs * (len(self.train) // self.args.batch))
        optimizer = make_optimizer("adamw", net)
        shared = {"seed": self.args.seed, "dtype": self.args.dtype, "resume": True}
        return fit(net, optimizer, loss, steps=steps, folder=folder, **shared)

    @torch.no_grad()
    def _figures(self, model: ANet) -> dict[str, dict[str, float]]:
        # The net's logits: thresholds on validation, as the SVMs have theirs.
        logits = [predict(model, self.faces, rows).sigmoid().double().numpy() for rows in (self.validation, self.test)]
        columns = list(zip(logits[0].T, self.data.tags[self.validation].T, strict=True))
        thresholds = {
            goal: [choose_threshold(*column, goal, THRESHOLD_TRUST) for column in columns]
            for goal in ("accuracy", "balanced")
        }
        figures = {"logits": self._means(logits[1], thresholds)}
        net = model.fold_batch_norm()
        prior = (net.head.weight.double().numpy(), net.head.bias.double().numpy())
        learnt = self.data.select(self.validation)
        for title, positions in (("SVM, one view", (1, 1)), ("SVM, views", (2, 2))):
            features = [
                pooled_features(net, self.faces, rows, positions).double().numpy()
                for rows in (self.validation, self.test)
            ]
            svm, thresholds, _, _ = fit_svm(features[0], learnt.tags, learnt.identities, prior=prior)
            figures[title] = self._means(svm(torch.from_numpy(features[1]).float()).numpy(), thresholds)
        return figures

    def _means(self, probabilities: np.ndarray, thresholds: dict[str, list[float]]) -> dict[str, float]:
        by_goal = {
            goal: evaluate(probabilities, self.data.tags[self.test], values, ATTRIBUTES)["mean"]
            for goal, values in thresholds.items()
        }
        return {
            "accuracy": by_goal["accuracy"]["accuracy"],
            "balanced accuracy": by_goal["balanced"]["balanced_accuracy"],
            "AUC": by_goal["accuracy"]["auc"],
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--celeba", type=Path, required=True, help="CelebA's label files and img_align_celeba/")
    parser.add_argument("--cache", type=Path, required=True, help="folder for decoded pictures")
    parser.add_argument("--output", type=Path, required=True, help="folder for the variants' states and ablation.json")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=DEFAULT, metavar="NAME")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--identity-epochs", type=float, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-missing", action="store_true", help="the folder holds a part of CelebA")
    add_machine(parser)
    args = parser.parse_args()
    _, args.dtype = prepare(args)
    data = read_celeba(args.celeba, skip_missing=args.skip_missing)
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "ablation.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in args.variants:
        if name not in results:
            results[name] = Variant(name, data, args).run()
            path.write_text(json.dumps(results, indent=1) + "\n")
    print("| ANet | read off by | accuracy | balanced accuracy | AUC |\n|---|---|---|---|---|")
    for name, by_reading in results.items():
        for title, figures in by_reading.items():
            print(f"| {name} | {title} | " + " | ".join(f"{value:.4f}" for value in figures.values()) + " |")


if __name__ == "__main__":
    main()
