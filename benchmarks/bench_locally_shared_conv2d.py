"""locally_shared_conv2d against what people write instead, and against plain conv2d of the same shape: the bound."""

import pytest
import torch
from recipes import LOCALLY_SHARED
from torch.nn import functional as F
from torch.utils.benchmark import Timer

from faceattr.ops import locally_shared_conv2d

# N, C, O, input, kernel, grid; the last six are ANet's C3 and C4.
SHAPES = [
    (1, 40, 60, (26, 26), 3, (4, 4)),
    (32, 40, 60, (26, 26), 3, (4, 4)),
    (32, 60, 80, (13, 13), 2, (4, 4)),
    (32, 96, 128, (26, 26), 3, (4, 4)),
    (8, 64, 64, (66, 66), 3, (8, 8)),
    (32, 40, 60, (14, 14), 3, (12, 12)),
    *((n, 40, 60, (12, 10), 3, (5, 4)) for n in (1, 32, 128)),
    *((n, 60, 80, (5, 4), 2, (4, 3)) for n in (1, 32, 128)),
]
CONTENDERS = ["ours", "ours, bfloat16", "plain conv2d", "plain conv2d, bfloat16", *LOCALLY_SHARED]


def name(shape):
    n, c, o, size, kernel, grid = shape
    return f"{n} x {c} -> {o}, {size[0]}x{size[1]}, kernel {kernel}, grid {grid[0]}x{grid[1]}"


def problem(shape, contender):
    """The contender as a function of its leaves, and the leaves."""
    n, c, o, size, kernel, grid = shape
    torch.manual_seed(0)
    leaves = (
        torch.randn(n, c, *size),
        torch.randn(*grid, o, c, kernel, kernel) / (c * kernel**2) ** 0.5,
        torch.randn(*grid, o),
    )
    if contender in LOCALLY_SHARED:
        function = LOCALLY_SHARED[contender]
        torch.testing.assert_close(function(*leaves), locally_shared_conv2d(*leaves), rtol=1e-4, atol=1e-4)
    elif contender.startswith("plain"):
        function, leaves = F.conv2d, (leaves[0], leaves[1][0, 0].clone(), leaves[2][0, 0].clone())
    else:
        function = locally_shared_conv2d
    if "bfloat16" in contender:
        leaves = [leaf.bfloat16() for leaf in leaves]
    return function, leaves


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=name)
def bench_forward(shape, contender, measure):
    function, leaves = problem(shape, contender)
    with torch.no_grad():
        measure(f"forward | {name(shape)}", contender, lambda: function(*leaves))


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=name)
def bench_forward_and_backward(shape, contender, measure):
    function, leaves = problem(shape, contender)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    grad = torch.randn_like(function(*leaves))
    measure(
        f"forward + backward | {name(shape)}",
        contender,
        lambda: torch.autograd.grad(function(*leaves), leaves, grad),
    )


@pytest.mark.parametrize("shape", SHAPES, ids=name)
def bench_compiled(shape, measure):
    """The recipe that is fastest as it stands; forward alone, as report.py says."""
    times = {}
    for recipe in LOCALLY_SHARED:
        function, leaves = problem(shape, recipe)
        with torch.no_grad():
            times[recipe] = Timer("function(*leaves)", globals=locals(), num_threads=torch.get_num_threads())
            times[recipe] = times[recipe].blocked_autorange(min_run_time=0.1).median
    function, leaves = problem(shape, min(times, key=times.get))
    torch.compiler.reset()
    compiled = torch.compile(function, dynamic=False)
    with torch.no_grad():
        measure(f"forward | {name(shape)}", "best recipe, compiled", lambda: compiled(*leaves))


# Next to no products: what remains is the call. Cells are planned and run as C3's and C4's of full width.
CALLS = {
    "one product": (1, 1, 1, (1, 1), 1, (1, 1)),
    "C3's cells, 4 -> 1 channels": (1, 4, 1, (12, 10), 3, (5, 4)),
    "C4's cells, 4 -> 1 channels": (1, 4, 1, (5, 4), 2, (4, 3)),
}


@pytest.mark.parametrize("contender", ["ours", "plain conv2d"])
@pytest.mark.parametrize("kind", CALLS)
def bench_call(kind, contender, measure):
    """What a call costs beyond its kernel, with gradients off."""
    function, leaves = problem(CALLS[kind], contender)
    with torch.no_grad():
        measure(f"call, gradients off | {kind}", contender, lambda: function(*leaves))
