"""Shapes, strides, dtypes and values at random, against the references."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faceattr import ops
from faceattr.ops import reference

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
dtypes = st.sampled_from(list(TOLERANCE))
layouts = st.sampled_from(["contiguous", "channels_last", "sliced", "transposed", "expanded"])
seeds = st.integers(0, 2**31)
# How fast examples come depends on what else runs.
fuzz = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def tensor(shape, dtype, layout, nonfinite=0):
    values = torch.randn(shape)
    for value in (math.inf, -math.inf, math.nan)[:nonfinite]:
        if values.numel():
            values.view(-1)[torch.randint(values.numel(), ())] = value
    values = values.to(dtype)
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        wide = torch.full((*shape[:-1], 2 * shape[-1] + 1), math.nan, dtype=dtype)
        wide[..., 1::2] = values
        return wide[..., 1::2]
    if layout == "transposed":
        return values.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "expanded" and shape[0]:
        return values[:1].expand(shape)
    return values


def assert_close(ours, exact, dtype):
    scale = exact[exact.isfinite()].abs().max().clamp_min(1) if exact.isfinite().any() else 1
    if dtype == torch.float16:  # what float64 can hold and float16 cannot
        exact = exact.to(dtype).double()
    torch.testing.assert_close(ours.double() / scale, exact / scale, rtol=0, atol=TOLERANCE[dtype], equal_nan=True)


@st.composite
def convolutions(draw):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = draw(st.tuples(st.integers(0, 5), st.integers(0, 5)))
    dilation = draw(st.tuples(st.sampled_from([1, 2, 3, 11]), st.sampled_from([1, 2, 3, 11])))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = [draw(st.integers(n, n + 9)) for n in least]
    output = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, padding, dilation, kernel, stride, strict=True)
    ]
    grid = [draw(st.integers(1, min(n, 5))) for n in output]
    batch, channels = draw(st.sampled_from([0, 1, 2, 5, 13])), draw(st.sampled_from([0, 1, 3, 8, 17]))
    return (
        (batch, channels, *size),
        (*grid, draw(st.sampled_from([1, 2, 16, 21, 67])), channels, *kernel),
        (
            stride,
            padding,
            dilation,
        ),
    )


@fuzz
@given(convolutions(), dtypes, layouts, st.booleans(), st.integers(0, 3), seeds)
def test_locally_shared_conv2d(problem, dtype, layout, has_bias, nonfinite, seed):
    torch.manual_seed(seed)
    size, weight_size, geometry = problem
    input = tensor(size, dtype, layout, nonfinite).requires_grad_()
    weight = tensor(weight_size, dtype, "contiguous").requires_grad_()
    leaves = [input, weight]
    if has_bias:
        leaves.append(torch.randn(weight_size[:3]).to(dtype).requires_grad_())
    exact_leaves = [leaf.detach().double().requires_grad_() for leaf in leaves]
    output = ops.locally_shared_conv2d(*leaves, *([] if has_bias else [None]), *geometry)
    exact = reference.locally_shared_conv2d(*exact_leaves, *([] if has_bias else [None]), *geometry)
    assert_close(output, exact.detach(), dtype)
    if nonfinite:
        return
    grad = tensor(output.shape, dtype, layout)
    grads = torch.autograd.grad(output, leaves, grad)
    exact_grads = torch.autograd.grad(exact, exact_leaves, grad.double())
    for ours, theirs in zip(grads, exact_grads, strict=True):
        assert_close(ours, theirs, dtype)


@st.composite
def interweavings(draw):
    kernel, grid = (draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(2))
    stride, dilation = (draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(2))
    shift, pool = draw(st.tuples(st.integers(0, 3), st.integers(0, 3))), draw(st.tuples(*[st.integers(1, 3)] * 2))
    least = [
        d * (k - 1) + 1 + (g - 1) * t + (a - 1) * s
        for d, k, g, t, a, s in zip(dilation, kernel, grid, shift, pool, stride, strict=True)
    ]
    size = [draw(st.integers(n, n + 6)) for n in least]
    batch, channels = draw(st.sampled_from([0, 1, 2])), draw(st.sampled_from([0, 1, 3, 17]))
    out_channels = draw(st.sampled_from([1, 5, 33]))
    return (batch, channels, *size), (*grid, out_channels, channels, *kernel), (stride, dilation, shift, pool)


@fuzz
@given(interweavings(), dtypes, layouts, st.integers(0, 3), seeds)
def test_interweaved_conv2d(problem, dtype, layout, nonfinite, seed):
    torch.manual_seed(seed)
    size, weight_size, geometry = problem
    leaves = [tensor(size, dtype, layout, nonfinite), tensor(weight_size, dtype, "contiguous")]
    leaves = [leaf.requires_grad_() for leaf in (*leaves, torch.randn(weight_size[:3]).to(dtype))]
    exact_leaves = [leaf.detach().double().requires_grad_() for leaf in leaves]
    output = ops.interweaved_conv2d(*leaves, *geometry)
    exact = reference.interweaved_conv2d(*exact_leaves, *geometry)
    assert_close(output, exact.detach(), dtype)
    # In low precision the first maximum may be another one, and its gradient with it.
    if nonfinite or (dtype != torch.float64 and geometry[3] != (1, 1)):
        return
    grad = tensor(output.shape, dtype, "contiguous")
    grads = torch.autograd.grad(output, leaves, grad)
    exact_grads = torch.autograd.grad(exact, exact_leaves, grad.double())
    for ours, theirs in zip(grads, exact_grads, strict=True):
        assert_close(ours, theirs, dtype)


@fuzz
@given(
    st.tuples(st.integers(0, 3), st.integers(1, 17), st.integers(1, 17)),
    dtypes,
    st.sampled_from(["noise", "few levels", "sparse", "nonfinite", "blob"]),
    st.sampled_from([-math.inf, -1.0, 0.0, 0.5, math.inf]),
    seeds,
)
def test_density_peaks(shape, dtype, kind, threshold, seed):
    torch.manual_seed(seed)
    density = torch.randn(shape)
    if kind == "few levels":
        density = density.round()
    if kind == "sparse":
        density = density * (torch.rand(shape) < 0.1)
    if kind == "nonfinite":
        special = torch.tensor([0.0, math.inf, -math.inf, math.nan])
        density = torch.where(torch.rand(shape) < 0.3, special[torch.randint(4, shape)], density)
    if kind == "blob":
        y, x = torch.meshgrid(torch.arange(shape[1]), torch.arange(shape[2]), indexing="ij")
        density = torch.exp(-((y - 4.0) ** 2 + (x - 7.0) ** 2) / 20).expand(shape)
    density = density.to(dtype)
    distance, parent = ops.density_peaks(density, threshold)
    exact_distance, exact_parent = reference.density_peaks(density, threshold)
    assert torch.equal(parent, exact_parent)
    assert torch.equal(distance, exact_distance)


@pytest.mark.parametrize("padding", [0, 1])
def test_what_a_nonfinite_input_does_not_reach_stays_finite(padding):
    input = torch.zeros(3, 4, 12, 10)
    input[1, 2, 5, 5] = math.nan
    output = ops.locally_shared_conv2d(input, torch.randn(5, 4, 20, 4, 3, 3), None, 1, padding)
    reached = torch.zeros_like(output, dtype=torch.bool)
    reached[1, :, 3 + padding : 6 + padding, 3 + padding : 6 + padding] = True
    assert torch.equal(output.isnan(), reached)
