"""Training of the localisation nets: LNet+ on object categories, LNet_o and LNet_s on image-level tags."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from faceattr.data.objects import ObjectFolder


def step_generator(seed: int, step: int) -> np.random.Generator:
    """Random numbers of one training step: a resumed run draws what the uninterrupted one would have drawn."""
    return np.random.default_rng((seed, step))


def learning_rate_factor(step: int, steps: int, warm_up: int = 100) -> float:
    """A linear warm-up, then half a cosine down to zero."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def fit(
    model: nn.Module,
    loss: Callable[[nn.Module, int], Tensor],
    *,
    steps: int,
    checkpoint: Path,
    learning_rate: float = 0.05,
    weight_decay: float = 5e-4,
    resume: bool = False,
    save_every: int = 200,
    evaluate: Callable[[nn.Module], str] | None = None,
    evaluate_every: int = 500,
) -> nn.Module:
    """Minimise `loss(model, step)` with SGD (momentum 0.9), cosine learning rate, gradients clipped to norm 5.

    The state is written to `checkpoint` atomically every `save_every` steps; `resume` goes on from it. All randomness of a
    step comes from its number, so nothing but model, optimiser and step needs to be stored.
    """
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True)
    start = 0
    if resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    model.train()
    running = None
    progress = tqdm(range(start, steps), initial=start, total=steps, unit="step", mininterval=5)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * learning_rate_factor(step, steps)
        torch.manual_seed(step)
        value = loss(model, step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        running = value.item() if running is None else 0.98 * running + 0.02 * value.item()
        progress.set_postfix(loss=f"{running:.3f}", refresh=False)
        done = step + 1
        if done % save_every == 0 or done == steps:
            partial = checkpoint.with_suffix(".partial")
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done}, partial)
            os.replace(partial, checkpoint)
        if evaluate is not None and (done % evaluate_every == 0 or done == steps):
            model.eval()
            tqdm.write(f"step {done}: loss {running:.4f}, {evaluate(model)}")
            model.train()
    return model.eval()


def to_images(pictures: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W] in [0, 1], channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float().div_(255)


def random_crops(images: Tensor, size: int, random: np.random.Generator, least: float = 0.3) -> Tensor:
    """One random crop an image, resized to [size, size]: area `least` to 1, aspect 3:4 to 4:3, flips, tone."""
    n = len(images)
    area = random.uniform(least, 1, n)
    aspect = np.exp(random.uniform(-math.log(4 / 3), math.log(4 / 3), n))
    half = np.minimum(np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], 1), 1)
    centre = random.uniform(-1, 1, (n, 2)) * (1 - half)
    flip = random.choice([-1.0, 1.0], n)
    theta = np.zeros((n, 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 0, 2] = half[:, 0] * flip, centre[:, 0]
    theta[:, 1, 1], theta[:, 1, 2] = half[:, 1], centre[:, 1]
    grid = F.affine_grid(torch.from_numpy(theta), [n, 3, size, size], align_corners=False)
    crops = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    gain = torch.from_numpy(random.uniform(0.7, 1.3, (n, 3, 1, 1)).astype(np.float32) ** 0.5)
    gain = gain * torch.from_numpy(random.uniform(0.7, 1.3, (n, 1, 1, 1)).astype(np.float32))
    return (crops * gain).clamp_(0, 1).contiguous(memory_format=torch.channels_last)


def pretrain(
    model: nn.Module,
    train: ObjectFolder,
    validation: ObjectFolder,
    *,
    checkpoint: Path,
    epochs: float = 8,
    batch_size: int = 64,
    size: int = 97,
    learning_rate: float = 0.05,
    seed: int = 0,
    bfloat16: bool = True,
    resume: bool = False,
) -> nn.Module:
    """Train LNet+ to name object categories: softmax cross-entropy, label smoothing 0.1."""
    per_epoch = len(train) // batch_size

    def loss(net: nn.Module, step: int) -> Tensor:
        epoch, position = divmod(step, per_epoch)
        order = np.random.default_rng((seed, epoch, 1)).permutation(len(train))
        chosen = np.sort(order[position * batch_size : (position + 1) * batch_size])
        images = random_crops(to_images(train.images[chosen]), size, step_generator(seed, step))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = net(images)
        return F.cross_entropy(logits.float(), torch.from_numpy(train.labels[chosen]), label_smoothing=0.1)

    @torch.inference_mode()
    def accuracy(net: nn.Module) -> str:
        right = 0
        for start in range(0, len(validation), batch_size):
            images = to_images(validation.images[start : start + batch_size])
            images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
            right += (net(images).argmax(1).numpy() == validation.labels[start : start + batch_size]).sum()
        return f"validation accuracy {right / len(validation):.3f}"

    return fit(
        model.to(memory_format=torch.channels_last),
        loss,
        steps=round(epochs * per_epoch),
        checkpoint=checkpoint,
        learning_rate=learning_rate,
        resume=resume,
        evaluate=accuracy,
    )
