"""One training on several processes, as torchrun starts them: who takes which part, and sums over all of them.

Without torchrun there is one process, and every function here does what that means.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from faceattr.pipeline import choose_device

PIECE = 16
"""Pictures of a batch that share a random generator: they come out the same whichever process makes them."""


def join(device: str = "auto") -> torch.device:
    """Joins the processes of torchrun, if it started this one; the device to train on: with CUDA, a GPU for each.

    Raises:
        ValueError: a device that cannot be used, or more processes than GPUs on this machine.
    """
    chosen = choose_device(device)
    if chosen.type == "cuda":
        # Runs repeat bit for bit; where an operation cannot, torch says so.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    if "WORLD_SIZE" not in os.environ:
        return chosen
    if chosen.type == "cuda":
        number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= count:
            raise ValueError(f"torchrun started process {number + 1} here, but there are {count} GPUs; start {count}")
        chosen = torch.device("cuda", number)
        torch.cuda.set_device(chosen)
    store, number, count = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun keeps one store through its restarts, with the addresses of processes that are dead. On several
        # machines, which count their restarts each for itself, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 makes it a new one.
        store = dist.PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    # Others wait while one decodes the pictures; a process that dies is noticed by torchrun, not by this time.
    limit = timedelta(hours=12)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=limit)
    return chosen


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train."""
    return dist.get_world_size() if dist.is_initialized() else 1


def restarted() -> bool:
    """Whether torchrun has started the processes anew: then the last state is to be continued."""
    mine = torch.tensor([float(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))])
    if world() > 1 and dist.get_backend() == "nccl":
        mine = mine.cuda()
    # Each machine counts for itself.
    return total(mine).item() > 0


@contextmanager
def first_on_machine() -> Iterator[None]:
    """Lets one process of each machine through first: it makes the files that the others then find."""
    later = world() > 1 and int(os.environ["LOCAL_RANK"]) > 0
    if later:
        dist.barrier()
    yield
    if world() > 1 and not later:
        dist.barrier()


def wait() -> None:
    """Until all processes have come here."""
    if world() > 1:
        dist.barrier()


def pieces(batch: int) -> list[tuple[int, slice]]:
    """This process's part of a step's batch, which is ``batch`` pictures a process: numbers of its pieces, and where
    each lies in the whole batch. Pictures are cut into the same pieces on any number of processes where ``batch`` is a
    multiple of PIECE."""
    first = rank() * -(-batch // PIECE)
    starts = range(rank() * batch, (rank() + 1) * batch, PIECE)
    return [(first + i, slice(start, min(start + PIECE, (rank() + 1) * batch))) for i, start in enumerate(starts)]


def part(batch: int) -> slice:
    """Where this process's part lies in a step's batch of ``batch`` pictures a process."""
    return slice(rank() * batch, (rank() + 1) * batch)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(ctx, grad):
        return _Sum.apply(grad)


def total(tensor: Tensor) -> Tensor:
    """Sum over the processes. The gradient is that of the sum of all processes' losses."""
    return _Sum.apply(tensor) if world() > 1 else tensor


def gather(tensor: Tensor) -> Tensor:
    """[N, ...] of every process, joined in their order: [W * N, ...]; the gradient as for :func:`total`."""
    if world() == 1:
        return tensor
    before, after = rank() * len(tensor), (world() - 1 - rank()) * len(tensor)
    return total(
        torch.cat([tensor.new_zeros(before, *tensor.shape[1:]), tensor, tensor.new_zeros(after, *tensor.shape[1:])])
    )


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation by the statistics of all processes' batches, which are of one size.

    torch.nn.SyncBatchNorm does the same, on GPUs alone.
    """

    def __init__(self, norm: _BatchNorm):
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, getattr(norm, name))

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions goes."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        dims = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = x.numel() // x.shape[1] * world()
        mean = total(x.mean(dims)) / world()
        centred = x - mean.view(shape)
        variance = total(centred.square().mean(dims)) / world()
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)


def synchronise(model: nn.Module) -> nn.Module:
    """The model with its batch normalisations synchronised over the processes, in place; parameters stay the same."""
    if next(model.parameters()).device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, SyncBatchNorm(child))
    return model
