"""benchmarks/check_on_gpu.sh and its parts, rehearsed without a GPU: they have ten minutes and nobody to help."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import faceattr

ROOT = Path(__file__).parent.parent.parent
GPU = ROOT / "benchmarks" / "gpu"
STEPS = ["machine", "load", "smoke", "key-rows", "ncu", "tests", "memcheck", "racecheck", "large", "rivals"]
# Stands for python, ncu and all: notes what it is asked, prints a line, and fails or hangs where it is told to.
STUB = """#!/bin/bash
call="$(basename "$0") $*"
echo "${call//$'\\n'/ }" >> "$CALLS"
echo "output of $call"
for word in $HANG; do [[ "$call" == *$word* ]] && sleep 60; done
for word in $FAIL; do [[ "$call" == *$word* ]] && exit 1; done
exit 0
"""


@pytest.fixture
def rehearse(tmp_path):
    """Runs the script with stubs; (finished process, seconds, what was called)."""
    for name in ("stub-python", "nvidia-smi", "ncu", "compute-sanitizer"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)

    def run(**settings):
        calls = tmp_path / "calls"
        calls.write_text("")
        environment = {**os.environ, "FAIL": "", "HANG": "", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        environment |= {"PYTHON": str(tmp_path / "stub-python"), "OUT": str(tmp_path / "out"), "CALLS": str(calls)}
        began = time.monotonic()
        process = subprocess.run(
            ["bash", ROOT / "benchmarks" / "check_on_gpu.sh"],
            env=environment | settings,
            capture_output=True,
            text=True,
        )
        return process, time.monotonic() - began, calls.read_text()

    return run


def steps_of(process):
    return [line.split()[1].rstrip(":") for line in process.stdout.splitlines() if line.startswith("== ")][:-1]


def test_every_step_in_order_and_all_output_kept(rehearse, tmp_path):
    process, _, calls = rehearse()
    assert process.returncode == 0, process.stdout
    assert steps_of(process) == STEPS
    everything = (tmp_path / "out" / "all.txt").read_text()
    assert everything.count("output of") == calls.count("\n")
    for group in ("bfloat16", "TF32", "float32", "float16", "float64 interweaved others"):
        assert f"smoke.py {group}\n" in calls
    assert len(list((tmp_path / "out").iterdir())) <= 8


def test_a_failing_step_does_not_stop_the_others(rehearse):
    process, _, _ = rehearse(FAIL="key_rows.py smoke.py ncu tests/cuda")
    assert process.returncode == 1
    assert steps_of(process) == STEPS
    failed = process.stdout.splitlines()[-1].split("failed: ")[1]
    assert failed == "smoke key-rows ncu tests memcheck racecheck large"


def test_a_library_that_does_not_load_is_built(rehearse):
    process, _, calls = rehearse(FAIL="o.locally_shared_conv2d(x,")
    assert steps_of(process) == [*STEPS[:2], "build", "load-again", *STEPS[2:]]
    assert process.stdout.endswith("failed: load-again\n")
    for extension in ("_C", "_build_info", "_C_cuda"):
        assert f"benchmarks/gpu/build.py faceattr.{extension}\n" in calls


def test_a_step_that_hangs_is_ended_in_time(rehearse):
    process, seconds, _ = rehearse(HANG="key_rows.py", LIMIT="6", LEAST="1")
    assert seconds < 20
    assert steps_of(process) == STEPS
    assert "== key-rows: exit status 124" in process.stdout and "== ncu: no time left" in process.stdout


def load(name):
    spec = importlib.util.spec_from_file_location(name, GPU / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WORKER = """
import os, sys, time
for key in sys.argv[1:]:
    print("++", key, flush=True)
    if key == "hangs":
        time.sleep(60)
    if key == "dies":
        os.abort()
    print("--", key, flush=True)
"""


def test_a_key_row_that_fails_costs_that_row_alone(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("DEVICE", "cpu")
    key_rows = load("key_rows")
    key_rows.SILENCE = 3
    (tmp_path / "worker.py").write_text(WORKER)
    lost = key_rows.supervise([sys.executable, str(tmp_path / "worker.py")], ["a", "dies", "b", "hangs", "c"])
    assert lost == ["dies", "hangs"]
    assert [line for line in capfd.readouterr().out.splitlines() if line.startswith("--")] == ["-- a", "-- b", "-- c"]


def test_key_rows_and_smoke_test_run(tmp_path):
    # The package that is tested, installed or built in place.
    environment = {**os.environ, "DEVICE": "cpu", "PYTHONPATH": str(Path(faceattr.__file__).parents[1])}
    output = tmp_path / "rows.md"
    command = [sys.executable, GPU / "key_rows.py", output, "C4:1:TF32", "C3:1:none"]
    process = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert "FAIL C3:1:none" in process.stdout
    rows = [line.split(" | ")[3] for line in output.read_text().splitlines() if line.startswith("| C4")]
    assert rows == ["forward", "to the input", "to the weight", "both gradients"]
    script = f"import sys; sys.path.insert(0, {str(GPU)!r}); import smoke; smoke.shared('TF32', list(smoke.SHAPES)[:1])"
    process = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    lines = process.stdout.splitlines()
    assert len(lines) == 10 and all(line.startswith("ok") for line in lines), process.stdout + process.stderr
