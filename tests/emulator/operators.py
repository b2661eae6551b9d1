"""The operators' cases, each with what plain PyTorch in float64 makes of the same numbers."""

import functools
from dataclasses import dataclass

import torch

from faceattr.ops import channels_last_filters, reference

from . import cases
from .cases import Case, strided

# Largest error, in parts of the largest expected value.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
TF32_TOLERANCE = 2e-3


@dataclass
class Check:
    """A case's result tensors and what they must be."""

    case: Case
    results: list
    expected: list
    tolerance: float

    def verify(self):
        for result, expected in zip(self.results, self.expected, strict=True):
            assert result.shape == expected.shape
            error = (result.double() - expected.double()).abs()
            largest = expected.double().abs().max() if expected.numel() else 0
            assert bool((error <= self.tolerance * largest + 1e-30).all()), error.max() / largest


def verify(executable, checks):
    """Runs the checks' cases in the emulator and compares."""
    cases.run(executable, [check.case for check in checks])
    for check in checks:
        check.verify()


def numbers(shape, dtype, layout="contiguous", seed=0):
    """Random numbers of `dtype` in a memory layout: contiguous, channels_last or sliced out of something larger."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    values = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    if layout == "channels_last":
        return values.to(memory_format=torch.channels_last)
    if layout == "sliced":
        larger = torch.full([n + 1 for n in shape[:-1]] + [2 * shape[-1] + 1], float("nan"), dtype=dtype)
        view = larger[tuple(slice(1, None) for _ in shape[:-1]) + (slice(1, None, 2),)]
        return view.copy_(values)
    return values


@dataclass(frozen=True)
class SharedShape:
    """A locally shared convolution."""

    batch: int
    in_channels: int
    out_channels: int
    size: tuple
    kernel: tuple
    grid: tuple
    stride: tuple = (1, 1)
    padding: tuple = (0, 0)
    dilation: tuple = (1, 1)

    @property
    def out_size(self):
        return tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(self.size, self.padding, self.dilation, self.kernel, self.stride, strict=True)
        )

    @property
    def geometry(self):
        sizes = [self.batch, self.in_channels, *self.size, self.out_channels, *self.out_size]
        return [*sizes, *self.grid, *self.kernel, *self.stride, *self.padding, *self.dilation]


@functools.cache
def _shared_example(shape, dtype, layout, with_bias):
    """Input, weight, bias and gradient, and what float64 makes of them: output and gradients."""
    input = numbers((shape.batch, shape.in_channels, *shape.size), dtype, layout)
    weight = numbers((*shape.grid, shape.out_channels, shape.in_channels, *shape.kernel), dtype, seed=1)
    bias = numbers((*shape.grid, shape.out_channels), dtype, seed=2) if with_bias else None
    grad = numbers((shape.batch, shape.out_channels, *shape.out_size), dtype, layout, seed=3)
    wide = [t.double().requires_grad_() if t is not None else None for t in (input, weight, bias)]
    output = reference.locally_shared_conv2d(*wide, shape.stride, shape.padding, shape.dilation)
    grads = torch.autograd.grad(output, [t for t in wide if t is not None], grad.double())
    return (input, weight, bias, grad), output.detach(), grads


def shared_checks(shape, dtype, layout="contiguous", tf32=False, with_bias=True, filters_last=False, **device):
    """Forward, input gradient, weight and bias gradient, and all gradients at once, of a :class:`SharedShape`.

    layout: of the maps; filters_last: whether the filters lie channels last.
    """
    (input, weight, bias, grad), expected, grads = _shared_example(shape, dtype, layout, with_bias)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    output = torch.empty(expected.shape, dtype=dtype, memory_format=memory_format)
    input_grad = torch.empty(input.shape, dtype=dtype, memory_format=memory_format)
    weight_grad, bias_grad = torch.empty_like(weight), torch.empty(weight.shape[:3], dtype=dtype)
    tolerance = TF32_TOLERANCE if tf32 and dtype == torch.float32 else TOLERANCE[dtype]

    filters = channels_last_filters(weight) if filters_last else weight

    def case(operator, maps, inputs, outputs):
        arguments = [*shape.geometry, *(number for tensor in maps for number in strided(tensor)), filters_last]
        return Case(operator, dtype, arguments, inputs, outputs, tf32, **device)

    forward = case("locally_shared_conv2d", (input, output), [input, filters, bias], [output])
    to_input = case("locally_shared_conv2d_input_grad", (grad, input_grad), [grad, filters], [input_grad])
    to_weight = case("locally_shared_conv2d_weight_grad", (grad, input), [grad, input], [weight_grad, bias_grad])
    all_grads = [torch.empty_like(tensor) for tensor in (input_grad, filters, bias_grad)]
    to_all = case("locally_shared_conv2d_backward", (grad, input, all_grads[0]), [grad, input, filters], all_grads)
    return [
        Check(forward, [output], [expected], tolerance),
        Check(to_input, [input_grad], [grads[0]], tolerance),
        Check(to_weight, [weight_grad, bias_grad][: len(grads) - 1], list(grads[1:]), tolerance),
        Check(to_all, all_grads[: len(grads)], list(grads), tolerance),
    ]


@dataclass(frozen=True)
class InterweavedShape:
    """An interweaved convolution."""

    batch: int
    in_channels: int
    out_channels: int
    size: tuple
    kernel: tuple
    grid: tuple
    stride: tuple = (1, 1)
    dilation: tuple = (1, 1)
    shift: tuple = (0, 0)
    pool: tuple = (1, 1)

    @property
    def responses(self):
        return tuple(
            (n - d * (k - 1) - 1 - (g - 1) * t) // s + 1
            for n, d, k, g, t, s in zip(
                self.size, self.dilation, self.kernel, self.grid, self.shift, self.stride, strict=True
            )
        )

    @property
    def blocks(self):
        return tuple(r - a + 1 for r, a in zip(self.responses, self.pool, strict=True))

    @property
    def geometry(self):
        sizes = [self.batch, self.in_channels, *self.size, self.out_channels, *self.grid, *self.kernel]
        return [*sizes, *self.stride, *self.dilation, *self.shift, *self.pool, *self.blocks, *self.responses]


@functools.cache
def _interweaved_example(shape, dtype, layout, with_bias):
    """As `_shared_example`."""
    input = numbers((shape.batch, shape.in_channels, *shape.size), dtype, layout)
    weight = numbers((*shape.grid, shape.out_channels, shape.in_channels, *shape.kernel), dtype, seed=1)
    bias = numbers((*shape.grid, shape.out_channels), dtype, seed=2) if with_bias else None
    wide = [t.double().requires_grad_() if t is not None else None for t in (input, weight, bias)]
    output = reference.interweaved_conv2d(*wide, shape.stride, shape.dilation, shape.shift, shape.pool)
    grad = numbers(output.shape, dtype, layout, seed=3)
    grads = torch.autograd.grad(output, [t for t in wide if t is not None], grad.double())
    return (input, weight, bias, grad), output.detach(), grads


def interweaved_checks(shape, dtype, layout="contiguous", tf32=False, with_bias=True, filters_last=False, **device):
    """Forward and backward of an :class:`InterweavedShape`; layouts as of `shared_checks`."""
    (input, weight, bias, grad), forward, expected = _interweaved_example(shape, dtype, layout, with_bias)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    output = torch.empty(forward.shape, dtype=dtype, memory_format=memory_format)
    input_grad = torch.empty(input.shape, dtype=dtype, memory_format=memory_format)
    weight_grad, bias_grad = torch.empty_like(weight), torch.empty(weight.shape[:3], dtype=dtype)
    tolerance = TF32_TOLERANCE if tf32 and dtype == torch.float32 else TOLERANCE[dtype]
    filters = channels_last_filters(weight) if filters_last else weight
    calls = [
        Case(
            "interweaved_conv2d",
            dtype,
            [*shape.geometry, *strided(input), *strided(output), filters_last],
            [input, filters, bias],
            [output],
            tf32,
            **device,
        ),
        Case(
            "interweaved_conv2d_backward",
            dtype,
            [*shape.geometry, *strided(grad), *strided(input), *strided(input_grad), filters_last],
            [grad, input, filters, bias],
            [input_grad, weight_grad, bias_grad],
            tf32,
            **device,
        ),
    ]
    return [
        Check(calls[0], [output], [forward], tolerance),
        Check(calls[1], [input_grad, weight_grad, bias_grad][: len(expected)], list(expected), 2 * tolerance),
    ]


def interweave_checks(maps_shape, shift, element, layout="contiguous", **device):
    """Both directions of the interweaved operation on elements of a dtype; bit for bit."""
    generator = torch.Generator().manual_seed(sum(maps_shape))
    maps = torch.randn(maps_shape, generator=generator, dtype=torch.float64).to(element)
    if layout == "sliced":
        maps = numbers(maps_shape, element, "sliced")
    batch, grid_height, grid_width, channels, height, width = maps_shape
    expected = reference.interweave(maps, shift)
    blocks = [height - (grid_height - 1) * shift[0], width - (grid_width - 1) * shift[1]]
    geometry = [batch, grid_height, grid_width, channels, height, width, *shift, *blocks]
    output = torch.empty_like(expected)
    wide = maps.double().requires_grad_()
    grad = numbers(expected.shape, element, layout, seed=5)
    (adjoint,) = torch.autograd.grad(reference.interweave(wide, shift), wide, grad.double())
    result = torch.empty(maps_shape, dtype=element)
    forward = Case("interweave", element, [*geometry, *maps[:0].stride()], [_dense_storage(maps)], [output], **device)
    backward = Case(
        "interweave_adjoint", element, [*geometry, *grad.stride()], [_dense_storage(grad)], [result], **device
    )
    return [Check(forward, [output], [expected], 0), Check(backward, [result], [adjoint], 0)]


def _dense_storage(tensor):
    """The storage from the tensor's first element on: these cases have no offset argument."""
    flat = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
    return flat[tensor.storage_offset() :].clone()


def density_check(density, threshold=0.0, **device):
    """Density peaks; bit for bit."""
    distance, parent = reference.density_peaks(density, threshold)
    height, width = density.shape[-2:]
    results = [torch.empty_like(distance), torch.empty_like(parent)]
    limit = torch.tensor([threshold], dtype=torch.float64)
    maps = density.numel() // max(height * width, 1)
    case = Case("density_peaks", density.dtype, [maps, height, width], [density, limit], results, **device)
    return Check(case, results, [distance, parent], 0)
