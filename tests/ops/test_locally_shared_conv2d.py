import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from faceattr.ops import channels_last_filters, locally_shared_conv2d, reference

TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 2e-5},
    torch.float16: {"rtol": 1e-3, "atol": 1e-3},
    torch.bfloat16: {"rtol": 8e-3, "atol": 8e-3},
}

# (N, C, O, input, kernel, grid, stride, padding, dilation)
SHAPES = [
    (1, 1, 1, (1, 1), (1, 1), (1, 1), 1, 0, 1),
    (2, 3, 4, (9, 8), (3, 2), (3, 2), (2, 1), (1, 0), (1, 2)),
    (1, 5, 7, (12, 10), (3, 3), (5, 4), 1, 0, 1),
    (3, 6, 8, (5, 4), (2, 2), (4, 3), 1, 0, 1),
    (2, 2, 3, (7, 11), (3, 3), (7, 11), 1, 1, 1),  # unshared
    (2, 4, 4, (6, 6), (3, 3), (4, 5), 1, (2, 3), 1),  # more padding than the kernel reaches
    (1, 3, 2, (17, 13), (4, 3), (3, 5), (3, 2), (2, 1), (2, 3)),
    (1, 17, 33, (8, 9), (3, 3), (2, 3), 1, 1, 1),  # odd channel counts round vector widths
    (2, 2, 2, (4, 4), (2, 2), (2, 2), 5, 3, 1),  # a stride that skips most of the input
]


def problem(shape, dtype=torch.float64, bias=True):
    n, c, o, size, kernel, grid, *geometry = shape
    input = torch.randn(n, c, *size, dtype=torch.float64).to(dtype)
    weight = (torch.randn(*grid, o, c, *kernel, dtype=torch.float64) / (c * kernel[0] * kernel[1]) ** 0.5).to(dtype)
    return input, weight, torch.randn(*grid, o, dtype=torch.float64).to(dtype) if bias else None, geometry


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_gradients_equal_the_reference(shape, dtype):
    input, weight, bias, geometry = problem(shape, dtype)
    leaves = [t.requires_grad_() for t in (input, weight, bias)]
    output = locally_shared_conv2d(*leaves, *geometry)
    exact_leaves = [t.detach().double().requires_grad_() for t in leaves]
    exact = reference.locally_shared_conv2d(*exact_leaves, *geometry)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), exact, **TOLERANCE[dtype])

    grad = torch.randn_like(exact).to(dtype)
    grads = torch.autograd.grad(output, leaves, grad)
    exact_grads = torch.autograd.grad(exact, exact_leaves, grad.double())
    for ours, theirs in zip(grads, exact_grads, strict=True):
        scale = theirs.abs().max().clamp_min(1)
        torch.testing.assert_close(ours.double() / scale, theirs / scale, **TOLERANCE[dtype])


@pytest.mark.parametrize("shape", SHAPES)
def test_gradcheck_to_second_order(shape):
    n, c, o, size, *rest = shape
    input, weight, bias, geometry = problem((n, min(c, 3), min(o, 3), size, *rest))
    leaves = [t.requires_grad_() for t in (input, weight, bias)]

    def call(*args):
        return locally_shared_conv2d(*args, *geometry)

    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=3))[1:])
def test_each_gradient_alone(needs):
    input, weight, bias, geometry = problem(SHAPES[1])
    grads = {}
    for everything in (False, True):
        leaves = [
            t.clone().requires_grad_(everything or need) for t, need in zip((input, weight, bias), needs, strict=True)
        ]
        locally_shared_conv2d(*leaves, *geometry).sin().sum().backward()
        grads[everything] = [leaf.grad for leaf in leaves]
    for need, alone, among_all in zip(needs, grads[False], grads[True], strict=True):
        assert (alone is not None) == need
        if need:
            assert torch.equal(alone, among_all)


@pytest.mark.parametrize("geometry", [(1, 0, 1), (2, 1, 1), ((1, 2), (2, 0), (2, 1))])
@pytest.mark.parametrize("bias", [True, False])
def test_one_cell_is_conv2d(geometry, bias):
    conv = torch.nn.Conv2d(5, 6, 3, *geometry, bias=bias, dtype=torch.float64)
    input = torch.randn(2, 5, 11, 12, dtype=torch.float64)
    cell_bias = conv.bias[None, None] if bias else None
    output = locally_shared_conv2d(input, conv.weight[None, None], cell_bias, *geometry)
    torch.testing.assert_close(output, conv(input), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride, padding, dilation", [(1, 0, 1), (2, 1, 1), (1, 2, 2)])
def test_one_cell_a_position_is_the_unshared_layer(stride, padding, dilation):
    input = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    columns = F.unfold(input, 3, dilation, padding, stride)
    out_size = [(n + 2 * padding - 2 * dilation - 1) // stride + 1 for n in (9, 7)]
    weight = torch.randn(*out_size, 4, 3, 3, 3, dtype=torch.float64)
    bias = torch.randn(*out_size, 4, dtype=torch.float64)
    oracle = torch.einsum("nkl,lok->nol", columns, weight.flatten(0, 1).flatten(2)).unflatten(2, out_size)
    output = locally_shared_conv2d(input, weight, bias, stride, padding, dilation)
    torch.testing.assert_close(output, oracle + bias.permute(2, 0, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "view",
    {
        "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
        "sliced": lambda t: torch.stack([t, -t], -1)[..., 0],
        "offset": lambda t: F.pad(t, (1, 2, 3, 0))[..., 3:, 1:-2],
        "channels_last": lambda t: t.to(memory_format=torch.channels_last),
        "expanded": lambda t: t[:1, :, :1].expand_as(t),
    }.items(),
    ids=lambda item: item[0],
)
def test_any_strides(view):
    input, weight, bias, geometry = problem(SHAPES[1])
    strided = view[1](input)
    dense = strided.contiguous()
    weight_view = weight.transpose(0, -1).contiguous().transpose(0, -1)
    assert not strided.is_contiguous() and not weight_view.is_contiguous()
    leaves = [t.detach().requires_grad_() for t in (strided, weight_view, bias)]
    dense_leaves = [t.detach().requires_grad_() for t in (dense, weight, bias)]
    output = locally_shared_conv2d(*leaves, *geometry)
    exact = reference.locally_shared_conv2d(*dense_leaves, *geometry)
    torch.testing.assert_close(output, exact, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(output).transpose(2, 3).contiguous().transpose(2, 3)
    for ours, theirs in zip(
        torch.autograd.grad(output, leaves, grad), torch.autograd.grad(exact, dense_leaves, grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_channels_last_in_channels_last_out():
    input, weight, bias, geometry = problem(SHAPES[2], torch.float32)
    assert locally_shared_conv2d(input, weight, bias, *geometry).is_contiguous()
    input = input.expand(2, -1, -1, -1).to(memory_format=torch.channels_last).requires_grad_()
    output = locally_shared_conv2d(input, weight, bias, *geometry)
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert torch.autograd.grad(output.sum(), input)[0].is_contiguous(memory_format=torch.channels_last)


def test_channels_last_filters():
    input, weight, bias, geometry = problem(SHAPES[2])
    filters = channels_last_filters(weight)
    assert torch.equal(filters, weight)
    assert filters.permute(0, 1, 4, 5, 2, 3).is_contiguous()
    assert torch.equal(
        locally_shared_conv2d(input, filters, bias, *geometry), locally_shared_conv2d(input, weight, bias, *geometry)
    )
    leaf = filters.requires_grad_()
    (grad,) = torch.autograd.grad(locally_shared_conv2d(input, leaf, bias, *geometry).sum(), leaf)
    assert grad.shape == weight.shape
    with pytest.raises(ValueError, match=r"channels_last_filters: weight has shape \[2, 3\], it must be \[Gh, Gw, O"):
        channels_last_filters(torch.zeros(2, 3))


def test_unbatched_input():
    input, weight, bias, geometry = problem(SHAPES[1])
    output = locally_shared_conv2d(input[0], weight, bias, *geometry)
    torch.testing.assert_close(output, locally_shared_conv2d(input, weight, bias, *geometry)[0])


def test_empty_batch():
    input, weight, bias, geometry = problem(SHAPES[1])
    leaves = [t.requires_grad_() for t in (input[:0].clone(), weight, bias)]
    output = locally_shared_conv2d(*leaves, *geometry)
    assert output.shape == reference.locally_shared_conv2d(input, weight, bias, *geometry)[:0].shape
    output.sum().backward()
    assert leaves[0].grad.shape == leaves[0].shape
    assert leaves[1].grad.eq(0).all() and leaves[2].grad.eq(0).all()


def test_nonfinite_values_stay_where_they_belong():
    input, weight, bias, geometry = problem(SHAPES[2])
    input[0, 1, 4, 5], input[0, 2, 11, 0] = torch.inf, torch.nan
    output = locally_shared_conv2d(input, weight, bias, *geometry)
    exact = reference.locally_shared_conv2d(input, weight, bias, *geometry)
    torch.testing.assert_close(output, exact, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_half_sums_are_taken_in_float32():
    # 4096 terms of 1 in float16 would stop growing at 2048.
    output = locally_shared_conv2d(torch.ones(1, 4096, 1, 1).half(), torch.ones(1, 1, 1, 4096, 1, 1).half())
    assert output.item() == 4096


@pytest.mark.parametrize(
    "shape",
    [(5, 16, 24, (19, 17), (3, 3), (4, 3), 1, 1, 1), (35, 33, 40, (6, 5), (2, 2), (5, 4), 1, 0, 1)],
    ids=["vectors over channels", "vectors over the batch"],
)
def test_threads_do_not_change_a_bit(shape):
    input, weight, bias, geometry = problem(shape, torch.float32)
    leaves = [t.requires_grad_() for t in (input, weight, bias)]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            output = locally_shared_conv2d(*leaves, *geometry)
            results.append((output, *torch.autograd.grad(output.square().sum(), leaves)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def opcheck_samples():
    samples = []
    for shape in SHAPES[:3]:
        input, weight, bias, geometry = problem(shape)
        geometry = [list(g) if isinstance(g, tuple) else [g, g] for g in geometry]
        for layout in (torch.contiguous_format, torch.channels_last):
            leaves = [t.clone().requires_grad_() for t in (weight, bias)]
            samples.append((input.to(memory_format=layout).requires_grad_(), *leaves, *geometry))
    return samples


@pytest.mark.parametrize("args", opcheck_samples(), ids=lambda args: "x".join(map(str, args[0].shape)))
def test_opcheck(args):
    input, weight, bias, *geometry = args
    torch.library.opcheck(torch.ops.faceattr.locally_shared_conv2d.default, args)
    with torch.no_grad():
        grad = torch.randn_like(locally_shared_conv2d(*args))
    grad.requires_grad_()
    last = input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()
    torch.library.opcheck(
        torch.ops.faceattr.locally_shared_conv2d_input_grad.default,
        (grad, weight, list(input.shape[2:]), *geometry, last),
    )
    torch.library.opcheck(
        torch.ops.faceattr.locally_shared_conv2d_weight_grad.default,
        (grad, input, list(weight.shape[:2]), list(weight.shape[4:]), *geometry),
    )


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph(dynamic):
    input, weight, bias, geometry = problem(SHAPES[2], torch.float32)
    leaves = [t.requires_grad_() for t in (input, weight, bias)]

    def call(*args):
        return locally_shared_conv2d(*args, *geometry).relu() * 2

    output = torch.compile(call, fullgraph=True, dynamic=dynamic)(*leaves)
    torch.testing.assert_close(output, call(*leaves))
    for ours, theirs in zip(
        torch.autograd.grad(output.sum(), leaves), torch.autograd.grad(call(*leaves).sum(), leaves), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_export_with_a_dynamic_batch():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            _, weight, bias, self.geometry = problem(SHAPES[2], torch.float32)
            self.weight, self.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)

        def forward(self, input):
            return locally_shared_conv2d(input, self.weight, self.bias, *self.geometry)

    net = Net()
    program = torch.export.export(net, (torch.randn(2, 5, 12, 10),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    input = torch.randn(7, 5, 12, 10)
    torch.testing.assert_close(program.module()(input), net(input))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_like_conv2d(dtype):
    input, weight, bias, geometry = problem(SHAPES[2], torch.float32)
    weight.requires_grad_()
    with torch.autocast("cpu", dtype):
        output = locally_shared_conv2d(input, weight, bias, *geometry)
    assert output.dtype == dtype
    expected = locally_shared_conv2d(input.to(dtype), weight.to(dtype), bias.to(dtype), *geometry)
    assert torch.equal(output, expected)
    output.float().sum().backward()
    assert weight.grad.dtype == torch.float32


def test_vmap_over_each_argument():
    input, weight, bias, geometry = problem(SHAPES[1])
    inputs = torch.stack([input, -input, input + 1], 2)
    weights = torch.stack([weight, 2 * weight, weight.flip(0)])

    def call(*args):
        return locally_shared_conv2d(*args, *geometry)

    output = torch.vmap(call, in_dims=(2, None, None))(inputs, weight, bias)
    torch.testing.assert_close(output, torch.stack([call(i, weight, bias) for i in inputs.unbind(2)]))
    output = torch.vmap(call, in_dims=(2, 0, None))(inputs, weights, bias)
    pairs = zip(inputs.unbind(2), weights, strict=True)
    torch.testing.assert_close(output, torch.stack([call(i, w, bias) for i, w in pairs]))


BAD = [
    ("weight has 4 input channels, input has 3", lambda i, w, b: ((i, w[:, :, :, [0, 1, 2, 0]], b), {})),
    (r"input has shape \[3, 9\]", lambda i, w, b: ((i[0, :, :, 0], w, b), {})),
    (r"weight has shape \[2, 4, 3, 3, 2\], it must be \[Gh, Gw, O, C, kh, kw\]", lambda i, w, b: ((i, w[0], b), {})),
    (r"bias has shape \[3, 2, 3\], with this weight it must be \[3, 2, 4\]", lambda i, w, b: ((i, w, b[..., 1:]), {})),
    ("weight and input have different dtypes", lambda i, w, b: ((i.float(), w, b), {})),
    ("input must be float64, float32", lambda i, w, b: ((i.long(), w.long(), b.long()), {})),
    (r"stride is \(0, 1\), both values must be at least 1", lambda i, w, b: ((i, w, b), {"stride": (0, 1)})),
    (r"padding is \(-1, -1\)", lambda i, w, b: ((i, w, b), {"padding": -1})),
    (r"dilation is \(\d+, \d+\)", lambda i, w, b: ((i, w, b), {"dilation": 2**62})),
    ("smaller than the kernel", lambda i, w, b: ((i[..., :2, :], w, b), {})),
    ("every cell needs at least one", lambda i, w, b: ((i[..., :4, :], w, b), {})),
    ("stride has 3 values", lambda i, w, b: ((i, w, b), {"stride": (1, 1, 1)})),
]


@pytest.mark.parametrize("message, change", BAD, ids=[message for message, _ in BAD])
def test_bad_arguments_are_named(message, change):
    input, weight, bias, _ = problem(SHAPES[1])
    args, options = change(input, weight, bias)
    with pytest.raises((RuntimeError, ValueError, TypeError), match=message):
        locally_shared_conv2d(*args, **options)


def test_gradient_operators_check_their_shapes():
    input, weight, bias, geometry = problem(SHAPES[1])
    grad = torch.randn_like(locally_shared_conv2d(input, weight, bias, *geometry))
    with pytest.raises(RuntimeError, match="grad has shape"):
        torch.ops.faceattr.locally_shared_conv2d_input_grad(grad[..., 1:], weight, [9, 8], *geometry, False)
    with pytest.raises(RuntimeError, match="grad has shape"):
        torch.ops.faceattr.locally_shared_conv2d_weight_grad(grad[:1], input, [3, 2], [3, 2], *geometry)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", ["planar", "channels_last", "sliced"])
@pytest.mark.parametrize(
    "shape",
    [
        (32, 16, 20, (5, 4), (1, 1), (5, 4), 1, 0, 1),
        (35, 17, 19, (7, 6), (3, 3), (5, 4), 1, 0, 1),
        (40, 16, 33, (7, 6), (3, 2), (3, 3), (2, 1), (1, 2), (1, 2)),
        (64, 96, 96, (4, 4), (1, 1), (2, 2), 2, 1, 1),
        (33, 16, 16, (6, 6), (3, 3), (2, 3), 1, 1, 1),
        (528, 16, 17, (16, 8), (1, 1), (16, 8), 1, 0, 1),  # some rows of cells at a time, as the next two
        (176, 16, 17, (50, 8), (3, 1), (16, 8), (3, 1), 0, 1),  # whose last inputs nothing reads
        (528, 16, 17, (18, 8), (3, 1), (16, 8), 1, 0, 1),  # whose inputs two such rows read
        (32, 96, 88, (4, 4), (3, 3), (2, 2), 1, 0, 1),  # filters that are not packed
        (20, 48, 72, (20, 36), (3, 3), (1, 2), 1, 1, 1),  # too many positions for it: some images at a time
    ],
)
def test_large_batches(shape, layout, dtype):
    """Over cells of few positions vectors run over the batch."""
    input, weight, bias, geometry = problem(shape, dtype)
    views = {
        "planar": lambda t: t,
        "channels_last": lambda t: t.to(memory_format=torch.channels_last),
        "sliced": lambda t: torch.stack([t, -t], -1)[..., 0],
    }
    leaves = [t.detach().requires_grad_() for t in (views[layout](input), weight, bias)]
    exact_leaves = [t.detach().double().requires_grad_() for t in (input, weight, bias)]
    output = locally_shared_conv2d(*leaves, *geometry)
    exact = reference.locally_shared_conv2d(*exact_leaves, *geometry)
    grad = views[layout](torch.randn_like(exact))
    results = (output, *torch.autograd.grad(output, leaves, grad.to(dtype)))
    expected = (exact, *torch.autograd.grad(exact, exact_leaves, grad))
    for ours, theirs in zip(results, expected, strict=True):
        scale = theirs.abs().max()
        torch.testing.assert_close(ours.double() / scale, theirs / scale, **TOLERANCE[dtype])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "shape",
    [
        (3, 1, 1, (9, 8), (3, 3), (1, 1), 1, 1, 1),
        (3, 1, 3, (9, 8), (3, 2), (1, 1), (2, 1), (1, 0), (1, 2)),
        (3, 2, 1, (9, 8), (1, 1), (1, 1), 1, 0, 1),
        (0, 2, 3, (9, 8), (3, 2), (1, 1), 1, 0, 1),
        (2, 0, 3, (9, 8), (3, 2), (1, 1), (1, 2), 0, 1),
        (2, 3, 0, (9, 8), (3, 2), (1, 1), (1, 2), 0, 1),
        (2, 3, 1, (0, 8), (1, 1), (1, 1), 2, 1, 1),  # nothing but padding
    ],
)
def test_one_cell_of_few_channels(shape, layout):
    """conv2d's job, whose layout may differ."""
    for bias in (True, False):
        input, weight, bias, geometry = problem(shape, torch.float32, bias)
        input = input.to(memory_format=layout)
        output = locally_shared_conv2d(input, weight, bias, *geometry)
        exact = reference.locally_shared_conv2d(
            *(None if t is None else t.double() for t in (input, weight, bias)), *geometry
        )
        torch.testing.assert_close(output.double(), exact, **TOLERANCE[torch.float32])
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fakes = [None if t is None else mode.from_tensor(t) for t in (input, weight, bias)]
            fake = locally_shared_conv2d(*fakes, *geometry)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            assert fake.is_contiguous(memory_format=memory_format) == output.is_contiguous(memory_format=memory_format)
        with torch.autocast("cpu", torch.bfloat16):
            assert locally_shared_conv2d(input, weight, bias, *geometry).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "shape",
    [
        (2, 1, 1, (9, 40), (3, 3), (1, 1), 1, 0, 1),
        (2, 3, 3, (12, 71), (3, 2), (2, 2), (2, 1), (1, 2), (1, 3)),
        (1, 5, 7, (6, 66), (1, 1), (2, 4), (3, 1), 0, 1),
        (1, 200, 2, (50, 37), (3, 3), (1, 1), 1, (4, 5), 1),  # some rows at a time
        (2, 0, 2, (9, 40), (3, 3), (1, 2), 1, 1, 1),
        (2, 2, 0, (9, 40), (3, 3), (1, 2), 1, 1, 1),
        (0, 2, 1, (9, 40), (3, 3), (1, 2), 1, 1, 1),
    ],
)
def test_few_channels_and_long_rows(shape, layout, dtype):
    """There vectors run along the rows."""
    for bias in (True, False):
        input, weight, bias, geometry = problem(shape, dtype, bias)
        if input.numel():
            input[0, 0, 3, 20] = torch.nan  # in the vectors of more outputs than read it
        output = locally_shared_conv2d(input.to(memory_format=layout), weight, bias, *geometry)
        exact = reference.locally_shared_conv2d(
            *(None if t is None else t.double() for t in (input, weight, bias)), *geometry
        )
        torch.testing.assert_close(output.double(), exact, **TOLERANCE[dtype], equal_nan=True)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "shape",
    [
        (5, 37, 40, (16, 20), (3, 3), (2, 2), 1, 1, 1),
        (3, 32, 33, (19, 17), (5, 4), (1, 2), (1, 2), (0, 3), (2, 1)),
        (9, 64, 150, (26, 22), (3, 2), (3, 1), (2, 1), (1, 2), 1),  # some images at a time
    ],
)
def test_copies_of_planar_maps(shape, dtype):
    """One thread copies what it reads often, several do not where they would copy the same: to the same bits."""
    leaves = [t.requires_grad_() for t in problem(shape, dtype)[:3]]
    geometry = shape[6:]
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 8):
            torch.set_num_threads(count)
            output = locally_shared_conv2d(*leaves, *geometry)
            results.append((output, *torch.autograd.grad(output.sum(), leaves)))
    finally:
        torch.set_num_threads(threads)
    for one, many in zip(*results, strict=True):
        assert torch.equal(one, many)
    exact_leaves = [t.detach().double().requires_grad_() for t in leaves]
    exact = reference.locally_shared_conv2d(*exact_leaves, *geometry)
    expected = (exact, *torch.autograd.grad(exact.sum(), exact_leaves))
    for ours, theirs in zip(results[0], expected, strict=True):
        scale = theirs.abs().max()
        torch.testing.assert_close(ours.double() / scale, theirs / scale, **TOLERANCE[dtype])


def test_weight_gradient_of_a_large_channels_last_input():
    input, grad = torch.randn(2, 16, 264, 264), torch.randn(2, 8, 262, 262)  # a planar copy of which is read
    expected = torch.nn.grad.conv2d_weight(input.double(), (8, 16, 3, 3), grad.double())
    ours, _ = torch.ops.faceattr.locally_shared_conv2d_weight_grad(
        grad, input.to(memory_format=torch.channels_last), [1, 1], [3, 3], [1, 1], [0, 0], [1, 1]
    )
    scale = expected.abs().max()
    torch.testing.assert_close(ours[0, 0].double() / scale, expected / scale, **TOLERANCE[torch.float32])
