"""What every training stage shares: a loop whose steps depend on their number alone, so that it can be resumed."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm


def generator(*numbers: int) -> torch.Generator:
    """A generator seeded by several numbers (seed, stage, step, ...)."""
    return torch.Generator().manual_seed(_mixed(*numbers))


def _mixed(*numbers: int) -> int:
    """One seed of several."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def cosine(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate: a linear rise to 1 in ``warmup`` steps, then half a cosine to 0 at ``steps``."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[nn.Module, int], tuple[Tensor, dict[str, float]]],
    *,
    steps: int,
    folder: Path,
    seed: int = 0,
    warmup: int = 200,
    averaging: float = 0.998,
    clip: float = 5.0,
    bfloat16: bool = False,
    resume: bool = False,
    save_every: int = 200,
    log_every: int = 20,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    evaluate_every: int = 1000,
) -> nn.Module:
    """Trains ``model`` and returns the running average of its weights.

    ``loss(model, step)`` makes the step's batch itself, from ``step`` alone, so that a resumed run meets the same
    batches; it returns the loss and figures to log. The state goes to ``folder/state.safetensors``, written
    atomically every ``save_every`` steps, and the log to ``folder/log.csv``. With ``resume``, a state that is there is
    continued: the weights are those of an uninterrupted run, bit for bit.

    Raises:
        ValueError: ``resume`` with a state of another model or optimiser.
        FloatingPointError: the loss is no longer finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state, log = folder / "state.safetensors", folder / "log.csv"
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(averaging), use_buffers=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    first = _load_state(state, model, average, optimizer) if resume and state.exists() else 0
    _truncate_log(log, first)
    running: dict[str, float] = {}
    model.train()
    with tqdm(total=steps, initial=first, unit="step", desc=folder.name, dynamic_ncols=True) as progress:
        for step in range(first, steps):
            # Dropout draws from the global generator.
            torch.manual_seed(_mixed(seed, step))
            factor = cosine(step, steps, warmup)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            device = next(model.parameters()).device.type
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                value, figures = loss(model, step)
            if not math.isfinite(value.item()):
                raise FloatingPointError(
                    f"{folder.name}: the loss is {value.item()} at step {step}; lower the learning rate"
                )
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            average.update_parameters(model)
            for name, figure in {"loss": value.item(), **figures}.items():
                running[name] = running.get(name, 0.0) + figure / log_every
            progress.update()
            done = step + 1
            if done % log_every == 0:
                _append_log(log, done, running)
                progress.set_postfix({name: f"{figure:.4f}" for name, figure in running.items()})
                running = {}
            if evaluate and (done % evaluate_every == 0 or done == steps):
                average.eval()
                with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                    figures = evaluate(average.module)
                _append_log(log, done, figures)
                progress.write(f"step {done}: " + ", ".join(f"{name} {figure:.4f}" for name, figure in figures.items()))
            if done % save_every == 0 or done == steps:
                _save_state(state, done, model, average, optimizer)
    return average.module


def _tensors(model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for number, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{slot}": tensor for slot, tensor in slots.items()}
    return tensors


def _save_state(path: Path, step: int, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    tensors = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in _tensors(model, average, optimizer).items()
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"step": str(step)})
    os.replace(partial, path)


def _load_state(path: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restores everything from ``path``; the number of steps done."""
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, rest = name.split(".", 1)
        parts[part][rest] = tensor
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        number, slot = name.split(".")
        slots.setdefault(int(number), {})[slot] = tensor
    try:
        model.load_state_dict(parts["model"])
        average.load_state_dict(parts["average"])
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: the state of another model or optimiser; choose another folder ({error})") from None
    return step


def _append_log(path: Path, step: int, figures: dict[str, float]) -> None:
    """One line a figure, so that stages may log what they like: step, name, value."""
    with path.open("a", newline="") as file:
        csv.writer(file).writerows([step, name, f"{figure:.6g}"] for name, figure in figures.items())


def _truncate_log(path: Path, step: int) -> None:
    """Keeps what was logged up to ``step``: later lines belong to steps that are about to be repeated."""
    rows = list(csv.reader(path.open(newline="")))[1:] if path.exists() else []
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["step", "figure", "value"], *(row for row in rows if int(row[0]) <= step)])


def save_model(model: nn.Module, path: Path, **metadata) -> None:
    """Writes the weights as float32 safetensors with the model's config and ``metadata`` as JSON in the header."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"faceattr": json.dumps({"config": model.config, **metadata})})


def load_model(cls: type[nn.Module], path: Path) -> tuple[nn.Module, dict]:
    """The model that :func:`save_model` wrote, in evaluation mode, and the metadata."""
    with safe_open(path, "pt") as file:
        metadata = json.loads((file.metadata() or {}).get("faceattr", "{}"))
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if "config" not in metadata:
        raise ValueError(f"{path}: not a model written by faceattr's training")
    model = cls(**metadata["config"])
    model.load_state_dict(tensors)
    return model.eval(), metadata
