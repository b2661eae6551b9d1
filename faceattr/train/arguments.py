"""Command line options that the scripts of all stages share."""

from __future__ import annotations

import argparse
import os

import torch

from faceattr.train import parallel


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Where a stage runs: --device, --threads, --workers."""
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto: cuda where there is one")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch, on the CPU")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that decode pictures")


def add_training(parser: argparse.ArgumentParser) -> None:
    """How a stage trains, beside :func:`add_machine`: --seed, --patience, --resume."""
    add_machine(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=int, help="stop after so many evaluations without a new best; keep the best")
    parser.add_argument("--resume", action="store_true", help="go on from the last state, if there is one")


def prepare(options: argparse.Namespace) -> torch.device:
    """Joins the other processes, sets threads and seed; the device to train on."""
    torch.set_num_threads(options.threads)
    device = parallel.join(options.device)
    torch.manual_seed(getattr(options, "seed", 0))
    return device
