"""Every cell's filters over the whole map, interleaved, without the maps ever being stored (Fig. 5)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._checks import (
    check,
    check_bias,
    check_channels,
    check_dim,
    check_floating,
    check_grad,
    check_like,
    check_pair,
    check_weight,
)
from ._library import (
    add,
    call,
    empty_map,
    integers,
    is_channels_last,
    overridable,
    register_autocast,
    register_autograd,
    register_vmap,
)

_forward = torch.ops.faceattr.interweaved_conv2d.default
_backward = torch.ops.faceattr.interweaved_conv2d_backward.default


@overridable
def interweaved_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    shift: int | Sequence[int] = 0,
    pool: int | Sequence[int] = 1,
) -> Tensor:
    r"""Convolves the whole map with every cell's filters and interweaves the responses::

        y_pq[n, o, i, j] = bias[p, q, o] + sum over c, u, v of
                           weight[p, q, o, c, u, v] * input[n, c, i*sy + p*ty + u*dy, j*sx + q*tx + v*dx]
        out[n, o, i*Gh + p, j*Gw + q] = max over 0 <= a < ay, 0 <= b < ax of y_pq[n, o, i + a, j + b]

    A net of locally shared layers so sees all patch positions in one pass. ReLU commutes with the maximum: apply it
    to the output. Source: "Deep Learning Face Attributes in the Wild", section 3.2 and Fig. 5.

    Args:
        input: [N, C, H, W]; float64, float32, float16 or bfloat16; any strides.
        weight: [Gh, Gw, O, C, kh, kw], same dtype and device; any strides. See :func:`channels_last_filters`.
        bias: [Gh, Gw, O] or None.
        stride (sy, sx), dilation (dy, dx): an int or a pair, in positions of the input.
        shift: (ty, tx) or an int; how far apart neighbouring cells look, in positions of the input.
        pool: (ay, ax) or an int; size of the max-pooling window, in responses.

    Returns:
        [N, O, Gh*Dy, Gw*Dx], Dy = floor((H - dy*(kh-1) - 1 - (Gh-1)*ty) / sy) + 1 - (ay-1), Dx likewise;
        channels_last where the input is. Sums are taken in float32 (float64 for float64) and rounded once.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit, or an input too small for the grid.
        TypeError, ValueError: a stride, dilation, shift or pool that is no int or pair of ints.

    Differentiable to any order in input, weight and bias, in reverse and forward mode, under every transform of
    torch.func; with pooling the first maximum in row-major order takes the gradient.
    """
    op = "interweaved_conv2d"
    stride, dilation = integers(stride, op, "stride"), integers(dilation, op, "dilation")
    return call(
        _forward, input, weight, bias, stride, dilation, integers(shift, op, "shift"), integers(pool, op, "pool")
    )


def _checked_output(op, input, weight, bias, stride, dilation, shift, pool):
    """Shape of the output."""
    check_dim(input, 4, op, "input", "[N, C, H, W]")
    check_weight(weight, op)
    check_like(weight, input, op, "weight")
    check_channels(weight, input, op)
    for size in (*weight.shape[:2], *weight.shape[4:]):
        check(size > 0, op, ": weight has an empty grid or kernel, its shape is ", list(weight.shape))
    check_bias(bias, weight, op)
    for name, values, least in (
        ("stride", stride, 1),
        ("dilation", dilation, 1),
        ("shift", shift, 0),
        ("pool", pool, 1),
    ):
        check_pair(values, least, op, name)
    (height, width), grid, kernel = input.shape[2:], weight.shape[:2], weight.shape[4:]
    small = f"input of {height}x{width} is too small for a grid of {grid[0]}x{grid[1]} cells with kernel "
    small += f"{kernel[0]}x{kernel[1]}, dilation ({dilation[0]}, {dilation[1]}), shift ({shift[0]}, {shift[1]}) and "
    small += f"pool ({pool[0]}, {pool[1]})"
    sizes = []
    for n, cells, k, s, d, t, a in zip((height, width), grid, kernel, stride, dilation, shift, pool, strict=True):
        blocks = (n - d * (k - 1) - 1 - (cells - 1) * t) // s + 1 - (a - 1)
        check(blocks > 0, op, ": ", small)
        sizes.append(cells * blocks)
    check_floating(input, op)
    return input.shape[0], weight.shape[2], *sizes


@torch.library.register_fake("faceattr::interweaved_conv2d")
def _(input, weight, bias, stride, dilation, shift, pool):
    shape = _checked_output("interweaved_conv2d", input, weight, bias, stride, dilation, shift, pool)
    return empty_map(input, shape, is_channels_last(input))


@torch.library.register_fake("faceattr::interweaved_conv2d_backward")
def _(grad, input, weight, bias, stride, dilation, shift, pool):
    op = "interweaved_conv2d_backward"
    needed = _checked_output(op, input, weight, bias, stride, dilation, shift, pool)
    check_dim(grad, 4, op, "grad", "[N, O, Gh*Dy, Gw*Dx]")
    check_like(grad, input, op, "grad")
    check_grad(grad, needed, op)
    return (
        empty_map(input, input.shape, is_channels_last(input)),
        weight.new_empty(weight.shape),
        weight.new_empty(weight.shape[:3]),
    )


class _Pooling:
    """The maxima that pooling chooses, for derivatives beyond the first.

    Without pooling, block i of cell p is row i * Gh + p of the responses' map, so the responses of a window are rows Gh
    apart: the operator is the one without pooling, of which these are chosen.
    """

    def __init__(self, input, weight, bias, stride, dilation, shift, pool):
        self.geometry = stride, dilation, shift, (1, 1)
        self.grid, self.pool = weight.shape[:2], tuple(pool)
        self.places = None
        if self.pool != (1, 1):
            # The kernels compare what has not yet been rounded.
            dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
            wide = (None if tensor is None else tensor.detach().to(dtype) for tensor in (input, weight, bias))
            self.places = self._windows(_forward(*wide, *self.geometry)).argmax(0, keepdim=True)

    def _windows(self, responses):
        """[responses of a window, N, O, Gh*Dy, Gw*Dx]"""
        reach = [cells * (size - 1) for cells, size in zip(self.grid, self.pool, strict=True)]
        height, width = (n - r for n, r in zip(responses.shape[2:], reach, strict=True))
        rows, columns = (range(0, r + 1, cells) for r, cells in zip(reach, self.grid, strict=True))
        return torch.stack([responses[:, :, y : y + height, x : x + width] for y in rows for x in columns])

    def choose(self, responses):
        return responses if self.places is None else self._windows(responses).gather(0, self.places)[0]

    def spread(self, grad):
        """The gradient of :meth:`choose`."""
        if self.places is None:
            return grad
        shares = torch.zeros_like(grad).expand(self.pool[0] * self.pool[1], *grad.shape)
        shares = shares.scatter(0, self.places, grad[None])
        offsets = [(y * self.grid[0], x * self.grid[1]) for y in range(self.pool[0]) for x in range(self.pool[1])]
        bottom, right = offsets[-1]
        padded = (
            torch.nn.functional.pad(share, (x, right - x, y, bottom - y))
            for share, (y, x) in zip(shares, offsets, strict=True)
        )
        return add(*padded)


def _setup(ctx, inputs, output):
    input, weight, bias, *ctx.geometry = inputs
    ctx.save_for_backward(input, weight, bias)


def _run_backward(ctx, grad):
    grads = call(_backward, grad, *ctx.saved_tensors, *ctx.geometry)
    wanted = (result if needs else None for result, needs in zip(grads, ctx.needs_input_grad[:3], strict=True))
    return *wanted, None, None, None, None


def _jvp(inputs, tangents):
    input, weight, bias, *geometry = inputs
    input_tangent, weight_tangent, bias_tangent, *_ = tangents
    pooling = _Pooling(input, weight, bias, *geometry)
    if weight_tangent is None and bias_tangent is not None:
        weight_tangent = torch.zeros_like(weight)
    responses = add(
        None if input_tangent is None else _forward(input_tangent, weight, None, *pooling.geometry),
        None if weight_tangent is None else _forward(input, weight_tangent, bias_tangent, *pooling.geometry),
    )
    return pooling.choose(responses)


def _setup_backward(ctx, inputs, output):
    *tensors, ctx.stride, ctx.dilation, ctx.shift, ctx.pool = inputs
    ctx.save_for_backward(*tensors)


def _run_double_backward(ctx, grad_input, grad_weight, grad_bias):
    """The gradients are linear in `grad` and, where the maxima stay the same, in input and weight, each alone."""
    grad, input, weight, bias = ctx.saved_tensors
    geometry = ctx.stride, ctx.dilation, ctx.shift, ctx.pool
    pooling = _Pooling(input, weight, bias, *geometry)
    grad_grad = input_result = weight_result = None
    if ctx.needs_input_grad[0]:
        grad_grad = _jvp((input, weight, bias, *geometry), (grad_input, grad_weight, grad_bias))
    if (ctx.needs_input_grad[1] and grad_weight is not None) or (ctx.needs_input_grad[2] and grad_input is not None):
        grad_input = torch.zeros_like(input) if grad_input is None else grad_input
        grad_weight = torch.zeros_like(weight) if grad_weight is None else grad_weight
        results = _backward(pooling.spread(grad), grad_input, grad_weight, None, *pooling.geometry)
        input_result, weight_result = (
            r if n else None for r, n in zip(results, ctx.needs_input_grad[1:3], strict=False)
        )
    return grad_grad, input_result, weight_result, None, None, None, None, None


def _jvp_backward(inputs, tangents):
    grad, input, weight, bias, *geometry = inputs
    grad_tangent, input_tangent, weight_tangent, *_ = tangents
    results = None, None, None
    if grad_tangent is not None:
        results = _backward(grad_tangent, input, weight, bias, *geometry)
    if input_tangent is not None or weight_tangent is not None:
        pooling = _Pooling(input, weight, bias, *geometry)
        input_tangent = torch.zeros_like(input) if input_tangent is None else input_tangent
        weight_tangent = torch.zeros_like(weight) if weight_tangent is None else weight_tangent
        moved = _backward(pooling.spread(grad), input_tangent, weight_tangent, None, *pooling.geometry)
        unmoved = torch.zeros_like(moved[2]) if results[2] is None else results[2]
        results = add(results[0], moved[0]), add(results[1], moved[1]), unmoved
    return results


register_autograd("interweaved_conv2d", _setup, _run_backward, _jvp)
register_autograd("interweaved_conv2d_backward", _setup_backward, _run_double_backward, _jvp_backward)
register_autocast("interweaved_conv2d")
register_vmap("interweaved_conv2d", folds=True)
register_vmap("interweaved_conv2d_backward")
