"""ANet's two stages: identities (softmax and similarity), then the 40 tags (sigmoid cross-entropy)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from faceattr.data.faces import Augmentation, FaceCache, augment, crop
from faceattr.models.anet import ANet
from faceattr.train.loop import generator

LOGIT_SCALE = 24.0
"""Of identity logits, which are cosines; sharp enough for thousands of identities."""


class IdentityNet(nn.Module):
    """ANet's features with one logit an identity, for pre-training.

    Features and the identities' weights are normalised. Plain ones do not learn from five pictures a person, and the
    similarity loss would shrink the features themselves.
    """

    def __init__(self, anet: ANet, identities: int):
        super().__init__()
        self.anet = anet
        self.identity = nn.Parameter(torch.randn(identities, anet.config["features"]) * 0.05)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features of length 1 [N, F] and identity logits [N, I]."""
        features = F.normalize(self.anet.features(images).float())
        return features, LOGIT_SCALE * F.linear(features, F.normalize(self.identity))


def similarity_loss(features: Tensor, identities: Tensor) -> Tensor:
    """Mean over the batch's same-identity pairs of the squared distance of their features; 0 without a pair."""
    same = torch.triu(identities[:, None] == identities[None], diagonal=1)
    first, second = same.nonzero(as_tuple=True)
    if not len(first):
        return features.sum() * 0
    return (features[first] - features[second]).square().sum(1).mean()


def paired_rows(identities: np.ndarray, batch: int, seed: int, step: int) -> np.ndarray:
    """Rows of the step's batch: a shuffle of all pictures an epoch, in which two of one identity stay together."""
    per_epoch = len(identities) // batch
    epoch, number = divmod(step, per_epoch)
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(identities))
    order = order[np.argsort(identities[order], kind="stable")]
    pairs = np.array_split(order, (len(order) + 1) // 2)
    random.shuffle(pairs)
    return np.concatenate(pairs)[number * batch : (number + 1) * batch]


def shuffled_rows(count: int, batch: int, seed: int, step: int) -> np.ndarray:
    """Rows of the step's batch: a shuffle of all pictures an epoch."""
    epoch, number = divmod(step, count // batch)
    return np.random.default_rng((seed, epoch)).permutation(count)[number * batch : (number + 1) * batch]


class IdentityLoss:
    """Softmax cross-entropy over identities plus ``weight`` times the similarity loss."""

    def __init__(
        self, faces: FaceCache, rows: np.ndarray, identities: np.ndarray, batch: int, weight: float, seed: int
    ):
        self.faces, self.rows, self.batch, self.weight, self.seed = faces, rows, batch, weight, seed
        self.identities = np.unique(identities, return_inverse=True)[1]
        self.augmentation = Augmentation()

    def __call__(self, model: IdentityNet, step: int) -> tuple[Tensor, dict[str, float]]:
        rows = paired_rows(self.identities, self.batch, self.seed, step)
        labels = torch.from_numpy(self.identities[rows])
        size = model.anet.config["input_size"]
        images = augment(self.faces.batch(self.rows[rows]), size, self.augmentation, generator(self.seed, 1, step))
        features, logits = model(images.contiguous(memory_format=torch.channels_last))
        softmax = F.cross_entropy(logits.float(), labels)
        similarity = similarity_loss(features.float(), labels)
        correct = (logits.argmax(1) == labels).float().mean().item()
        figures = {"softmax": softmax.item(), "similarity": similarity.item(), "correct": correct}
        return softmax + self.weight * similarity, figures


class TagLoss:
    """Mean sigmoid cross-entropy over the tags."""

    def __init__(self, faces: FaceCache, rows: np.ndarray, tags: np.ndarray, batch: int, seed: int):
        self.faces, self.rows, self.batch, self.seed = faces, rows, batch, seed
        self.tags = torch.from_numpy(tags).float()
        self.augmentation = Augmentation()

    def __call__(self, model: ANet, step: int) -> tuple[Tensor, dict[str, float]]:
        rows = shuffled_rows(len(self.rows), self.batch, self.seed, step)
        pictures = self.faces.batch(self.rows[rows])
        images = augment(pictures, model.config["input_size"], self.augmentation, generator(self.seed, 2, step))
        logits = model(images.contiguous(memory_format=torch.channels_last)).float()
        tags = self.tags[rows]
        accuracy = ((logits > 0) == tags.bool()).float().mean().item()
        return F.binary_cross_entropy_with_logits(logits, tags), {"accuracy": accuracy}


def predict(model: ANet, faces: FaceCache, rows: np.ndarray, batch: int = 250) -> Tensor:
    """Logits [N, A] of the plain crops of aligned faces."""
    size = tuple(model.config["input_size"])
    return torch.cat([model(crop(faces.batch(part), size, size)).float() for part in _parts(rows, batch)])


@torch.no_grad()
def pooled_features(
    model: ANet, faces: FaceCache, rows: np.ndarray, positions: tuple[int, int], batch: int = 50
) -> Tensor:
    """:meth:`ANet.pooled_features` [N, F] of aligned faces, over a field of ``positions`` round the plain crop."""
    plain = tuple(model.config["input_size"])
    size = tuple(length + model.step * (count - 1) for length, count in zip(plain, positions, strict=True))
    parts = tqdm(_parts(rows, batch), desc="features", unit="batch")
    return torch.cat([model.pooled_features(crop(faces.batch(part), size, plain)) for part in parts])


def _parts(rows: np.ndarray, batch: int) -> list[np.ndarray]:
    return [rows[start : start + batch] for start in range(0, len(rows), batch)]
