"""The layers round :func:`faceattr.ops.locally_shared_conv2d`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.lazy import LazyModuleMixin

from ..ops import locally_shared_conv2d
from ..ops._library import integer, integers

Sizes = int | tuple[int, ...]


class _LocallyShared(nn.Module):
    """What the layers of one and of two dimensions share: arguments, parameters, initialisation."""

    dims: ClassVar[int]
    plain: ClassVar[type[nn.Module]]
    in_channels: int
    out_channels: int
    groups: int
    kernel_size: tuple[int, ...]
    grid: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | Literal["same"]
    dilation: tuple[int, ...]
    padding_mode: str
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        grid: Sizes,
        stride: Sizes = 1,
        padding: Sizes | Literal["same", "valid"] = 0,
        dilation: Sizes = 1,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        groups: int = 1,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
    ):
        super().__init__()
        name = type(self).__name__
        for key, value in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
            setattr(self, key, integer(value, name, key))
        for key, sizes in (("kernel_size", kernel_size), ("grid", grid), ("stride", stride), ("dilation", dilation)):
            setattr(self, key, integers(sizes, name, key, self.dims))
        if padding == "valid":
            padding = 0
        if padding == "same":
            self.padding = "same"
            if set(self.stride) != {1}:
                raise ValueError(f'{name}: padding is "same" with stride {self.stride}, it needs stride 1')
        elif isinstance(padding, str):
            raise ValueError(f'{name}: padding is {padding!r}, it must be numbers, "same" or "valid"')
        else:
            self.padding = integers(padding, name, "padding", self.dims)
        for key in ("in_channels", "out_channels", "kernel_size", "grid", "stride", "dilation", "groups"):
            values = getattr(self, key)
            if min(values if isinstance(values, tuple) else (values,)) < 1:
                raise ValueError(f"{name}: {key} is {values}, it must be at least 1")
        if isinstance(self.padding, tuple) and min(self.padding) < 0:
            raise ValueError(f"{name}: padding is {self.padding}, it must be at least 0")
        for key in ("in_channels", "out_channels"):
            if getattr(self, key) % self.groups:
                raise ValueError(f"{name}: {key} is {getattr(self, key)}, no multiple of the {self.groups} groups")
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(
                f"{name}: padding_mode is {padding_mode!r}, it must be zeros, reflect, replicate or circular"
            )
        self.padding_mode = padding_mode
        self._make_parameters(bias, device, dtype)

    def _make_parameters(self, bias: bool, device: Any, dtype: torch.dtype | None) -> None:
        self.weight = nn.Parameter(torch.empty(self._shape(), device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(*self.grid, self.out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _shape(self) -> tuple[int, ...]:
        return *self.grid, self.out_channels, self.in_channels // self.groups, *self.kernel_size

    def reset_parameters(self) -> None:
        """Uniform within 1 / sqrt(fan in) of a cell's filters, as torch's convolutions."""
        bound = 1 / math.sqrt(math.prod(self.weight.shape[self.dims + 1 :]))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def init_cells_(self, initialise: Callable[..., Any], **options: Any) -> _LocallyShared:
        """Fills each cell's filters by one of :mod:`torch.nn.init`'s functions, in place; returns the layer::

            layer.init_cells_(nn.init.kaiming_normal_, nonlinearity="relu")

        Called on the whole weight, those that go by fan in and fan out (xavier, kaiming, orthogonal, sparse) take the
        grid for channels, and what they draw is far too small.
        """
        with torch.no_grad():
            for filters in self.weight.flatten(0, self.dims - 1):
                initialise(filters, **options)
        return self

    @classmethod
    def _from_plain(cls, module: nn.Module, grid: Sizes) -> Any:
        caller = f"{cls.__name__}.from_{cls.plain.__name__.lower()}"
        if not isinstance(module, cls.plain):
            raise TypeError(f"{caller}: conv is a {type(module).__name__}, it must be a torch.nn.{cls.plain.__name__}")
        conv: Any = module
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
            groups=conv.groups,
            padding_mode=conv.padding_mode,
        )
        with torch.no_grad():
            for own, other in ((layer.weight, conv.weight), (layer.bias, conv.bias)):
                if own is not None:
                    own.copy_(other.expand_as(own))
                    own.requires_grad_(other.requires_grad)
        return layer.train(conv.training)

    def _padded(self, input: Tensor) -> tuple[Tensor, tuple[int, ...] | Literal["same"]]:
        """The input padded in a mode that the operator does not know, and what is left for the operator to pad."""
        if self.padding_mode == "zeros":
            return input, self.padding
        if self.padding == "same":
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            sides = [(both // 2, both - both // 2) for both in total]
        else:
            sides = [(side, side) for side in self.padding]
        return F.pad(input, [n for pair in reversed(sides) for n in pair], mode=self.padding_mode), (0,) * self.dims

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, grid={self.grid}"
        ones, zeros = (1,) * self.dims, (0,) * self.dims
        for name, default in (("stride", ones), ("padding", zeros), ("dilation", ones), ("groups", 1)):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)!r}"
        if self.bias is None:
            text += ", bias=False"
        return text if self.padding_mode == "zeros" else text + f", padding_mode={self.padding_mode!r}"


class LocallySharedConv2d(_LocallyShared):
    """Convolution whose filters are shared inside the cells of a grid over the output (eq. 4).

    Used like :class:`torch.nn.Conv2d`: a 1 x 1 grid is that layer, a grid as large as the output a locally connected
    one.

    Args:
        in_channels, out_channels: C and O.
        kernel_size, grid, stride, padding, dilation: an int or a pair (vertical, horizontal); ``grid`` is the number
            of cells, at most one for each output position. ``padding`` may also be "same" or "valid".
        bias: whether each cell has a bias.
        device, dtype: of the parameters.
        groups: the channels in so many groups, each convolved by itself: one call of the operator a group.
        padding_mode: "zeros", "reflect", "replicate" or "circular".

    Shape: input [N, C, H, W] or [C, H, W], output [N, O, Ho, Wo] or [O, Ho, Wo].

    Attributes:
        weight: [Gh, Gw, O, C / groups, kh, kw], drawn as by :class:`torch.nn.Conv2d`, each cell on its own. Another
            initialisation goes cell by cell: :meth:`init_cells_`.
        bias: [Gh, Gw, O] or None.

    Raises:
        TypeError: a size that is no int or pair of ints.
        ValueError: a channel count, kernel size, grid, stride or dilation below 1, a negative padding, channels that
            the groups do not divide.
    """

    dims = 2
    plain = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        input, padding = self._padded(input)
        return locally_shared_conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    @classmethod
    def from_conv2d(cls, conv: nn.Conv2d, grid: int | tuple[int, int]) -> LocallySharedConv2d:
        """A layer that starts as `conv` in every cell, to be told apart by training.

        Trainable, frozen, in training or evaluation mode as `conv` is. Raises TypeError for any other module.
        """
        return cls._from_plain(conv, grid)


class LocallySharedConv1d(_LocallyShared):
    """:class:`LocallySharedConv2d` along one dimension, on the same kernels: used like :class:`torch.nn.Conv1d`.

    Shape: input [N, C, L] or [C, L], output [N, O, Lo] or [O, Lo].

    Attributes:
        weight: [G, O, C / groups, k].
        bias: [G, O] or None.
    """

    dims = 1
    plain = nn.Conv1d

    def forward(self, input: Tensor) -> Tensor:
        input, padding = self._padded(input)
        bias = None if self.bias is None else self.bias[None]
        output = locally_shared_conv2d(
            input.unsqueeze(-2),
            self.weight.unsqueeze(-2)[None],
            bias,
            (1, *self.stride),
            padding if isinstance(padding, str) else (0, *padding),
            (1, *self.dilation),
            self.groups,
        )
        return output.squeeze(-2)

    @classmethod
    def from_conv1d(cls, conv: nn.Conv1d, grid: int) -> LocallySharedConv1d:
        """A layer that starts as `conv` in every cell, as :meth:`LocallySharedConv2d.from_conv2d`."""
        return cls._from_plain(conv, grid)


class LazyLocallySharedConv2d(LazyModuleMixin, LocallySharedConv2d):
    """A :class:`LocallySharedConv2d` that learns C, and with ``grid="output"`` its grid, from the first input.

    ``grid="output"``, one cell a position, is the locally connected (unshared) layer of other frameworks; its grid then
    stays, whatever the size of later inputs. As torch's lazy modules it becomes a plain layer at the first call::

        layer = LazyLocallySharedConv2d(32, 3, padding="same")

    Args: as :class:`LocallySharedConv2d`, without ``in_channels``.
    """

    cls_to_become = LocallySharedConv2d

    def __init__(
        self,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        grid: int | tuple[int, int] | Literal["output"] = "output",
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | Literal["same", "valid"] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        groups: int = 1,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
    ):
        self._one_cell_a_position = isinstance(grid, str)
        if isinstance(grid, str) and grid != "output":
            raise ValueError(f'LazyLocallySharedConv2d: grid is {grid!r}, it must be numbers or "output"')
        channels = groups  # any number that the groups divide, until the first input
        super().__init__(
            channels,
            out_channels,
            kernel_size,
            1 if isinstance(grid, str) else grid,
            stride,
            padding,
            dilation,
            bias,
            device,
            dtype,
            groups=groups,
            padding_mode=padding_mode,
        )

    def _make_parameters(self, bias: bool, device: Any, dtype: torch.dtype | None) -> None:
        # Not all of torch's stubs know this class's arguments and methods.
        uninitialised: Any = nn.UninitializedParameter
        self.weight = uninitialised(device=device, dtype=dtype)
        self.register_parameter("bias", uninitialised(device=device, dtype=dtype) if bias else None)

    def initialize_parameters(self, input: Tensor) -> None:
        """Called by torch before the first call."""
        if not self.has_uninitialized_params():  # they came with a state dict
            self.grid = tuple(self.weight.shape[:2])
            self.in_channels = self.weight.shape[3] * self.groups
            return
        if input.dim() not in (3, 4):
            raise ValueError(
                f"{type(self).__name__}: input has shape {list(input.shape)}, it must be [N, C, H, W] or [C, H, W]"
            )
        self.in_channels = input.shape[-3]
        if self.in_channels % self.groups:
            raise ValueError(
                f"{type(self).__name__}: input has {self.in_channels} channels, no multiple of the {self.groups} groups"
            )
        if self._one_cell_a_position:
            filters = torch.empty(self.out_channels, *self._shape()[3:], device="meta")
            like_conv2d: Any = self.stride, self.padding, self.dilation, self.groups
            self.grid = tuple(F.conv2d(torch.empty(input.shape, device="meta"), filters, None, *like_conv2d).shape[-2:])
        with torch.no_grad():
            weight: Any = self.weight
            bias: Any = self.bias
            weight.materialize(self._shape())
            if bias is not None:
                bias.materialize((*self.grid, self.out_channels))
            self.reset_parameters()
