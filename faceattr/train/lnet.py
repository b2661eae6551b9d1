"""Training of the localisation nets: LNet+ on object categories, LNet_o and LNet_s on image-level tags."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from faceattr.data.composites import Batch, Composer
from faceattr.data.objects import ObjectFolder
from faceattr.data.warping import to_images
from faceattr.models.lnet import LNet
from faceattr.train import parallel
from faceattr.train.loop import Ahead, fit
from faceattr.train.optimizers import sgd


def random_crops(images: Tensor, size: int, random: np.random.Generator, least: float = 0.3) -> Tensor:
    """One random crop an image, resized to [size, size]: area `least` to 1, aspect 3:4 to 4:3, flips, tone."""
    n = len(images)
    area = random.uniform(least, 1, n)
    aspect = np.exp(random.uniform(-math.log(4 / 3), math.log(4 / 3), n))
    half = np.minimum(np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], 1), 1)
    centre = random.uniform(-1, 1, (n, 2)) * (1 - half)
    flip = random.choice([-1.0, 1.0], n)
    crops = _cut(images, size, half, centre, flip)
    gain = torch.from_numpy(random.uniform(0.7, 1.3, (n, 3, 1, 1)).astype(np.float32) ** 0.5)
    gain = gain * torch.from_numpy(random.uniform(0.7, 1.3, (n, 1, 1, 1)).astype(np.float32))
    return (crops * gain).clamp_(0, 1)


TEN_CROPS = [(x, y, flip) for x, y in ((0, 0), (-1, -1), (1, -1), (-1, 1), (1, 1)) for flip in (1, -1)]
"""The centre and the corners, each as it is and mirrored."""


def ten_crops(images: Tensor, size: int, random: np.random.Generator, side: float = 224 / 256) -> Tensor:
    """One of the paper's ten crops an image, drawn at random: `side` of its height and width, at [size, size]."""
    x, y, flip = np.array(TEN_CROPS, dtype=np.float64)[random.integers(10, size=len(images))].T
    half = np.full((len(images), 2), side)
    return _cut(images, size, half, np.stack([x, y], 1) * (1 - half), flip)


def _cut(images: Tensor, size: int, half: np.ndarray, centre: np.ndarray, flip: np.ndarray) -> Tensor:
    """Crops of images seen as [-1, 1] x [-1, 1]: half their sides [N, 2], centres [N, 2] (x, y), -1 to mirror [N]."""
    theta = np.zeros((len(images), 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 0, 2] = half[:, 0] * flip, centre[:, 0]
    theta[:, 1, 1], theta[:, 1, 2] = half[:, 1], centre[:, 1]
    grid = F.affine_grid(torch.from_numpy(theta), [len(images), 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


CROPS = {"random": random_crops, "ten": ten_crops}


def pretrain(
    model: nn.Module,
    train: ObjectFolder,
    validation: ObjectFolder,
    *,
    folder: Path,
    epochs: float = 8,
    batch_size: int = 64,
    size: int = 97,
    crops: str = "random",
    learning_rate: float = 0.05,
    weight_decay: float = 5e-4,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    resume: bool = False,
    patience: int | None = None,
) -> nn.Module:
    """Train LNet+ to name object categories (softmax cross-entropy, smoothed labels); returns the averaged weights.

    `batch_size` pictures a process; `crops` of CROPS; `patience` counts evaluations, of 500 steps each.
    """
    whole = batch_size * parallel.world()
    per_epoch = len(train) // whole
    device = next(model.parameters()).device

    def make(step: int) -> tuple[Tensor, Tensor]:
        epoch, position = divmod(step, per_epoch)
        order = np.random.default_rng((seed, epoch)).permutation(len(train))
        chosen = np.sort(order[position * whole : (position + 1) * whole])
        images = [
            CROPS[crops](to_images(train.images[chosen[place]]), size, np.random.default_rng((seed, step, number)))
            for number, place in parallel.pieces(batch_size)
        ]
        labels = torch.from_numpy(train.labels[chosen[parallel.part(batch_size)]])
        return torch.cat(images).contiguous(memory_format=torch.channels_last), labels

    batches = Ahead(make)

    def loss(net: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
        images, labels = (tensor.to(device) for tensor in batches(step))
        logits = net(images).float()
        accuracy = (logits.argmax(1) == labels).float().mean().item()
        return F.cross_entropy(logits, labels, label_smoothing=0.1), {"accuracy": accuracy}

    def evaluate(net: nn.Module) -> dict[str, float]:
        right = 0
        for start in range(0, len(validation), batch_size):
            images = to_images(validation.images[start : start + batch_size]).to(device)
            images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
            right += (net(images).argmax(1).cpu().numpy() == validation.labels[start : start + batch_size]).sum()
        return {"validation accuracy": right / len(validation)}

    model = model.to(memory_format=torch.channels_last)
    return fit(
        model,
        sgd(model, learning_rate, weight_decay),
        loss,
        steps=round(epochs * per_epoch),
        folder=folder,
        seed=seed,
        dtype=dtype,
        resume=resume,
        evaluate=evaluate,
        evaluate_every=500,
        watch="validation accuracy",
        patience=patience,
    )


def tag_loss(logits: Tensor, batch: Batch, attributes: int, weight: float = 0.5) -> tuple[Tensor, dict[str, float]]:
    """Sigmoid cross-entropy over the tags that are known: each size class, "a face of any class" (log-sum-exp over the
    classes, as over positions) and, `weight` times, the attributes."""
    sizes, tags, known = logits[:, attributes:], batch.tags[:, attributes:], batch.known[:, attributes:]
    face = (tags * known).amax(1, keepdim=True)
    face_known = torch.maximum(face, known.amin(1, keepdim=True))
    logits = torch.cat([logits, sizes.logsumexp(1, keepdim=True)], 1)
    tags, known = torch.cat([batch.tags, face], 1), torch.cat([batch.known, face_known], 1)
    each = F.binary_cross_entropy_with_logits(logits, tags, reduction="none") * known
    # A mean over the pictures of all processes: theirs know other tags.
    mean = each.sum(0) * parallel.world() / parallel.total(known.sum(0)).clamp_min(1)
    names, classes, face = mean[:attributes].mean(), mean[attributes:-1].mean(), mean[-1]
    return classes + face + weight * names, {"attributes": names.item(), "sizes": classes.item(), "face": face.item()}


def finetune(
    model: LNet,
    composer: Composer,
    *,
    folder: Path,
    steps: int = 3000,
    batch_size: int = 32,
    picture_sizes: Sequence[int] = (57, 65, 73, 81),
    learning_rate: float = 0.02,
    weight_decay: float = 5e-4,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    resume: bool = False,
    patience: int | None = None,
) -> LNet:
    """Train a tag net by the tags of the composer's pictures; returns the running average of the weights.

    `batch_size` pictures a process; `patience` counts evaluations, of 500 steps each.
    """
    model = model.to(memory_format=torch.channels_last)
    attributes = len(model.config["tags"])

    device = model.head.weight.device

    def make(step: int) -> Batch:
        size = int(np.random.default_rng((seed, step)).choice(picture_sizes))
        parts = []
        for number, place in parallel.pieces(batch_size):
            random = np.random.default_rng((seed, step, number))
            parts.append(composer.batch(place.stop - place.start, size, random))
        images = torch.cat([part.images for part in parts]).contiguous(memory_format=torch.channels_last)
        return Batch(images, torch.cat([part.tags for part in parts]), torch.cat([part.known for part in parts]))

    batches = Ahead(make)

    def loss(net: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
        batch = batches(step).to(device)
        return tag_loss(net(batch.images), batch, attributes)

    def evaluate(net: nn.Module) -> dict[str, float]:
        """Ranking of pictures with and without each size tag, on new composites."""
        random = np.random.default_rng((seed, 1 << 40))
        batches = [composer.batch(64, picture_sizes[-1], random).to(device) for _ in range(4)]
        logits = torch.cat([net(batch.images) for batch in batches])[:, attributes:]
        tags = torch.cat([batch.tags for batch in batches])[:, attributes:]
        known = torch.cat([batch.known for batch in batches])[:, attributes:] > 0
        ranks = []
        for k in range(tags.shape[1]):
            true = logits[(tags[:, k] > 0) & known[:, k], k]
            false = logits[(tags[:, k] == 0) & known[:, k], k]
            ranks.append((true[:, None] > false).float().mean().item())
        return {"rank": float(np.mean(ranks))}

    return fit(
        model,
        sgd(model, learning_rate, weight_decay),
        loss,
        steps=steps,
        folder=folder,
        seed=seed,
        dtype=dtype,
        resume=resume,
        evaluate=evaluate,
        evaluate_every=500,
        watch="rank",
        patience=patience,
    )
