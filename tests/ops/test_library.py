import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import faceattr.ops

SCRIPT = """
import sys, time
import torch
start = time.perf_counter()
import faceattr.ops
print(time.perf_counter() - start)
print(*sorted(name for name in sys.modules if name.startswith("faceattr")))
"""


def test_operators_import_torch_and_nothing_of_the_face_part(tmp_path):
    # Elsewhere: in the source folder, Python would import its sources in place of what is installed.
    command = [sys.executable, "-c", SCRIPT]
    output = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    modules = output.splitlines()[1].split()
    assert "faceattr.ops" in modules
    assert all(name == "faceattr" or name.startswith(("faceattr.ops", "faceattr._C")) for name in modules)


def test_every_operator_has_a_cpu_kernel_and_a_fake_one():
    names = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("faceattr::")}
    names.remove("faceattr::tf32_allowed")  # a question to torch, no operator on tensors
    assert len(names) == 9
    for name in names:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU"), name
        overload = getattr(torch.ops.faceattr, name.removeprefix("faceattr::")).default
        assert torch._library.simple_registry.singleton.find(overload._name).fake_impl.kernel is not None, name


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux wheels")
def test_runs_on_an_old_glibc():
    """manylinux_2_28 and older: a library that asks for more cannot be loaded there."""
    [library] = Path(faceattr.__file__).parent.glob("_C.*so")
    needed = {int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", library.read_bytes())}
    assert needed and max(needed) <= 28
