"""Locally shared convolution: filters shared inside the cells of a grid laid over the output (eq. 4)."""

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
    integer,
    integers,
    is_channels_last,
    overridable,
    register_autocast,
    register_autograd,
    register_vmap,
)

_forward = torch.ops.faceattr.locally_shared_conv2d.default
_input_grad = torch.ops.faceattr.locally_shared_conv2d_input_grad.default
_weight_grad = torch.ops.faceattr.locally_shared_conv2d_weight_grad.default
_both_grads = torch.ops.faceattr.locally_shared_conv2d_backward.default


@overridable
def locally_shared_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    r"""Convolution whose filters are shared inside the cells of a grid over the output.

    The output row y of Ho belongs to cell row floor(y * Gh / Ho), columns likewise, and is computed as by
    :func:`torch.nn.functional.conv2d` with that cell's filters::

        out[n, o, y, x] = bias[p, q, o] + sum over c, u, v of
                          weight[p, q, o, c, u, v] * padded_input[n, c, y*sh + u*dh, x*sw + v*dw]

    A 1 x 1 grid is conv2d; a grid of Ho x Wo is the locally connected (unshared) layer of other frameworks.
    Source: "Deep Learning Face Attributes in the Wild", eq. 4.

    Args:
        input: [N, C, H, W] or [C, H, W]; float64, float32, float16 or bfloat16; any strides.
        weight: [Gh, Gw, O, C / groups, kh, kw], same dtype and device; any strides. See :func:`channels_last_filters`.
        bias: [Gh, Gw, O] or None.
        stride, dilation: an int or a pair (vertical, horizontal), in positions.
        padding: the same, zeros on both sides; or "valid" (none) or, with stride 1, "same": as much as keeps the size,
            an odd rest at the end.
        groups: input and output channels in so many groups, the first of the one with the first of the other and so
            on; one call of the kernel a group.

    Returns:
        [N, O, Ho, Wo] (or [O, Ho, Wo]) with Ho = floor((H + 2*ph - dh*(kh-1) - 1) / sh) + 1, Wo likewise;
        channels_last where the input is. Sums are taken in float32 (float64 for float64) and rounded once.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit, or a grid with more cells than output positions.
        TypeError, ValueError: a stride, padding or dilation that is no int, pair of ints or word.

    On CUDA, float32 is multiplied as TF32 where ``torch.backends.cudnn.conv.fp32_precision`` allows it, as conv2d's
    is: by default.

    Differentiable to any order in input, weight and bias, in reverse and forward mode, under every transform of
    torch.func. The same bits for any number of threads.

    Memory on the CPU, beyond the result: forward, one cell's filters a thread (all filters where there are fewer cells
    than threads); the input's gradient, a copy of the weights (for few outputs a cell, what each output sends back);
    both also some images' inputs of a cell a thread, 2 MB at most; the weights' gradient, one cell's output gradients
    a thread, and a planar copy of a channels_last input of more than 8 MB a cell; in bfloat16 on a CPU that multiplies
    it by pairs (AVX512_BF16) also a copy of the maps that are read, and for the input's gradient of the weights. Such
    a CPU takes subnormal bfloat16 numbers for zero. benchmarks/RESULTS.md has figures.
    """
    op = "locally_shared_conv2d"
    stride, dilation = integers(stride, op, "stride"), integers(dilation, op, "dilation")
    if isinstance(padding, str):
        input, padding = _pad_by_word(input, weight, stride, padding, dilation)
    geometry = stride, integers(padding, op, "padding"), dilation
    if input.dim() == 3:
        return _by_groups(input.unsqueeze(0), weight, bias, geometry, groups).squeeze(0)
    return _by_groups(input, weight, bias, geometry, groups)


def _by_groups(input, weight, bias, geometry, groups):
    if groups == 1:
        return call(_forward, input, weight, bias, *geometry)
    op, groups = "locally_shared_conv2d", integer(groups, "locally_shared_conv2d", "groups")
    if groups < 1:
        raise RuntimeError(f"{op}: groups is {groups}, it must be at least 1")
    check_dim(input, 4, op, "input", "[N, C, H, W]")
    check_weight(weight, op)
    for name, channels in (("input", input.shape[1]), ("output", weight.shape[2])):
        if channels % groups:
            raise RuntimeError(f"{op}: {name} has {channels} channels, no multiple of the {groups} groups")
    if bias is not None and bias.shape != weight.shape[:3]:  # whose parts could fit all the same
        check_bias(bias, weight, op)
    biases = [None] * groups if bias is None else bias.chunk(groups, 2)
    parts = zip(input.chunk(groups, 1), weight.chunk(groups, 2), biases, strict=True)
    return torch.cat([call(_forward, *part, *geometry) for part in parts], 1)


def channels_last_filters(weight: Tensor) -> Tensor:
    """The filters laid out with their channels side by side, as the CUDA kernels read them.

    A GPU reads such filters in place, forward and backward, where C is a multiple of 16 bytes, and lays their gradient
    out so too; any others it lays out so at each call. The counterpart of a weight in ``torch.channels_last`` for
    :func:`torch.nn.functional.conv2d`.

    Args:
        weight: [Gh, Gw, O, C, kh, kw] of :func:`locally_shared_conv2d` or :func:`interweaved_conv2d`.

    Returns:
        The same numbers in the same shape, in the memory order of [Gh, Gw, kh, kw, O, C].

    Raises:
        ValueError: a weight that has not six dimensions.
    """
    if weight.dim() != 6:
        raise ValueError(
            f"channels_last_filters: weight has shape {list(weight.shape)}, it must be [Gh, Gw, O, C, kh, kw]"
        )
    return weight.permute(0, 1, 4, 5, 2, 3).contiguous().permute(0, 1, 4, 5, 2, 3)


def _pad_by_word(input, weight, stride, padding, dilation):
    """The input and the padding, in numbers, that torch.nn.functional.conv2d takes "same" and "valid" for."""
    op = "locally_shared_conv2d"
    if padding not in ("same", "valid"):
        raise ValueError(f'{op}: padding is {padding!r}, it must be an int, a pair of ints, "same" or "valid"')
    if padding == "valid":
        return input, (0, 0)
    if stride != (1, 1):
        raise ValueError(f'{op}: padding is "same" with stride {stride}, it needs stride 1')
    check_weight(weight, op)
    height, width = (d * (k - 1) for d, k in zip(dilation, weight.shape[4:], strict=True))
    if height % 2 or width % 2:
        input = torch.nn.functional.pad(input, (0, width % 2, 0, height % 2))
    return input, (height // 2, width // 2)


def _checked_output(op, size, grid, kernel_size, stride, padding, dilation):
    """Ho and Wo for an input of `size`, (H, W)."""
    for name, values, least in (
        ("grid", grid, 1),
        ("kernel_size", kernel_size, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
    ):
        check_pair(values, least, op, name)
    height, width = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel_size, stride, padding, dilation, strict=True)
    )
    smaller = f"input of {size[0]}x{size[1]} is smaller than the kernel of {kernel_size[0]}x{kernel_size[1]} with "
    smaller += f"dilation ({dilation[0]}, {dilation[1]}) and padding ({padding[0]}, {padding[1]})"
    check(height > 0, op, ": ", smaller)
    check(width > 0, op, ": ", smaller)
    many = f"weight has a grid of {grid[0]}x{grid[1]} cells, the output only {height}x{width} positions; every cell "
    check(grid[0] <= height, op, ": ", many, "needs at least one")
    check(grid[1] <= width, op, ": ", many, "needs at least one")
    return height, width


def _checked_forward(op, input, weight, bias, *geometry):
    """Ho and Wo."""
    check_dim(input, 4, op, "input", "[N, C, H, W]")
    check_weight(weight, op)
    check_like(weight, input, op, "weight")
    check_channels(weight, input, op)
    check_bias(bias, weight, op)
    return _checked_output(op, input.shape[2:], weight.shape[:2], weight.shape[4:], *geometry)


@torch.library.register_fake("faceattr::locally_shared_conv2d")
def _(input, weight, bias, *geometry):
    op = "locally_shared_conv2d"
    size = _checked_forward(op, input, weight, bias, *geometry)
    check_floating(input, op)
    return empty_map(input, (input.shape[0], weight.shape[2], *size), is_channels_last(input))


@torch.library.register_fake("faceattr::locally_shared_conv2d_input_grad")
def _(grad, weight, input_size, stride, padding, dilation, channels_last):
    op = "locally_shared_conv2d_input_grad"
    check_dim(grad, 4, op, "grad", "[N, O, Ho, Wo]")
    check_weight(weight, op)
    check_like(weight, grad, op, "weight")
    check_pair(input_size, 1, op, "input_size")
    geometry = weight.shape[:2], weight.shape[4:], stride, padding, dilation
    size = _checked_output(op, input_size, *geometry)
    check_grad(grad, (grad.shape[0], weight.shape[2], *size), op)
    check_floating(grad, op)
    return empty_map(grad, (grad.shape[0], weight.shape[3], *input_size), channels_last)


@torch.library.register_fake("faceattr::locally_shared_conv2d_weight_grad")
def _(grad, input, grid, kernel_size, stride, padding, dilation):
    op = "locally_shared_conv2d_weight_grad"
    check_dim(grad, 4, op, "grad", "[N, O, Ho, Wo]")
    check_dim(input, 4, op, "input", "[N, C, H, W]")
    check_like(grad, input, op, "grad")
    size = _checked_output(op, input.shape[2:], grid, kernel_size, stride, padding, dilation)
    check_grad(grad, (input.shape[0], grad.shape[1], *size), op)
    check_floating(input, op)
    out_channels = grad.shape[1]
    return input.new_empty(*grid, out_channels, input.shape[1], *kernel_size), input.new_empty(*grid, out_channels)


def _lie_channels_last(weight):
    """The rule of csrc/cuda/torch_convolution.h, DenseFilters."""
    return weight.permute(0, 1, 4, 5, 2, 3).is_contiguous() and not weight.is_contiguous()


def _check_backward(grad, input, weight, *geometry):
    op = "locally_shared_conv2d_backward"
    size = _checked_forward(op, input, weight, None, *geometry)
    check_dim(grad, 4, op, "grad", "[N, O, Ho, Wo]")
    check_grad(grad, (input.shape[0], weight.shape[2], *size), op)
    check_like(grad, input, op, "grad")
    check_floating(input, op)


@torch.library.register_fake("faceattr::locally_shared_conv2d_backward")
def _(grad, input, weight, *geometry):
    _check_backward(grad, input, weight, *geometry)
    if _lie_channels_last(weight):
        weight_grad = torch.empty_like(weight.permute(0, 1, 4, 5, 2, 3)).permute(0, 1, 4, 5, 2, 3)
    else:
        weight_grad = weight.new_empty(weight.shape)
    return (
        empty_map(input, input.shape, is_channels_last(input)),
        weight_grad,
        weight.new_empty(weight.shape[:3]),
    )


@torch.library.impl("faceattr::locally_shared_conv2d_backward", "CPU")
def _(grad, input, weight, *geometry):
    _check_backward(grad, input, weight, *geometry)
    input_grad = _input_grad(grad, weight, input.shape[2:], *geometry, is_channels_last(input))
    weight_grad, bias_grad = _weight_grad(grad, input, weight.shape[:2], weight.shape[4:], *geometry)
    return input_grad, channels_last_filters(weight_grad) if _lie_channels_last(weight) else weight_grad, bias_grad


def _save(ctx, first, second, *geometry):
    """Each gradient needs only the other operand."""
    needs_first, needs_second = ctx.needs_input_grad[:2]
    ctx.save_for_backward(first if needs_second else None, second if needs_first else None)
    ctx.geometry = geometry


def _setup_forward(ctx, inputs, output):
    input, weight, bias, *geometry = inputs
    needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    if needs_weight:
        saved = input
    else:  # the bias gradient is that of an input without channels
        saved = input[:, :0] if needs_bias else None
    ctx.save_for_backward(saved, weight if needs_input else None)
    ctx.input_size, ctx.channels_last = input.shape[2:], is_channels_last(input)
    ctx.grid, ctx.kernel_size, ctx.geometry = weight.shape[:2], weight.shape[4:], geometry


def _backward_forward(ctx, grad):
    needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    input, weight = ctx.saved_tensors
    input_grad = weight_grad = bias_grad = None
    if needs_input and needs_weight and grad.is_cuda and not torch.is_grad_enabled():  # reads `grad` once
        input_grad, weight_grad, bias_grad = call(_both_grads, grad, input, weight, *ctx.geometry)
        return input_grad, weight_grad, bias_grad if needs_bias else None, None, None, None
    if needs_input:
        input_grad = call(_input_grad, grad, weight, ctx.input_size, *ctx.geometry, ctx.channels_last)
    if needs_weight or needs_bias:
        weight_grad, bias_grad = call(_weight_grad, grad, input, ctx.grid, ctx.kernel_size, *ctx.geometry)
    return input_grad, weight_grad if needs_weight else None, bias_grad if needs_bias else None, None, None, None


def _setup_input_grad(ctx, inputs, output):
    grad, weight, _, *geometry, _ = inputs
    _save(ctx, grad, weight, *geometry)
    ctx.grid, ctx.kernel_size = weight.shape[:2], weight.shape[4:]


def _backward_input_grad(ctx, grad_input):
    grad, weight = ctx.saved_tensors
    grad_grad = _forward(grad_input, weight, None, *ctx.geometry) if ctx.needs_input_grad[0] else None
    weight_grad = None
    if ctx.needs_input_grad[1]:
        weight_grad, _ = _weight_grad(grad, grad_input, ctx.grid, ctx.kernel_size, *ctx.geometry)
    return grad_grad, weight_grad, None, None, None, None, None


def _setup_weight_grad(ctx, inputs, output):
    grad, input, ctx.grid, ctx.kernel_size, *geometry = inputs
    _save(ctx, grad, input, *geometry)
    ctx.channels, ctx.input_size, ctx.channels_last = input.shape[1], input.shape[2:], is_channels_last(input)


def _backward_weight_grad(ctx, grad_weight, grad_bias):
    grad, input = ctx.saved_tensors
    needs_grad, needs_input = ctx.needs_input_grad[:2]
    if grad_weight is None:  # a bias adds to every position of its cell: the output of an input without channels
        grad_weight = grad_bias.new_zeros(*ctx.grid, grad_bias.shape[2], ctx.channels, *ctx.kernel_size)
    grad_grad = _forward(input, grad_weight, grad_bias, *ctx.geometry) if needs_grad else None
    input_grad = None
    if needs_input:
        input_grad = _input_grad(grad, grad_weight, ctx.input_size, *ctx.geometry, ctx.channels_last)
    return grad_grad, input_grad, None, None, None, None, None


def _jvp_forward(inputs, tangents):
    input, weight, _, *geometry = inputs
    input_tangent, weight_tangent, bias_tangent, *_ = tangents
    if weight_tangent is None and bias_tangent is not None:
        weight_tangent = torch.zeros_like(weight)
    return add(
        None if input_tangent is None else _forward(input_tangent, weight, None, *geometry),
        None if weight_tangent is None else _forward(input, weight_tangent, bias_tangent, *geometry),
    )


def _jvp_input_grad(inputs, tangents):
    grad, weight, *rest = inputs
    grad_tangent, weight_tangent, *_ = tangents
    return add(
        None if grad_tangent is None else _input_grad(grad_tangent, weight, *rest),
        None if weight_tangent is None else _input_grad(grad, weight_tangent, *rest),
    )


def _jvp_weight_grad(inputs, tangents):
    grad, input, *rest = inputs
    grad_tangent, input_tangent, *_ = tangents
    weight = bias = None
    if grad_tangent is not None:
        weight, bias = _weight_grad(grad_tangent, input, *rest)
    if input_tangent is not None:
        of_input, unmoved = _weight_grad(grad, input_tangent, *rest)
        weight, bias = add(weight, of_input), torch.zeros_like(unmoved) if bias is None else bias
    return weight, bias


register_autograd("locally_shared_conv2d", _setup_forward, _backward_forward, _jvp_forward)
register_autograd("locally_shared_conv2d_input_grad", _setup_input_grad, _backward_input_grad, _jvp_input_grad)
register_autograd("locally_shared_conv2d_weight_grad", _setup_weight_grad, _backward_weight_grad, _jvp_weight_grad)
register_autocast("locally_shared_conv2d")
register_vmap("locally_shared_conv2d", folds=True)
register_vmap("locally_shared_conv2d_input_grad", folds=True)
register_vmap("locally_shared_conv2d_weight_grad")
register_vmap("locally_shared_conv2d_backward")
