"""The layer round :func:`faceattr.ops.locally_shared_conv2d`."""

import math

import torch
from torch import nn

from ..ops import locally_shared_conv2d
from ..ops._library import pair


class LocallySharedConv2d(nn.Module):
    """Convolution whose filters are shared inside the cells of a grid over the output (eq. 4).

    Used like :class:`torch.nn.Conv2d`: a 1 x 1 grid is that layer, a grid as large as the output a locally connected
    one.

    Args:
        in_channels, out_channels: C and O.
        kernel_size, grid, stride, padding, dilation: an int or a pair (vertical, horizontal); ``grid`` is the number
            of cells, at most one for each output position.
        bias: whether each cell has a bias.
        device, dtype: of the parameters.

    Shape: input [N, C, H, W] or [C, H, W], output [N, O, Ho, Wo] or [O, Ho, Wo].

    Attributes:
        weight: [Gh, Gw, O, C, kh, kw], drawn as by :class:`torch.nn.Conv2d`, each cell on its own.
        bias: [Gh, Gw, O] or None.

    Raises:
        ValueError: a channel count, kernel size, grid, stride or dilation below 1, or a negative padding.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        grid,
        stride=1,
        padding=0,
        dilation=1,
        bias=True,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.grid = pair(kernel_size), pair(grid)
        self.stride, self.padding, self.dilation = pair(stride), pair(padding), pair(dilation)
        for name in ("in_channels", "out_channels", "kernel_size", "grid", "stride", "padding", "dilation"):
            value, least = getattr(self, name), 0 if name == "padding" else 1
            if min(pair(value)) < least:
                raise ValueError(f"LocallySharedConv2d: {name} is {value}, it must be at least {least}")
        options = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(*self.grid, out_channels, in_channels, *self.kernel_size, **options))
        if bias:
            self.bias = nn.Parameter(torch.empty(*self.grid, out_channels, **options))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self):
        """Uniform within 1 / sqrt(fan in), as torch.nn.Conv2d."""
        bound = 1 / math.sqrt(self.in_channels * self.kernel_size[0] * self.kernel_size[1])
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    @classmethod
    def from_conv2d(cls, conv, grid):
        """A layer that starts as `conv` in every cell, to be told apart by training.

        Raises:
            ValueError: a grouped convolution, or one that pads with anything but a number of zeros.
        """
        if conv.groups != 1:
            raise ValueError(f"LocallySharedConv2d.from_conv2d: conv has {conv.groups} groups, it must have 1")
        if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
            raise ValueError(
                f"LocallySharedConv2d.from_conv2d: conv has padding {conv.padding!r} of mode {conv.padding_mode!r}, "
                "it must be a number of zeros"
            )
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            grid,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.bias is not None,
            conv.weight.device,
            conv.weight.dtype,
        )
        with torch.no_grad():
            layer.weight.copy_(conv.weight.expand_as(layer.weight))
            if conv.bias is not None:
                layer.bias.copy_(conv.bias.expand_as(layer.bias))
        return layer

    def forward(self, input):
        return locally_shared_conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation)

    def extra_repr(self):
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, grid={self.grid}"
        for name, default in (("stride", (1, 1)), ("padding", (0, 0)), ("dilation", (1, 1))):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text if self.bias is not None else text + ", bias=False"
