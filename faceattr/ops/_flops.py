"""Formulas of torch.utils.flop_counter: two a multiply-add, products with padding counted, as torch counts conv2d's."""

import math

import torch
from torch.utils.flop_counter import register_flop_formula

from . import _library  # noqa: F401, loads the operators

_operators = torch.ops.faceattr


@register_flop_formula(_operators.locally_shared_conv2d)
def _(input_shape, weight_shape, *args, out_shape=None, **kwargs):
    return 2 * math.prod(out_shape) * math.prod(weight_shape[3:])


@register_flop_formula(_operators.locally_shared_conv2d_input_grad)
def _(grad_shape, weight_shape, *args, out_shape=None, **kwargs):
    return 2 * math.prod(grad_shape) * math.prod(weight_shape[3:])


@register_flop_formula(_operators.locally_shared_conv2d_weight_grad)
def _(grad_shape, input_shape, grid, kernel_size, *args, out_shape=None, **kwargs):
    return 2 * math.prod(grad_shape) * input_shape[1] * math.prod(kernel_size)


@register_flop_formula(_operators.locally_shared_conv2d_backward)
def _(grad_shape, input_shape, weight_shape, *args, **kwargs):
    return 4 * math.prod(grad_shape) * math.prod(weight_shape[3:])


def _responses(output_shape, weight_shape, pool):
    """How many responses there are before pooling."""
    n, channels, height, width = output_shape
    rows, columns = (
        size + cells * (window - 1) for size, cells, window in zip((height, width), weight_shape, pool, strict=False)
    )
    return n * channels * rows * columns


@register_flop_formula(_operators.interweaved_conv2d)
def _(input_shape, weight_shape, bias_shape, stride, dilation, shift, pool, *args, out_shape=None, **kwargs):
    return 2 * _responses(out_shape, weight_shape, pool) * math.prod(weight_shape[3:])


@register_flop_formula(_operators.interweaved_conv2d_backward)
def _(grad_shape, input_shape, weight_shape, bias_shape, stride, dilation, shift, pool, *args, **kwargs):
    """The gradients of input and weight; with pooling the responses once more, to find their maxima."""
    passes = 2 if max(pool) == 1 else 3
    return passes * 2 * _responses(grad_shape, weight_shape, pool) * math.prod(weight_shape[3:])


@register_flop_formula([_operators.interweave, _operators.interweave_adjoint, _operators.density_peaks])
def _(*args, **kwargs):
    return 0  # copies and comparisons
