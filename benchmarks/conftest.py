"""Shared by the benchmarks: threads, and rounds that suit a noisy machine."""

import os
import platform
import time

import pytest
import torch


def pytest_configure(config):
    torch.set_num_threads(int(os.environ.get("FACEATTR_BENCH_THREADS", torch.get_num_threads())))
    torch.manual_seed(0)


def pytest_benchmark_update_machine_info(config, machine_info):
    from faceattr import __version__

    with open("/proc/cpuinfo") as lines:
        model = next(
            (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
        )
    machine_info.update(
        faceattr=__version__,
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        cpu_model=model,
        cores=os.cpu_count(),
        clock=str(config.getoption("benchmark_timer")),
    )


@pytest.fixture
def measure(benchmark):
    """Times a function in a group, under a contender's name; the report compares the fastest rounds."""

    def run(group, contender, function):
        function()
        start = time.perf_counter()
        function()
        rounds = int(min(max(0.3 / (time.perf_counter() - start), 5), 1000))
        benchmark.group = group
        benchmark.extra_info["contender"] = contender
        benchmark.pedantic(function, rounds=rounds)

    return run
