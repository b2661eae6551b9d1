"""Locally shared convolution: filters shared inside the cells of a grid laid over the output (eq. 4)."""

import torch

from ._library import call, empty_map, is_channels_last, pair, register_autocast, register_vmap

_forward = torch.ops.faceattr.locally_shared_conv2d.default
_input_grad = torch.ops.faceattr.locally_shared_conv2d_input_grad.default
_weight_grad = torch.ops.faceattr.locally_shared_conv2d_weight_grad.default
_both_grads = torch.ops.faceattr.locally_shared_conv2d_backward.default


def locally_shared_conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1):
    r"""Convolution whose filters are shared inside the cells of a grid over the output.

    The output row y of Ho belongs to cell row floor(y * Gh / Ho), columns likewise, and is computed as by
    :func:`torch.nn.functional.conv2d` with that cell's filters:

        out[n, o, y, x] = bias[p, q, o] + sum over c, u, v of
                          weight[p, q, o, c, u, v] * padded_input[n, c, y*sh + u*dh, x*sw + v*dw]

    A 1 x 1 grid is conv2d; a grid of Ho x Wo is the locally connected (unshared) layer of other frameworks.
    Source: "Deep Learning Face Attributes in the Wild", eq. 4.

    Args:
        input: [N, C, H, W] or [C, H, W]; float64, float32, float16 or bfloat16; any strides.
        weight: [Gh, Gw, O, C, kh, kw], same dtype and device; any strides. See :func:`channels_last_filters`.
        bias: [Gh, Gw, O] or None.
        stride, padding, dilation: an int or a pair (vertical, horizontal), in positions.

    Returns:
        [N, O, Ho, Wo] (or [O, Ho, Wo]) with Ho = floor((H + 2*ph - dh*(kh-1) - 1) / sh) + 1, Wo likewise;
        channels_last where the input is. Sums are taken in float32 (float64 for float64) and rounded once.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit, or a grid with more cells than output positions.

    Differentiable to any order in input, weight and bias. The same bits for any number of threads. On CUDA, float32 is
    multiplied as TF32 where ``torch.backends.cudnn.conv.fp32_precision`` allows it, as conv2d's is: by default.

    Memory on the CPU, beyond the result: forward, one cell's filters a thread (all filters where there are fewer cells
    than threads); the input's gradient, a copy of the weights (for few outputs a cell, what each
    output sends back); the weights' gradient, one cell's output gradients a thread; in bfloat16 on a CPU that
    multiplies it by pairs (AVX512_BF16) also a copy of the maps that are read, and for the input's gradient of the
    weights. Such a CPU takes subnormal bfloat16 numbers for zero. benchmarks/RESULTS.md has figures.
    """
    geometry = pair(stride), pair(padding), pair(dilation)
    if input.dim() == 3:
        return call(_forward, input.unsqueeze(0), weight, bias, *geometry).squeeze(0)
    return call(_forward, input, weight, bias, *geometry)


def channels_last_filters(weight):
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


def _output_size(size, kernel_size, stride, padding, dilation):
    return [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel_size, stride, padding, dilation, strict=True)
    ]


@torch.library.register_fake("faceattr::locally_shared_conv2d")
def _(input, weight, bias, stride, padding, dilation):
    op = "locally_shared_conv2d"
    torch._check(input.dim() == 4, lambda: f"{op}: input has shape {list(input.shape)}, it must be [N, C, H, W]")
    torch._check(
        weight.dim() == 6, lambda: f"{op}: weight has shape {list(weight.shape)}, it must be [Gh, Gw, O, C, kh, kw]"
    )
    torch._check(
        weight.shape[3] == input.shape[1],
        lambda: f"{op}: weight has {weight.shape[3]} input channels, input has {input.shape[1]}",
    )
    torch._check(
        weight.dtype == input.dtype,
        lambda: f"{op}: weight and input have different dtypes, convert one to the other's",
    )
    height, width = _output_size(input.shape[2:], weight.shape[4:], stride, padding, dilation)
    return empty_map(input, (input.shape[0], weight.shape[2], height, width), is_channels_last(input))


@torch.library.register_fake("faceattr::locally_shared_conv2d_input_grad")
def _(grad, weight, input_size, stride, padding, dilation, channels_last):
    return empty_map(grad, (grad.shape[0], weight.shape[3], *input_size), channels_last)


@torch.library.register_fake("faceattr::locally_shared_conv2d_weight_grad")
def _(grad, input, grid, kernel_size, stride, padding, dilation):
    out_channels = grad.shape[1]
    return input.new_empty(*grid, out_channels, input.shape[1], *kernel_size), input.new_empty(*grid, out_channels)


def _lie_channels_last(weight):
    """The rule of csrc/cuda/torch_convolution.h, DenseFilters."""
    return weight.permute(0, 1, 4, 5, 2, 3).is_contiguous() and not weight.is_contiguous()


@torch.library.register_fake("faceattr::locally_shared_conv2d_backward")
def _(grad, input, weight, stride, padding, dilation):
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
    grad, input, _, _, *geometry = inputs
    _save(ctx, grad, input, *geometry)
    ctx.input_size, ctx.channels_last = input.shape[2:], is_channels_last(input)


def _backward_weight_grad(ctx, grad_weight, grad_bias):
    grad, input = ctx.saved_tensors
    grad_grad = _forward(input, grad_weight, grad_bias, *ctx.geometry) if ctx.needs_input_grad[0] else None
    input_grad = None
    if ctx.needs_input_grad[1]:
        input_grad = _input_grad(grad, grad_weight, ctx.input_size, *ctx.geometry, ctx.channels_last)
    return grad_grad, input_grad, None, None, None, None, None


torch.library.register_autograd(_forward, _backward_forward, setup_context=_setup_forward)
torch.library.register_autograd(_input_grad, _backward_input_grad, setup_context=_setup_input_grad)
torch.library.register_autograd(_weight_grad, _backward_weight_grad, setup_context=_setup_weight_grad)
register_autocast("locally_shared_conv2d")
register_vmap("locally_shared_conv2d", folds=True)
register_vmap("locally_shared_conv2d_input_grad", folds=True)
register_vmap("locally_shared_conv2d_weight_grad")
register_vmap("locally_shared_conv2d_backward")
