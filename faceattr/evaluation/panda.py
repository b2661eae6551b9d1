"""PANDA after Zhang et al. (2014), for faces: a small CNN a part, joined features, one linear SVM an attribute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from faceattr.evaluation.parts import PARTS, cut_part
from faceattr.train.svm import fit_svm

SIDE = 40
"""Pixels a side of a part."""
SVM_SHARE = 0.25
"""Share of the people whose pictures the SVMs learn from; the CNNs learn from the others."""


class PartNet(nn.Module):
    """A part [N, 3, 40, 40] in [0, 1] -> `features` [N, 64] -> logits [N, A]."""

    def __init__(self, attributes: int):
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (SIDE // 8) ** 2, 64), nn.ReLU())
        self.head = nn.Linear(64, attributes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class Panda:
    """fit() and probabilities() take what describe() makes of placed pictures, stacked."""

    def __init__(self, epochs: int = 8, seed: int = 0):
        self.epochs, self.seed = epochs, seed

    def describe(self, placed: np.ndarray) -> np.ndarray:
        """The parts, [P, 3, 40, 40] uint8, of a picture [218, 178, 3] uint8 with the face as in aligned ones."""
        parts = np.stack([cut_part(placed, part, SIDE) for part in PARTS])
        return np.rint(parts * 255).astype(np.uint8).transpose(0, 3, 1, 2)

    def fit(
        self, parts: np.ndarray, tags: np.ndarray, identities: np.ndarray, names: Sequence[str] | None = None
    ) -> None:
        """Parts [N, P, 3, 40, 40], tags [N, A] bool, identities [N]; thresholds, by goal, are in `thresholds` then.

        names: of the attributes, for the error that tells which of them is the same for all.
        """
        aside = self.fit_nets(parts, tags, identities)
        features = self.features(parts[aside])
        self.svm, self.thresholds, _, _ = fit_svm(features, tags[aside], identities[aside], folds=3, names=names)

    def fit_nets(self, parts: np.ndarray, tags: np.ndarray, identities: np.ndarray) -> np.ndarray:
        """Trains the CNNs alone, without the pictures [N] bool that it returns: they are for the SVMs."""
        people = np.random.default_rng(self.seed).permutation(np.unique(identities))
        aside = np.isin(identities, people[: max(1, round(SVM_SHARE * len(people)))])
        self.nets = [self._train(parts[~aside, part], tags[~aside], part) for part in range(len(PARTS))]
        return aside

    @torch.inference_mode()
    def features(self, parts: np.ndarray) -> np.ndarray:
        """What the CNNs say of the parts, joined: [N, 64 P]."""
        joined = []
        for batch in torch.from_numpy(parts).split(256):
            images = batch.float() / 255
            joined.append(torch.cat([net.features(images[:, part]) for part, net in enumerate(self.nets)], 1))
        return torch.cat(joined).numpy()

    @torch.inference_mode()
    def probabilities(self, parts: np.ndarray) -> np.ndarray:
        """[N, A], calibrated."""
        return self.svm(torch.from_numpy(self.features(parts))).numpy()

    def _train(self, images: np.ndarray, tags: np.ndarray, part: int) -> PartNet:
        generator = torch.Generator().manual_seed(self.seed + part)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed + part)
            net = PartNet(tags.shape[1])
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
        truth = torch.from_numpy(tags).float()
        for _ in range(self.epochs):
            for rows in torch.randperm(len(images), generator=generator).split(64):
                batch = torch.from_numpy(images[rows.numpy()]).float() / 255
                if torch.rand((), generator=generator) < 0.5:
                    batch = batch.flip(3)
                loss = F.binary_cross_entropy_with_logits(net(batch), truth[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return net.eval()
