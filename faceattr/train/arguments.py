"""Command line options that the scripts of all stages share."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

import torch

from faceattr.arguments import PRECISIONS
from faceattr.precision import compute_dtype
from faceattr.train import parallel


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Where and in what a stage computes: --device, --precision, --threads, --workers."""
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto: cuda where there is one")
    add_precision(parser)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch, on the CPU")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that decode pictures")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """--precision alone."""
    help = "dtype that nets compute in; weights stay in float32 (auto: bfloat16 where the machine multiplies it faster)"
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help=help)


def add_training(parser: argparse.ArgumentParser) -> None:
    """How a stage trains, beside :func:`add_machine`: --seed, --patience, --resume."""
    add_machine(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=int, help="stop after so many evaluations without a new best; keep the best")
    parser.add_argument("--resume", action="store_true", help="go on from the last state, if there is one")


def add_people(parser: argparse._ActionsContainer, help: str) -> None:
    """--people, as often as there are sets: a CSV of partly known tags, and the folder of its pictures."""
    parser.add_argument("--people", type=Path, nargs=2, action="append", default=[], metavar=("CSV", "DIR"), help=help)


def prepare(options: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """Joins the other processes, sets threads; the device to train on and the dtype to compute in."""
    plain_warnings()
    torch.set_num_threads(options.threads)
    device = parallel.join(options.device)
    return device, announced(device, options.precision)


def plain_warnings() -> None:
    """Warnings for who reads the log: what is missing, not where in the code that was noticed."""
    warnings.formatwarning = lambda message, *_: f"{message}\n"


def announced(device: torch.device, precision: str) -> torch.dtype:
    """The dtype to compute in, of which a line on stderr says why."""
    dtype, why = compute_dtype(device, precision)
    if parallel.rank() == 0:
        print(f"computing in {str(dtype).removeprefix('torch.')} on {device}: {why}", file=sys.stderr, flush=True)
    return dtype
