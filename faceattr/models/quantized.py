"""Convolutions of the nets in 8-bit integers, which CPUs multiply at twice the rate of float32 or more.

What a convolution puts out is a scale times a whole number of 0 to 127: two products of such a number and a weight of
-127 to 127 add up within the 16 bits that AVX2 has for them. Weights have a scale for each channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from faceattr.models.lnet import LNetTrunk, PyramidTrunk, double

LEVELS = 127
# oneDNN lays weights out by the size of the map, small ones each in their way, and would do so anew in every call where
# it finds them laid out for another, which takes far longer than to multiply them. All large maps are alike.
_SMALL, _LARGE = 512, (64, 64)  # positions; rows and columns
_PACKINGS = 8  # that are kept of a layer's weights


@cache
def computes_in_integers() -> bool:
    """Whether torch has fast integer convolutions on this machine: those of oneDNN on AVX2 and what came after it."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")):
        return False
    # No random weights: whoever trains would draw others after this.
    convolution = nn.utils.skip_init(nn.Conv2d, 1, 1, 1, dtype=torch.float32, device="cpu").requires_grad_(False)
    for parameter in convolution.parameters():
        parameter.zero_()
    try:  # torch promises no one these operators: another release may have others
        layer = IntegerConv2d(convolution, of=1.0, to=1.0)
        return layer(torch.zeros(1, 1, 1, 1, dtype=torch.uint8, device="cpu")).dtype == torch.uint8
    except (AttributeError, RuntimeError, TypeError):
        return False


class IntegerConv2d(nn.Module):
    """A convolution and its ReLU on integers: uint8 [N, C, H, W] in channels last -> uint8, or float32 without `to`.

    of, to: the scales of what it reads and of what it gives.
    """

    weight: Tensor
    scale: Tensor
    zero: Tensor
    bias: Tensor

    def __init__(self, convolution: nn.Conv2d, of: float, to: float | None = None):
        super().__init__()
        assert convolution.bias is not None
        weight = convolution.weight.detach().float()
        scale = weight.abs().amax((1, 2, 3)).clamp_min(1e-12) / LEVELS
        self.register_buffer("weight", (weight / scale[:, None, None, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(len(weight), dtype=torch.int32))
        self.register_buffer("bias", convolution.bias.detach().float())
        self.where = list(convolution.stride), list(convolution.padding), list(convolution.dilation), convolution.groups
        self.of, self.to_scale = of, to
        self.packed: Callable[[int, int], Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # As oneDNN lays weights out they can neither be copied nor pickled. (Python 3.10's object has no __getstate__.)
        return {**self.__dict__, "packed": None}

    def _pack(self, rows: int, columns: int) -> Tensor:
        shape = 1, self.weight.shape[1], rows, columns
        return torch.ops.onednn.qconv_prepack(self.weight.contiguous(), self.scale, self.of, 0, *self.where, shape)

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is None:
            self.packed = lru_cache(_PACKINGS)(self._pack)
        to, dtype = (1.0, torch.float32) if self.to_scale is None else (self.to_scale, torch.uint8)
        rows, columns = x.shape[2:]
        packed = self.packed(*((rows, columns) if rows * columns <= _SMALL else _LARGE))
        weight = packed, self.scale, self.zero, self.bias
        return torch.ops.onednn.qconv2d_pointwise(x, self.of, 0, *weight, *self.where, to, 0, dtype, "relu", [None], "")


class QuantizedTrunk(nn.Module):
    """A :class:`PyramidTrunk`, its batch normalisation folded, for inference on the CPU: images as there -> float32
    maps of the same shape.

    largest: of what each convolution sees but the first, whose images have three channels and stay float32, the value
        beyond which it is cut off (:func:`largest_outputs`).

    Raises ValueError for a trunk of another kind or with batch normalisation, and where `largest` does not fit it.
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, trunk: LNetTrunk | PyramidTrunk, largest: Sequence[float]):
        super().__init__()
        first, *others = _convolutions(trunk)
        scales = _scales("QuantizedTrunk", others, largest)
        self.stride, self.channels = trunk.stride, trunk.channels
        self.register_buffer("gain", 1 / trunk.std.float())
        self.register_buffer("shift", -trunk.mean.float() / trunk.std.float())
        *middle, up, out = others
        layers = [IntegerConv2d(layer, of, to) for layer, of, to in zip(middle, scales, scales[1:], strict=False)]
        fine = len(trunk.c2) + len(trunk.c3)
        self.first = first
        self.fine = nn.Sequential(*layers[:fine])
        self.coarse = nn.Sequential(*layers[fine:], IntegerConv2d(up, scales[-2]))
        self.out = IntegerConv2d(out, scales[-1])
        self.scale_first, self.scale_fine, self.scale_sum = scales[0], scales[fine], scales[-1]

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(torch.addcmul(self.shift, images, self.gain)).relu_()
        fine = self.fine(_round(x, self.scale_first))
        x = fine.float().mul_(self.scale_fine) + double(self.coarse(fine), fine.shape[2:])
        return self.out(_round(x, self.scale_sum))


class QuantizedShared(nn.Module):
    """The globally shared layers of an ANet (`ANet.shared`), their batch normalisation folded, for inference on the
    CPU: what they take -> float32 maps of the same shape.

    largest: as :class:`QuantizedTrunk`'s, and ValueError as there.
    """

    def __init__(self, shared: nn.Sequential, largest: Sequence[float]):
        super().__init__()
        first, *others = _convolutions(shared)
        scales = _scales("QuantizedShared", others, largest)
        integers = {
            convolution: IntegerConv2d(convolution, of, to)
            for convolution, of, to in zip(others, scales, [*scales[1:], None], strict=True)
        }
        self.first, self.scale_first = first, scales[0]
        self.layers = nn.ModuleList(
            integers.get(layer, layer)  # type: ignore[call-overload]
            for layer in shared
            if layer in integers or isinstance(layer, nn.MaxPool2d)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = _round(self.first(x).relu_(), self.scale_first)
        for layer in self.layers:
            x = _largest_of_four(x) if isinstance(layer, nn.MaxPool2d) and x.dtype == torch.uint8 else layer(x)
        return x


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


def _round(x: Tensor, scale: float) -> Tensor:
    """x >= 0, which it overwrites, as integers of a scale."""
    return x.mul_(1 / scale).add_(0.5).clamp_(max=LEVELS).to(torch.uint8)
