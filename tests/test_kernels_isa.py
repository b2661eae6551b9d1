"""Every instruction set against the others, any number of threads against one."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from faceattr import ops

# Runs in a process of its own, since the instruction set is chosen once; writes all results to one file.
BATTERY = """
import itertools
import sys

import numpy as np
import torch

from faceattr import ops

DTYPES = torch.float64, torch.float32, torch.float16, torch.bfloat16
torch.manual_seed(0)
results = {}
shapes = [  # N, C, O, input, kernel, grid, stride, padding, dilation
    (2, 5, 7, (12, 10), (3, 3), (5, 4), 1, 0, 1),
    (1, 40, 60, (12, 10), (3, 3), (5, 4), 1, 0, 1),
    (9, 20, 33, (5, 4), (2, 2), (4, 3), 1, 0, 1),
    (3, 17, 130, (9, 8), (3, 2), (3, 2), (2, 1), (1, 2), (1, 2)),
    (13, 3, 16, (7, 7), (3, 3), (1, 1), 1, 1, 1),
    (35, 17, 20, (6, 5), (3, 2), (4, 4), 1, 0, 1),
    (3, 37, 50, (20, 33), (3, 3), (2, 2), 2, 1, 1),
    (2, 64, 48, (9, 40), (1, 1), (1, 1), 1, 0, 1),
    (19, 32, 70, (5, 31), (2, 3), (1, 5), 1, (0, 2), (2, 1)),
]
cases = itertools.product(shapes, DTYPES, (torch.contiguous_format, torch.channels_last))
for number, ((n, c, o, size, kernel, grid, *geometry), dtype, layout) in enumerate(cases):
    leaves = [torch.randn(n, c, *size), torch.randn(*grid, o, c, *kernel) / c, torch.randn(*grid, o)]
    leaves[0] = leaves[0].contiguous(memory_format=layout)
    leaves = [leaf.to(dtype).requires_grad_() for leaf in leaves]
    output = ops.locally_shared_conv2d(*leaves, *geometry)
    grads = torch.autograd.grad(output, leaves, torch.randn(output.shape).to(dtype))
    for name, value in zip(("output", "input", "weight", "bias"), (output, *grads)):
        results[f"{number} {dtype} {name}"] = value.detach().double().numpy()
np.savez(sys.argv[1], **results)
"""
RELATIVE = {"float64": 1e-13, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}


def run(isa, *arguments, program=BATTERY):
    environment = {**os.environ, "FACEATTR_CPU_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, *arguments]
    # Elsewhere: in the source folder, Python would import its sources in place of what is installed.
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    path = tmp_path_factory.mktemp("baseline") / "results.npz"
    done = run("baseline", str(path))
    assert done.returncode == 0, done.stderr
    return np.load(path)


@pytest.mark.parametrize("isa", ["avx2", "avx512", "avx512_bf16", "amx_bf16"])
def test_instruction_sets_agree(isa, baseline, tmp_path):
    path = tmp_path / "results.npz"
    done = run(isa, str(path))
    if f"FACEATTR_CPU_ISA is {isa}, which this machine does not have" in done.stderr:
        pytest.skip(f"this machine has no {isa}")
    assert done.returncode == 0, done.stderr
    results = np.load(path)
    assert set(results) == set(baseline)
    for name in baseline:
        expected = baseline[name]
        tolerance = RELATIVE[name.split()[1].removeprefix("torch.")] * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(results[name], expected, rtol=0, atol=tolerance, err_msg=name)


def test_an_unknown_instruction_set_is_refused_by_name():
    ones = "torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1, 1)"
    program = f"import torch; from faceattr import ops; ops.locally_shared_conv2d({ones})"
    done = run("sse9", program=program)
    assert done.returncode != 0
    assert "FACEATTR_CPU_ISA is 'sse9', it must be baseline, avx2, avx512, avx512_bf16 or amx_bf16" in done.stderr


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def on_threads(threads, function):
    results = []
    for count in (1, 2, 3, 7):
        threads(count)
        results.append(function())
    return results


def assert_same_bits(results):
    first, *others = results
    for other in others:
        for ours, theirs in zip(first, other, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("batch", [1, 6, 33])
@pytest.mark.parametrize("grid", [(1, 1), (5, 4), (10, 8)])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_locally_shared_conv2d_gives_the_same_bits_on_any_number_of_threads(threads, batch, grid, padding, dtype):
    leaves = [torch.randn(batch, 8, 12, 10), torch.randn(*grid, 50, 8, 3, 3), torch.randn(*grid, 50)]
    leaves = [leaf.to(dtype).requires_grad_() for leaf in leaves]
    grad = torch.randn(batch, 50, 10 + 2 * padding, 8 + 2 * padding).to(dtype)

    def run_all():
        output = ops.locally_shared_conv2d(*leaves, padding=padding)
        return output.detach(), *torch.autograd.grad(output, leaves, grad)

    assert_same_bits(on_threads(threads, run_all))


@pytest.mark.parametrize("batch, channels, size", [(1, 40, (14, 14)), (4, 40, (5, 12)), (9, 33, (4, 3))])
def test_an_input_s_gradient_has_the_same_bits_on_any_number_of_threads(threads, batch, channels, size):
    # Where threads' parts begin elsewhere in a filter, one of many draws shows another order of a sum.
    grads = [torch.randn(batch, 50, *size).bfloat16() for _ in range(40)]
    weight = torch.randn(1, 1, 50, channels, 3, 3).bfloat16()
    whole = [size[0] + 2, size[1] + 2]

    def run_all():
        op = torch.ops.faceattr.locally_shared_conv2d_input_grad
        return [op(grad, weight, whole, [1, 1], [0, 0], [1, 1], False) for grad in grads]

    assert_same_bits(on_threads(threads, run_all))


@pytest.mark.parametrize("every, kernel", [(3, (1, 3)), (3, (3, 1)), (5, (1, 5)), (15, (3, 5)), (2, (1, 2))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_nth_channel_is_read_as_a_copy_of_it(every, kernel, dtype):
    # Then a filter's first and last input may be as far apart as if they all lay side by side.
    input = torch.randn(2, 12, 12, 16 * every).to(dtype).permute(0, 3, 1, 2)[:, ::every]
    weight = torch.randn(1, 1, 50, 16, *kernel).to(dtype)
    gradients = []
    for leaves in ((input, weight), (input.contiguous(), weight)):
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        output = ops.locally_shared_conv2d(*leaves)
        gradients.append((output.detach(), *torch.autograd.grad(output.sum(), leaves)))
    for ours, of_copy in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, of_copy)


def test_convolutions_of_torch_are_the_same_after_ours():
    # With AMX both set the shapes of the same registers.
    leaves = [torch.randn(4, 40, 9, 8).bfloat16(), torch.randn(2, 1, 53, 40, 3, 3).bfloat16()]
    convolution = torch.nn.Conv2d(40, 7, 3).bfloat16().requires_grad_(False)
    before = convolution(leaves[0])
    for _ in range(3):
        ops.locally_shared_conv2d(*leaves)
        assert torch.equal(convolution(leaves[0]), before)


@pytest.mark.parametrize("pool", [1, 2])
def test_interweaved_conv2d_gives_the_same_bits_on_any_number_of_threads(threads, pool):
    leaves = [torch.randn(2, 6, 20, 18), torch.randn(3, 2, 20, 6, 3, 3), torch.randn(3, 2, 20)]
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def run_all():
        output = ops.interweaved_conv2d(*leaves, shift=2, pool=pool)
        return output.detach(), *torch.autograd.grad(output, leaves, torch.ones_like(output))

    assert_same_bits(on_threads(threads, run_all))


@pytest.mark.parametrize("maps", [1, 2, 9])
def test_density_peaks_gives_the_same_bits_on_any_number_of_threads(threads, maps):
    density = (torch.rand(maps, 65, 70) * 20).round()
    assert_same_bits(on_threads(threads, lambda: ops.density_peaks(density, 3.0)))
