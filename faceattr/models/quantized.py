"""Convolutions of the nets in 8-bit integers, which CPUs multiply at twice the rate of float32 or more.

What a convolution puts out is a scale times a whole number of 0 to 127: two products of such a number and a weight of
-127 to 127 add up within the 16 bits that AVX2 has for them. Weights have a scale for each channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from faceattr.models.lnet import LNetTrunk, PyramidTrunk, double

LEVELS = 127
# oneDNN lays weights out by the size of the map made, small ones each in their way where the CPU has VNNI, and would do
# so anew in every call where it finds them laid out for another, which may take far longer than to multiply them. All
# large maps are alike, or nearly so where there is AMX.
_SMALL, _LARGE = 512, (1, 64, 64)  # positions; maps, rows and columns
_PACKINGS = 32  # that are kept of a layer's weights
_STRIP, _WHOLE = 64, 2**19  # rows of the first convolution's maps that are computed at a time; pixels that need none


@cache
def computes_in_integers() -> bool:
    """Whether torch has fast integer convolutions on this machine: those of oneDNN on AVX2 and what came after it."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")):
        return False
    # Whoever trains is to draw the same numbers after this as without. (skip_init loads sympy: a second and 35 MB.)
    with torch.random.fork_rng(devices=[]):
        convolution = nn.Conv2d(1, 1, 1, dtype=torch.float32, device="cpu")
    try:  # torch promises no one these operators: another release may have others
        layer = IntegerConv2d(convolution, of=1.0, to=1.0)
        return layer(torch.zeros(1, 1, 1, 1, dtype=torch.uint8, device="cpu")).dtype == torch.uint8
    except (AttributeError, RuntimeError, TypeError):
        return False


class IntegerConv2d(nn.Module):
    """A convolution and its ReLU on integers: uint8 [N, C, H, W] in channels last -> uint8, or float32 without `to`.

    of, to: the scales of what it reads and of what it gives. many_sizes: maps come in many sizes, for all large ones of
        which weights are laid out once.
    """

    weight: Tensor
    scale: Tensor
    zero: Tensor
    bias: Tensor

    def __init__(self, convolution: nn.Conv2d, of: float, to: float | None = None, many_sizes: bool = False):
        super().__init__()
        assert convolution.bias is not None
        weight = convolution.weight.detach().float()
        scale = weight.abs().amax((1, 2, 3)).clamp_min(1e-12) / LEVELS
        self.register_buffer("weight", (weight / scale[:, None, None, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(len(weight), dtype=torch.int32))
        self.register_buffer("bias", convolution.bias.detach().float())
        self.where = list(convolution.stride), list(convolution.padding), list(convolution.dilation), convolution.groups
        self.of, self.to_scale, self.many_sizes = of, to, many_sizes
        self.packed: Callable[[int, int, int], Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # As oneDNN lays weights out they can neither be copied nor pickled. (Python 3.10's object has no __getstate__.)
        return {**self.__dict__, "packed": None}

    def _pack(self, count: int, rows: int, columns: int) -> Tensor:
        shape = count, self.weight.shape[1], rows, columns
        return torch.ops.onednn.qconv_prepack(self.weight.contiguous(), self.scale, self.of, 0, *self.where, shape)

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is None:
            self.packed = lru_cache(_PACKINGS)(self._pack)
        to, dtype = (1.0, torch.float32) if self.to_scale is None else (self.to_scale, torch.uint8)
        rows, columns = x.shape[2:]
        small = math.prod(_after(self.where[0], (rows, columns))) <= _SMALL
        packed = self.packed(*(_LARGE if self.many_sizes and not small else (len(x), rows, columns)))
        weight = packed, self.scale, self.zero, self.bias
        return torch.ops.onednn.qconv2d_pointwise(x, self.of, 0, *weight, *self.where, to, 0, dtype, "relu", [None], "")


class QuantizedTrunk(nn.Module):
    """A :class:`PyramidTrunk`, its batch normalisation folded, for inference on the CPU: images as there -> float32
    maps of the same shape.

    largest: of what each convolution sees but the first, whose images have three channels and stay float32, the value
        beyond which it is cut off (:func:`largest_outputs`).
    many_sizes: images come in many sizes. What oneDNN prepares for each takes as long as a quarter of the arithmetic;
        so maps lie in larger ones, of few sizes, with zeros beyond them, as a convolution's own padding is.

    Raises ValueError for a trunk of another kind or with batch normalisation, and where `largest` does not fit it.
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, trunk: LNetTrunk | PyramidTrunk, largest: Sequence[float], many_sizes: bool = False):
        super().__init__()
        first, *others = _convolutions(trunk)
        scales = _scales("QuantizedTrunk", others, largest)
        self.stride, self.channels, self.many_sizes = trunk.stride, trunk.channels, many_sizes
        self.register_buffer("gain", 1 / trunk.std.float())
        self.register_buffer("shift", -trunk.mean.float() / trunk.std.float())
        *middle, up, out = others
        integers = partial(IntegerConv2d, many_sizes=many_sizes)
        layers = [integers(layer, of, to) for layer, of, to in zip(middle, scales, scales[1:], strict=False)]
        fine = len(trunk.c2) + len(trunk.c3)
        self.first = _scaled(first, scales[0])
        self.fine = nn.ModuleList(layers[:fine])
        self.coarse = nn.ModuleList([*layers[fine:], integers(up, scales[-2])])
        self.out = integers(out, scales[-1])
        self.scale_fine, self.scale_sum = scales[fine], scales[-1]

    def forward(self, images: Tensor) -> Tensor:
        count, size = len(images), tuple(images.shape[2:])
        x = _of_few_counts(images)
        rows, columns = (_few(length) if self.many_sizes else length for length in size)
        size = _after(self.first.stride, size)
        x = _clear(self._first(x, rows, columns), size)
        fine, size = _through(self.fine, x, size)
        coarse, coarse_size = _through(self.coarse, fine, size)
        doubled = double(coarse[:, :, : coarse_size[0], : coarse_size[1]], size)
        x = fine.float().mul_(self.scale_fine)
        x[:, :, : size[0], : size[1]] += doubled
        return self.out(_bytes(x.mul_(1 / self.scale_sum).add_(0.5)))[:count, :, : size[0], : size[1]]

    def _first(self, images: Tensor, rows: int, columns: int) -> Tensor:
        """The bytes that the first convolution makes of images which lie in larger ones, zeros beyond them, rows by
        columns: of a large one a strip of rows at a time, whose float32 stay in the cache and take little memory."""
        first = self.first
        kernel, stride, padding = int(first.kernel_size[0]), int(first.stride[0]), int(first.padding[0])
        strips = []
        last = -(-rows // stride)
        step = _STRIP if rows * columns > _WHOLE else last
        for start in range(0, last, step):
            stop = min(start + step, last)
            top, bottom = start * stride - padding, (stop - 1) * stride - padding + kernel
            strip = images[:, :, max(0, top) : bottom]
            right, below = columns - images.shape[3] + padding, bottom - max(0, top) - strip.shape[2]
            strip = F.pad(torch.addcmul(self.shift, strip, self.gain), (padding, right, max(0, -top), below))
            strips.append(_bytes(F.conv2d(strip, first.weight, first.bias, stride)))
        return strips[0] if len(strips) == 1 else torch.cat(strips, 2)


def _few(length: int) -> int:
    """The next of 16 sides for each power of two, and of the multiples of eight up to 256."""
    unit = max(8, (1 << (length - 1).bit_length()) // 32)
    return -(-length // unit) * unit


def _of_few_counts(x: Tensor) -> Tensor:
    """More than 16 maps as a multiple of four, with maps of zeros: for oneDNN each count is another size, too."""
    return F.pad(x, (0, 0, 0, 0, 0, 0, 0, -len(x) % 4)) if len(x) > 16 and len(x) % 4 else x


def _after(stride: Sequence[int], size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-length // step) for length, step in zip(size, stride, strict=True))


def _clear(x: Tensor, size: Sequence[int]) -> Tensor:
    """The maps with zeros beyond a size."""
    if x.shape[2] > size[0]:
        x[:, :, size[0] :] = 0
    if x.shape[3] > size[1]:
        x[..., size[1] :] = 0
    return x


def _through(layers: nn.ModuleList, x: Tensor, size: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
    """Maps of a size, within larger ones, after the layers, and their size then."""
    for layer in layers:
        assert isinstance(layer, IntegerConv2d)
        size = _after(layer.where[0], size)
        x = _clear(layer(x), size)
    return x, size


class QuantizedShared(nn.Module):
    """The globally shared layers of an ANet (`ANet.shared`), their batch normalisation folded, for inference on the
    CPU: what they take -> float32 maps of the same shape.

    largest: as :class:`QuantizedTrunk`'s, and ValueError as there.
    """

    def __init__(self, shared: nn.Sequential, largest: Sequence[float]):
        super().__init__()
        first, *others = _convolutions(shared)
        scales = _scales("QuantizedShared", others, largest)
        integers: dict[nn.Module, IntegerConv2d] = {
            convolution: IntegerConv2d(convolution, of, to)
            for convolution, of, to in zip(others, scales, [*scales[1:], None], strict=True)
        }
        self.first = _scaled(first, scales[0])
        self.layers = nn.ModuleList(
            integers.get(layer, layer) for layer in shared if layer in integers or isinstance(layer, nn.MaxPool2d)
        )

    def forward(self, images: Tensor) -> Tensor:
        x = _bytes(self.first(_of_few_counts(images)))
        for layer in self.layers:
            x = _largest_of_four(x) if isinstance(layer, nn.MaxPool2d) and x.dtype == torch.uint8 else layer(x)
        return x[: len(images)]


@contextmanager
def largest_outputs(layers: LNetTrunk | PyramidTrunk | nn.Sequential) -> Iterator[list[float]]:
    """Within, the list that :class:`QuantizedTrunk` or :class:`QuantizedShared` needs is kept up to date with what
    `layers` see: of no batch of images are more than one value in 10,000 larger. Raises ValueError as there."""
    convolutions = _convolutions(layers)[1:]
    largest = [0.0] * len(convolutions)

    def note(convolution: nn.Module, inputs: tuple[Tensor]) -> None:
        place, count = convolutions.index(convolution), max(1, inputs[0].numel() // 10_000)  # type: ignore[arg-type]
        largest[place] = max(largest[place], inputs[0].flatten().topk(count).values[-1].item())

    hooks = [convolution.register_forward_pre_hook(note) for convolution in convolutions]
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()


def _convolutions(layers: LNetTrunk | PyramidTrunk | nn.Sequential) -> list[nn.Conv2d]:
    """The convolutions, each of which a ReLU follows, in the order in which they run."""
    if isinstance(layers, LNetTrunk):
        raise ValueError("8-bit integers: a PyramidTrunk is needed, not LNetTrunk")
    if any(isinstance(layer, nn.BatchNorm2d) for layer in layers.modules()):
        raise ValueError("8-bit integers: there is batch normalisation; call fold_batch_norm() first")
    return [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d)]


def _scales(name: str, convolutions: Sequence[nn.Conv2d], largest: Sequence[float]) -> list[float]:
    if len(largest) != len(convolutions):
        raise ValueError(
            f"{name}: {len(convolutions)} convolutions need a largest input each, got {len(largest)}; measure them "
            "with training/measure_integers.py"
        )
    return [max(value, 1e-12) / LEVELS for value in largest]


def _largest_of_four(x: Tensor) -> Tensor:
    """2x2 max-pooling, which torch does not have for bytes."""
    height, width = (length // 2 * 2 for length in x.shape[2:])
    x = x[:, :, :height, :width]
    rows = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def _scaled(convolution: nn.Conv2d, scale: float) -> nn.Conv2d:
    """The convolution in float32, its outputs in parts of a scale and with what :func:`_bytes` rounds by."""
    convolution = deepcopy(convolution).float()
    assert convolution.bias is not None
    convolution.weight.data /= scale
    convolution.bias.data.div_(scale).add_(0.5)
    return convolution


def _bytes(x: Tensor) -> Tensor:
    """x - 0.5 rounded to whole numbers of 0 to LEVELS; overwrites x."""
    return x.clamp_(0, LEVELS).to(torch.uint8)
