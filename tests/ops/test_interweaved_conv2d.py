import pytest
import torch
from torch.nn import functional as F

from faceattr.ops import interweave, interweaved_conv2d, reference

TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 2e-5},
    torch.float16: {"rtol": 1e-3, "atol": 1e-3},
    torch.bfloat16: {"rtol": 8e-3, "atol": 8e-3},
}

# (N, C, O, input, kernel, grid, stride, dilation, shift, pool)
SHAPES = [
    (1, 1, 1, (1, 1), (1, 1), (1, 1), 1, 1, 0, 1),
    (2, 3, 4, (12, 10), (3, 3), (5, 4), 1, 1, 2, 2),  # as ANet's C3, one patch position
    (1, 3, 4, (14, 13), (3, 3), (5, 4), 1, 1, 2, 2),
    (2, 5, 6, (15, 12), (2, 2), (4, 3), (5, 4), 1, 1, 1),  # as ANet's C4
    (1, 2, 17, (11, 13), (2, 3), (3, 2), (2, 1), (1, 2), (1, 3), (1, 2)),
    (1, 17, 3, (9, 8), (3, 1), (2, 3), 1, 2, (0, 1), (3, 1)),
]


def problem(shape, dtype=torch.float64):
    n, c, o, size, kernel, grid, *geometry = shape
    input = torch.randn(n, c, *size, dtype=torch.float64).to(dtype)
    weight = (torch.randn(*grid, o, c, *kernel, dtype=torch.float64) / (c * kernel[0] * kernel[1]) ** 0.5).to(dtype)
    return input, weight, torch.randn(*grid, o, dtype=torch.float64).to(dtype), geometry


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_gradients_equal_the_reference(shape, dtype):
    input, weight, bias, geometry = problem(shape, dtype)
    leaves = [t.requires_grad_() for t in (input, weight, bias)]
    output = interweaved_conv2d(*leaves, *geometry)
    exact_leaves = [t.detach().double().requires_grad_() for t in leaves]
    exact = reference.interweaved_conv2d(*exact_leaves, *geometry)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), exact, **TOLERANCE[dtype])
    grad = torch.randn_like(exact).to(dtype)
    grads = torch.autograd.grad(output, leaves, grad)
    exact_grads = torch.autograd.grad(exact, exact_leaves, grad.double())
    for ours, theirs in zip(grads, exact_grads, strict=True):
        scale = theirs.abs().max().clamp_min(1)
        torch.testing.assert_close(ours.double() / scale, theirs / scale, **TOLERANCE[dtype])


@pytest.mark.parametrize("shape", SHAPES)
def test_gradcheck(shape):
    n, c, o, *rest = shape
    input, weight, bias, geometry = problem((n, min(c, 3), min(o, 3), *rest))
    leaves = [t.requires_grad_() for t in (input, weight, bias)]
    assert torch.autograd.gradcheck(lambda *args: interweaved_conv2d(*args, *geometry), leaves, fast_mode=True)


def test_equals_convolve_pool_interweave():
    input, weight, bias, _ = problem((2, 3, 4, (17, 15), (3, 2), (3, 4), 1, 1, 0, 1))
    grid, shift, pool = (3, 4), (2, 1), (2, 3)
    maps = [F.max_pool2d(F.conv2d(input, weight[p, q], bias[p, q]), pool, 1) for p in range(3) for q in range(4)]
    maps = torch.stack(maps, 1).unflatten(1, grid)
    output = interweaved_conv2d(input, weight, bias, shift=shift, pool=pool)
    torch.testing.assert_close(output, interweave(maps, shift), rtol=1e-12, atol=1e-12)


def test_the_first_maximum_takes_the_gradient():
    input = torch.zeros(1, 1, 3, 3, requires_grad=True)
    interweaved_conv2d(input, torch.ones(1, 1, 1, 1, 1, 1), pool=3).sum().backward()
    assert input.grad.flatten().tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]


def test_channels_last_and_other_strides():
    input, weight, bias, geometry = problem(SHAPES[1], torch.float32)
    plain = interweaved_conv2d(input, weight, bias, *geometry)
    last = interweaved_conv2d(input.to(memory_format=torch.channels_last), weight, bias, *geometry)
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, plain)
    sliced = torch.stack([input, input], -1)[..., 1]
    torch.testing.assert_close(interweaved_conv2d(sliced, weight, bias, *geometry), plain)


def test_empty_batch():
    input, weight, bias, geometry = problem(SHAPES[1])
    leaves = [t.requires_grad_() for t in (input[:0].clone(), weight, bias)]
    output = interweaved_conv2d(*leaves, *geometry)
    assert output.shape == (0, 4, 5, 4)
    output.sum().backward()
    assert all(leaf.grad.shape == leaf.shape and leaf.grad.eq(0).all() for leaf in leaves)


def test_threads_do_not_change_a_bit():
    input, weight, bias, geometry = problem((3, 16, 24, (18, 16), (3, 3), (5, 4), 1, 1, 2, 2), torch.float32)
    leaves = [t.requires_grad_() for t in (input, weight, bias)]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            output = interweaved_conv2d(*leaves, *geometry)
            results.append((output, *torch.autograd.grad(output.square().sum(), leaves)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("shape", SHAPES[1:5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_opcheck(shape, layout):
    input, weight, bias, geometry = problem(shape)
    geometry = [list(g) if isinstance(g, tuple) else [g, g] for g in geometry]
    input = input.to(memory_format=layout).requires_grad_()
    leaves = (input, weight.requires_grad_(), bias.requires_grad_())
    torch.library.opcheck(torch.ops.faceattr.interweaved_conv2d.default, (*leaves, *geometry))


def test_compile_export_autocast_vmap():
    input, weight, bias, geometry = problem(SHAPES[2], torch.float32)
    leaves = [t.requires_grad_() for t in (input, weight, bias)]

    def call(*args):
        return interweaved_conv2d(*args, *geometry).relu()

    expected = call(*leaves)
    compiled = torch.compile(call, fullgraph=True)(*leaves)
    torch.testing.assert_close(compiled, expected)
    for ours, theirs in zip(
        torch.autograd.grad(compiled.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(ours, theirs)

    class Net(torch.nn.Module):
        def forward(self, *args):
            return call(*args)

    program = torch.export.export(Net(), tuple(leaves))
    torch.testing.assert_close(program.module()(*leaves), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert call(*leaves).dtype == torch.bfloat16
    output = torch.vmap(call, in_dims=(0, None, None))(torch.stack([input, -input]), weight, bias)
    torch.testing.assert_close(output[1], call(-input, weight, bias))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda i, w, b: ((i, w[:, :, :, :2], b), {}), "weight has 2 input channels, input has 3"),
        (lambda i, w, b: ((i[..., :7], w, b), {"shift": 2}), "too small for a grid of 5x4"),
        (lambda i, w, b: ((i, w, b[1:]), {}), "bias has shape"),
        (lambda i, w, b: ((i, w, b), {"pool": 0}), r"pool is \(0, 0\), both values must be at least 1"),
        (lambda i, w, b: ((i, w, b), {"shift": -1}), r"shift is \(-1, -1\), both values must be at least 0"),
        (lambda i, w, b: ((i[0], w, b), {}), r"input has shape \[3, 12, 10\]"),
    ],
)
def test_bad_arguments_are_named(change, message):
    args, options = change(*problem(SHAPES[1])[:3])
    with pytest.raises((RuntimeError, ValueError), match=message):
        interweaved_conv2d(*args, **options)
