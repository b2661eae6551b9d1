"""What every training stage shares: a loop whose steps depend on their number alone, so that it can be resumed."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from faceattr.train import parallel


def generator(*numbers: int) -> torch.Generator:
    """A generator seeded by several numbers (seed, stage, step, ...)."""
    return torch.Generator().manual_seed(_mixed(*numbers))


def _mixed(*numbers: int) -> int:
    """One seed of several."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Within, torch's global generator, from which modules initialise themselves, is seeded by these numbers; what was
    drawn from it before changes nothing, and what comes after continues as if nothing had been drawn within."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_mixed(*numbers))
        yield


def cosine(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate: a linear rise to 1 in ``warmup`` steps, then half a cosine to 0 at ``steps``."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


class Ahead:
    """Calls ``make(step)`` for the next two steps in threads while the current one trains."""

    def __init__(self, make: Callable[[int], Any]):
        self.make, self.pool = make, ThreadPoolExecutor(2)
        self.waiting: dict[int, Future] = {}

    def __call__(self, step: int) -> Any:
        wanted = (step, step + 1, step + 2)
        self.waiting = {number: self.waiting.get(number) or self.pool.submit(self.make, number) for number in wanted}
        return self.waiting.pop(step).result()


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
    dtype: torch.dtype = torch.float32,
    resume: bool = False,
    save_every: int = 200,
    log_every: int = 20,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    evaluate_every: int = 1000,
    watch: str | None = None,
    patience: int | None = None,
) -> nn.Module:
    """Trains ``model``, where it lies, and returns the running average of its weights.

    ``loss(model, step)`` makes the step's batch itself, from ``step`` alone, so that a resumed run meets the same
    batches; it returns the loss and figures to log. Where ``dtype`` is bfloat16 it computes in that, and
    weights stay in float32. The state goes to ``folder/state.safetensors``, written atomically every ``save_every``
    steps, the log to ``folder/log.csv`` and ``folder/tensorboard``. With ``resume``, a state that is there is
    continued: the weights are those of an uninterrupted run, bit for bit.

    With ``patience``, training stops early when the figure ``watch`` of ``evaluate`` has not been above its best for
    so many evaluations, and the weights of the best one are returned.

    On several processes (:mod:`faceattr.train.parallel`) each makes its own part of the batch and ``loss`` gives the
    mean over it; gradients are averaged, batch statistics shared. A process that torchrun has restarted resumes.

    Raises:
        ValueError: no step to train, ``resume`` with a state of another model, or ``watch`` that names no figure.
        FloatingPointError: the loss is no longer finite.
    """
    if steps < 1:
        raise ValueError(f"{folder}: {steps} steps to train; are there fewer pictures than a batch holds?")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "state.safetensors"
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(averaging), use_buffers=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    state = State(model, average, optimizer)
    if resume or parallel.restarted():
        state.load(path)
    elif parallel.rank() == 0:
        # A process that is restarted before the first save must not continue an earlier run.
        path.unlink(missing_ok=True)
    net = model
    if parallel.world() > 1:
        net = DistributedDataParallel(parallel.synchronise(model))
    device = next(model.parameters()).device
    log = Log(folder, state.step)
    running: dict[str, float] = {}
    net.train()
    with tqdm(
        total=steps,
        initial=state.step,
        unit="step",
        desc=folder.name,
        dynamic_ncols=True,
        disable=parallel.rank() > 0,
    ) as progress:
        while state.step < steps and not (patience and state.worse >= patience):
            step = state.step
            # Dropout draws from the global generator.
            torch.manual_seed(_mixed(seed, step, parallel.rank()))
            factor = cosine(step, steps, warmup)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                value, figures = loss(net, step)
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
            done = state.step = step + 1
            if done % log_every == 0:
                figures = _over_processes(running)
                log.write(done, figures)
                progress.set_postfix({name: f"{figure:.4f}" for name, figure in figures.items()})
                running = {}
            if evaluate and (done % evaluate_every == 0 or done == steps):
                average.eval()
                with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                    figures = _over_processes(evaluate(average.module))
                log.write(done, figures)
                if parallel.rank() == 0:
                    progress.write(
                        f"step {done}: " + ", ".join(f"{name} {figure:.4f}" for name, figure in figures.items())
                    )
                if patience:
                    if watch not in figures:
                        raise ValueError(f"{folder.name}: evaluation gives no {watch!r} but {', '.join(figures)}")
                    state.judge(figures[watch])
            if done % save_every == 0 or done == steps or (patience and state.worse >= patience):
                state.save(path)
    log.close()
    if patience and state.best_tensors:
        average.load_state_dict(state.best_tensors)
    return average.module.eval()


def _over_processes(figures: dict[str, float]) -> dict[str, float]:
    """Means over the processes."""
    if parallel.world() == 1:
        return figures
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    values = torch.tensor(list(figures.values()), dtype=torch.float64, device=device)
    return dict(zip(figures, (parallel.total(values) / parallel.world()).tolist(), strict=True))


class State:
    """All that a run needs to go on from a step: weights, their average, the optimiser's, the best evaluation."""

    def __init__(self, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer):
        self.model, self.average, self.optimizer = model, average, optimizer
        self.step = 0
        self.best, self.worse = -math.inf, 0
        """The best value so far, and how many evaluations came after it."""
        self.best_tensors: dict[str, Tensor] = {}

    def judge(self, value: float) -> None:
        """Keeps the average's weights if ``value`` is the best so far."""
        self.worse += 1
        if value > self.best:
            self.best, self.worse = value, 0
            self.best_tensors = {name: tensor.clone() for name, tensor in self.average.state_dict().items()}

    def save(self, path: Path) -> None:
        """Writes everything to ``path``, all or nothing; one process does."""
        if parallel.rank() > 0:
            return
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best_tensors.items()}
        for number, slots in self.optimizer.state_dict()["state"].items():
            # SGD without momentum so far has slots of None.
            tensors |= {f"optimizer.{number}.{slot}": tensor for slot, tensor in slots.items() if tensor is not None}
        tensors = {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        notes = {"step": self.step, "processes": parallel.world(), "best": self.best, "worse": self.worse}
        partial = path.with_suffix(".partial")
        # One entry: the file's order of several is not always the same.
        save_file(tensors, partial, {"state": json.dumps(notes)})
        os.replace(partial, path)

    def load(self, path: Path) -> None:
        """Restores everything from ``path`` if it is there."""
        if not path.exists():
            return
        with safe_open(path, "pt") as file:
            notes = json.loads((file.metadata() or {}).get("state", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if notes is None:
            raise ValueError(f"{path}: not a state that this version writes; train anew in another folder")
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = tensor
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            number, slot = name.split(".")
            slots.setdefault(int(number), {})[slot] = tensor
        try:
            self.model.load_state_dict(parts["model"])
            self.average.load_state_dict(parts["average"])
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{path}: the state of another model or optimiser; choose another folder ({error})"
            ) from None
        # Another number of processes takes batches of another size; what counts is how many pictures were seen.
        self.step = notes["step"] * notes["processes"] // parallel.world()
        self.best, self.worse, self.best_tensors = notes["best"], notes["worse"], parts["best"]


class Log:
    """Figures as ``log.csv`` and for TensorBoard; what was logged after ``step`` belongs to steps about to be repeated.

    One process writes.
    """

    def __init__(self, folder: Path, step: int):
        self.path = folder / "log.csv"
        self.board = None
        if parallel.rank() > 0:
            return
        rows = list(csv.reader(self.path.open(newline="")))[1:] if self.path.exists() else []
        # A line that was cut short by a kill lacks fields.
        kept = [row for row in rows if len(row) == 3 and int(row[0]) <= step]
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerows([["step", "figure", "value"], *kept])
        self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def write(self, step: int, figures: dict[str, float]) -> None:
        """One line a figure, so that stages may log what they like: step, name, value."""
        if self.board is None:
            return
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows([step, name, f"{figure:.6g}"] for name, figure in figures.items())
        for name, figure in figures.items():
            self.board.add_scalar(name, figure, step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def save_model(model: nn.Module, path: Path, **metadata) -> None:
    """Writes the weights as float32 safetensors with the model's config and ``metadata`` as JSON in the header.

    The file appears whole or not at all; one process writes it.
    """
    if parallel.rank() > 0:
        return
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, {"faceattr": json.dumps({"config": model.config, **metadata})})
    os.replace(partial, path)


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
