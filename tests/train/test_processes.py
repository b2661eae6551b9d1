"""Trainings as programs: killed at random moments and resumed; on two processes; a process of them killed."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from faceattr.train.parallel import SyncBatchNorm

PROGRAM = Path(__file__).with_name("tiny_run.py")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--monitor-interval=0.1")
TOLERANCE = 1e-4
"""Of a loss, relative: float32 sums are taken in another order, and thirty steps carry the difference on."""


def command(folder, *options, torchrun=()):
    return [sys.executable, *torchrun, str(PROGRAM), str(folder), *map(str, options)]


def run(folder, *options, torchrun=()):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    process = subprocess.Popen(
        command(folder, *options, torchrun=torchrun),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors[-3000:]


def losses(folder):
    rows = list(csv.reader((folder / "state" / "log.csv").open(newline="")))[1:]
    return {int(step): float(value) for step, figure, value in rows if figure == "loss"}


def result(folder):
    return (folder / "anet.safetensors").read_bytes(), (folder / "state" / "log.csv").read_bytes()


def test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one(tmp_path):
    options = ("--dropout", 0.3)
    run(tmp_path / "whole", *options)
    killed = 0
    while killed < 3:
        process = subprocess.Popen(
            command(tmp_path / "parts", *options, "--resume", "--pause", 0.05), stderr=subprocess.DEVNULL
        )
        log = tmp_path / "parts" / "state" / "log.csv"
        before = log.stat().st_mtime_ns if log.exists() else 0
        while process.poll() is None and (not log.exists() or log.stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.4))  # any moment: between steps, in one, while the state is written
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
    run(tmp_path / "parts", *options, "--resume")
    assert result(tmp_path / "whole") == result(tmp_path / "parts")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run on two processes."""
    folder = tmp_path_factory.mktemp("two")
    run(folder, "--steps", 30, torchrun=TORCHRUN)
    return folder


def test_two_processes_give_the_losses_of_one_with_the_doubled_batch(two, tmp_path):
    run(tmp_path, "--batch", 32, "--steps", 30)
    one, of_two = losses(tmp_path), losses(two)
    assert list(one) == list(of_two) == list(range(1, 31))
    assert one[30] < 0.95 * one[1]
    for step in one:
        assert of_two[step] == pytest.approx(one[step], rel=TOLERANCE), f"step {step}"


def test_a_killed_process_is_started_again_and_all_go_on_from_the_last_state(two, tmp_path):
    run(tmp_path, "--steps", 30, "--die-at", 23, torchrun=[*TORCHRUN, "--max-restarts=1"])
    assert (tmp_path / "died").exists()
    assert result(tmp_path) == result(two)


@pytest.mark.parametrize("shape", [(12, 5), (6, 5, 4, 3)])
def test_the_synchronised_normalisation_of_one_process_is_torchs(shape):
    torch.manual_seed(0)
    plain = nn.BatchNorm1d(5) if len(shape) == 2 else nn.BatchNorm2d(5)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    twin = type(plain)(5)
    twin.load_state_dict(plain.state_dict())
    synced = SyncBatchNorm(twin)
    x = (torch.randn(shape) * 3 + 7).requires_grad_()
    y = x.detach().clone().requires_grad_()
    target = torch.randn(shape)
    for norm, inputs in ((plain, x), (synced, y)):
        (norm(inputs) * target).sum().backward()
    torch.testing.assert_close(y.grad, x.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(synced.weight.grad, plain.weight.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(synced.state_dict(), plain.state_dict(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(synced.eval()(x), plain.eval()(x))
