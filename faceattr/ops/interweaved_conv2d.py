"""Every cell's filters over the whole map, interleaved, without the maps ever being stored (Fig. 5)."""

import torch

from ._library import call, empty_map, is_channels_last, pair, register_autocast, register_vmap

_forward = torch.ops.faceattr.interweaved_conv2d.default
_backward = torch.ops.faceattr.interweaved_conv2d_backward.default


def interweaved_conv2d(input, weight, bias=None, stride=1, dilation=1, shift=0, pool=1):
    r"""Convolves the whole map with every cell's filters and interweaves the responses.

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

    Differentiable once in input, weight and bias; with pooling the first maximum in row-major order takes the
    gradient.
    """
    return call(_forward, input, weight, bias, pair(stride), pair(dilation), pair(shift), pair(pool))


@torch.library.register_fake("faceattr::interweaved_conv2d")
def _(input, weight, bias, stride, dilation, shift, pool):
    op = "interweaved_conv2d"
    torch._check(input.dim() == 4, lambda: f"{op}: input has shape {list(input.shape)}, it must be [N, C, H, W]")
    torch._check(
        weight.dim() == 6, lambda: f"{op}: weight has shape {list(weight.shape)}, it must be [Gh, Gw, O, C, kh, kw]"
    )
    torch._check(
        weight.shape[3] == input.shape[1],
        lambda: f"{op}: weight has {weight.shape[3]} input channels, input has {input.shape[1]}",
    )
    size = [
        cells * ((n - d * (k - 1) - 1 - (cells - 1) * t) // s + 1 - (a - 1))
        for n, cells, k, s, d, t, a in zip(
            input.shape[2:], weight.shape[:2], weight.shape[4:], stride, dilation, shift, pool, strict=True
        )
    ]
    return empty_map(input, (input.shape[0], weight.shape[2], *size), is_channels_last(input))


@torch.library.register_fake("faceattr::interweaved_conv2d_backward")
def _(grad, input, weight, bias, stride, dilation, shift, pool):
    return (
        empty_map(input, input.shape, is_channels_last(input)),
        weight.new_empty(weight.shape),
        weight.new_empty(weight.shape[:3]),
    )


def _setup(ctx, inputs, output):
    input, weight, bias, *ctx.geometry = inputs
    ctx.save_for_backward(input, weight, bias)


def _run_backward(ctx, grad):
    grads = call(_backward, grad, *ctx.saved_tensors, *ctx.geometry)
    wanted = (result if needs else None for result, needs in zip(grads, ctx.needs_input_grad[:3], strict=True))
    return *wanted, None, None, None, None


torch.library.register_autograd(_forward, _run_backward, setup_context=_setup)
register_autocast("interweaved_conv2d")
register_vmap("interweaved_conv2d", folds=True)
register_vmap("interweaved_conv2d_backward")
