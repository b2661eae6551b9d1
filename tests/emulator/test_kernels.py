"""Every CUDA kernel, run by the emulator, against the references: sizes round each edge of the tiles, dtypes, layouts.

Tiles are 256, 128, 64 or 32 rows (positions of a cell) by 256, 128 or 64 columns (channels) by 32, 16 or 8 deep.
"""

import itertools
import math

import pytest
import torch

from . import cases
from .operators import (
    InterweavedShape,
    SharedShape,
    density_check,
    interweave_checks,
    interweaved_checks,
    shared_checks,
    verify,
)

PRECISIONS = [(dtype, False) for dtype in cases.DTYPES] + [(torch.float32, True)]
LAYOUTS = ["contiguous", "channels_last", "sliced"]
# Devices that take the three ways: large tiles, small tiles, one launch that reads in place.
WAYS = {
    "large": {"multiprocessors": 1, "direct_products": 0},
    "small": {"multiprocessors": 1 << 30, "direct_products": 0},
    "direct": {"direct_products": 1 << 60},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype, tf32", PRECISIONS)
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(SharedShape(3, 5, 7, (9, 11), (3, 2), (2, 3)), id="uneven cells"),
        pytest.param(SharedShape(2, 8, 65, (5, 5), (2, 2), (1, 1)), id="plain convolution, 65 channels"),
        pytest.param(SharedShape(2, 65, 8, (4, 5), (2, 2), (2, 2)), id="65 channels in"),
        pytest.param(SharedShape(3, 40, 12, (6, 5), (3, 3), (4, 3)), id="unshared"),
        pytest.param(SharedShape(2, 3, 5, (9, 8), (3, 3), (2, 2), (2, 1), (1, 2), (1, 2)), id="stride, dilation"),
        pytest.param(SharedShape(1, 4, 4, (6, 7), (2, 3), (3, 2), (3, 2), (4, 5), (2, 1)), id="mostly padding"),
        pytest.param(SharedShape(2, 2, 3, (8, 9), (1, 1), (2, 2), (3, 4)), id="inputs that nothing reads"),
        pytest.param(SharedShape(13, 9, 66, (8, 8), (3, 3), (2, 2)), id="full tiles"),
        pytest.param(SharedShape(7, 66, 127, (6, 6), (3, 3), (1, 1)), id="full tiles, wide"),
        pytest.param(SharedShape(9, 65, 66, (6, 6), (3, 3), (4, 4)), id="weight gradient, wide"),
        pytest.param(SharedShape(1, 60, 5, (13, 13), (2, 2), (12, 12)), id="weight gradient, widest"),
        pytest.param(SharedShape(20, 5, 9, (9, 8), (3, 3), (2, 2), (2, 1), (1, 2), (1, 2)), id="full tiles, stride"),
    ],
)
def test_shared_convolution(executable, shape, dtype, tf32, way):
    verify(executable, shared_checks(shape, dtype, tf32=tf32, **WAYS[way]))


@pytest.mark.parametrize("dtype, tf32", PRECISIONS)
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(SharedShape(16, 33, 40, (10, 10), (3, 3), (2, 2)), id="3x3, tall"),
        pytest.param(SharedShape(16, 9, 66, (9, 10), (2, 3), (2, 2)), id="2x3, wide"),
        pytest.param(SharedShape(37, 41, 5, (4, 5), (2, 1), (1, 2)), id="2x1"),
        pytest.param(SharedShape(37, 41, 5, (4, 5), (1, 2), (2, 1)), id="1x2"),
        pytest.param(SharedShape(21, 41, 5, (6, 7), (1, 1), (2, 2), (1, 2)), id="1x1"),
        pytest.param(SharedShape(5, 5, 9, (14, 15), (3, 3), (2, 2), (2, 3), (2, 2), (2, 1)), id="stride, dilation"),
        pytest.param(SharedShape(1, 5, 9, (21, 33), (3, 3), (1, 1), padding=(1, 1)), id="one map"),
        pytest.param(SharedShape(9, 2, 10, (8, 12), (2, 2), (1, 1), (1, 3), (0, 1)), id="stride beyond the filter"),
        pytest.param(SharedShape(40, 33, 5, (4, 4), (3, 3), (2, 2)), id="unshared"),
    ],
)
def test_windows(executable, shape, dtype, tf32):
    """Memory for windows of all taps, of a row's and of one, with their edges everywhere."""
    checks = []
    for shared_bytes, way in itertools.product((0, 40_000, 64_000), ("large", "small")):
        checks += shared_checks(shape, dtype, tf32=tf32, shared_bytes=shared_bytes, **WAYS[way])[:2]
    verify(executable, checks + shared_checks(shape, dtype, tf32=tf32)[:2])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype, tf32", PRECISIONS)
def test_shared_convolution_in_any_layout(executable, dtype, tf32, layout):
    checks = []
    # 8 is whole vectors: channels_last is read in place
    for way, channels, filters_last in itertools.product(WAYS.values(), (8, 9), (False, True)):
        shape = SharedShape(2, channels, channels, (6, 7), (3, 2), (2, 2), padding=(1, 0))
        checks += shared_checks(shape, dtype, layout, tf32, filters_last=filters_last, **way)
    verify(executable, checks)


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("dtype, tf32", PRECISIONS)
def test_launches(executable, dtype, tf32, splits):
    """One of packing where anything is to be packed, one a product, one where the weight gradient is in parts.

    All but the first may start early.
    """
    # A cell of more positions is split among blocks; of 8 channels nothing is packed if they lie side by side.
    shape = SharedShape(2 if splits == 1 else 50, 8, 8, (6, 7), (3, 2), (2, 2))
    for filters_last, layout in itertools.product((False, True), ("contiguous", "channels_last")):
        checks = shared_checks(shape, dtype, layout, tf32, filters_last=filters_last)
        verify(executable, checks)
        maps_packed, all_in_place = layout == "contiguous", filters_last and layout == "channels_last"
        assert [check.case.launches for check in checks] == [
            1 + (not all_in_place),
            1 + (not all_in_place),
            splits + maps_packed,
            1 + splits + (not all_in_place),
        ]
        assert all(check.case.early == check.case.launches - 1 for check in checks)


@pytest.mark.parametrize("dtype, tf32", PRECISIONS)
def test_edges_of_the_tiles(executable, dtype, tf32):
    checks = []
    for positions, way in itertools.product((31, 32, 33, 127, 128, 129), ("large", "small")):
        checks += shared_checks(SharedShape(1, 4, 4, (positions, 1), (1, 1), (1, 1)), dtype, tf32=tf32, **WAYS[way])
    for channels in (1, 7, 8, 15, 16, 17, 31, 33, 63, 64, 66):
        checks += shared_checks(SharedShape(1, channels, 3, (3, 3), (1, 2), (2, 1)), dtype, tf32=tf32)
        checks += shared_checks(SharedShape(1, 3, channels, (3, 3), (1, 2), (2, 1)), dtype, tf32=tf32)
    verify(executable, checks)


def test_more_cells_than_a_launch_has_runs(executable):
    shape = SharedShape(2, 2, 3, (67, 2), (2, 1), (66, 1))
    verify(
        executable, shared_checks(shape, torch.float32) + shared_checks(shape, torch.float32, direct_products=1 << 60)
    )


@pytest.mark.parametrize("way", ["large", "small"])
def test_taps_half_a_billion_positions_apart(executable, way):
    """All of them in the padding: the bias is left. Their windows could not be counted in 64 bits."""
    shape = SharedShape(64, 1, 1, (2, 2), (2, 2), (1, 1), padding=(2**29 - 1,) * 2, dilation=(2**30 - 1,) * 2)
    output, bias = torch.empty(64, 1, 1, 1), torch.randn(1, 1, 1)
    arguments = [*shape.geometry, *cases.strided(torch.empty(64, 1, 2, 2)), *cases.strided(output), False]
    inputs = [torch.randn(64, 1, 2, 2), torch.randn(1, 1, 1, 1, 2, 2), bias]
    cases.run(
        executable, [cases.Case("locally_shared_conv2d", torch.float32, arguments, inputs, [output], **WAYS[way])]
    )
    assert torch.equal(output, bias.expand_as(output[0]).expand_as(output))


def test_more_taps_than_a_warp_has_lanes(executable):
    checks = shared_checks(SharedShape(1, 2, 3, (40, 3), (35, 2), (3, 1)), torch.float32)
    many_cells = InterweavedShape(1, 2, 3, (30, 4), (3, 2), (12, 2), stride=(2, 1), shift=(1, 1))
    verify(executable, checks + interweaved_checks(many_cells, torch.float32))


def test_weight_gradient_split_among_blocks(executable):
    """One cell, many positions: 264 blocks' worth of splits, the last of them short or without work."""
    for batch in (29, 64):
        verify(executable, shared_checks(SharedShape(batch, 3, 2, (8, 9), (1, 1), (1, 1)), torch.float32))


@pytest.mark.parametrize("most_blocks", [1, 2, 7])
def test_more_blocks_than_a_launch_may_have(executable, most_blocks):
    shape = SharedShape(3, 5, 66, (7, 6), (2, 2), (2, 2))
    pooled = InterweavedShape(2, 3, 5, (7, 7), (2, 2), (2, 2), shift=(1, 1), pool=(2, 2))
    checks = shared_checks(shape, torch.float32, most_blocks=most_blocks)
    checks += interweaved_checks(pooled, torch.float32, most_blocks=most_blocks)
    checks += interweave_checks((3, 2, 2, 5, 6, 6), (1, 1), torch.float32, most_blocks=most_blocks)
    checks.append(density_check(torch.randn(3, 17, 19), most_blocks=most_blocks))
    verify(executable, checks)


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("way", WAYS)
def test_shapes_with_nothing_in_them(executable, dtype, way):
    checks = []
    for batch, channels, outs in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        checks += shared_checks(SharedShape(batch, channels, outs, (5, 4), (2, 2), (2, 1)), dtype, **WAYS[way])
        pooled = InterweavedShape(batch, channels, outs, (5, 4), (2, 2), (2, 1), pool=(1, 1))
        checks += interweaved_checks(pooled, dtype, **WAYS[way])
    verify(executable, checks)


def test_without_bias(executable):
    checks = []
    for way in WAYS.values():
        checks += shared_checks(SharedShape(2, 3, 4, (5, 4), (2, 2), (2, 1)), torch.float32, with_bias=False, **way)
        pooled = InterweavedShape(2, 3, 4, (5, 4), (2, 2), (2, 1), pool=(2, 1))
        checks += interweaved_checks(pooled, torch.float32, with_bias=False, **way)
    verify(executable, checks)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype, tf32", PRECISIONS)
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(InterweavedShape(2, 3, 5, (9, 10), (3, 2), (3, 2), shift=(2, 1), pool=(2, 2)), id="as ANet's C3"),
        pytest.param(InterweavedShape(2, 9, 6, (14, 11), (2, 2), (4, 3), (5, 4), shift=(1, 1)), id="as ANet's C4"),
        pytest.param(InterweavedShape(1, 4, 3, (12, 13), (2, 3), (2, 2), (2, 3), (3, 2), (2, 1), (1, 2)), id="general"),
        pytest.param(InterweavedShape(2, 3, 66, (5, 4), (1, 1), (1, 1), pool=(3, 4)), id="one cell, large windows"),
        pytest.param(InterweavedShape(5, 9, 6, (7, 8), (3, 3), (1, 2), shift=(0, 1), pool=(2, 2)), id="full tiles"),
    ],
)
def test_interweaved_convolution(executable, shape, dtype, tf32, way):
    checks = []
    for layout in LAYOUTS:
        filters_last = layout == "channels_last"
        checks += interweaved_checks(shape, dtype, layout, tf32, filters_last=filters_last, **WAYS[way])
    verify(executable, checks)


def test_first_of_equal_maxima_takes_the_gradient(executable):
    shape = InterweavedShape(1, 1, 2, (4, 5), (1, 1), (1, 1), pool=(2, 3))
    backward = interweaved_checks(shape, torch.float32)[1]
    grad, _, weight, _ = backward.case.inputs
    backward.case.inputs[1:] = [torch.ones(1, 1, 4, 5), torch.ones_like(weight), torch.zeros(1, 1, 2)]
    cases.run(executable, [backward.case])
    expected = torch.zeros(1, 1, 4, 5)
    expected[:, :, :3, :3] = grad.sum(1, keepdim=True)
    torch.testing.assert_close(backward.results[0], expected)


def test_pooling_passes_nan_on(executable):
    shape = InterweavedShape(1, 1, 1, (3, 3), (1, 1), (1, 1), pool=(2, 2))
    forward = interweaved_checks(shape, torch.float32, with_bias=False)[0]
    forward.case.inputs[:2] = [torch.arange(9.0).reshape(1, 1, 3, 3), torch.ones(1, 1, 1, 1, 1, 1)]
    forward.case.inputs[0][0, 0, 0, 0] = math.nan
    cases.run(executable, [forward.case])
    torch.testing.assert_close(forward.results[0], torch.tensor([[[[math.nan, 5.0], [7.0, 8.0]]]]), equal_nan=True)


@pytest.mark.parametrize("layout", ["contiguous", "sliced"])
@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_interweave(executable, dtype, layout):
    checks = []
    for shape, shift in (((2, 3, 2, 3, 6, 5), (2, 1)), ((1, 1, 1, 1, 1, 1), (0, 0)), ((3, 2, 4, 5, 7, 9), (0, 2))):
        checks += interweave_checks(shape, shift, dtype, layout)
    verify(executable, checks)


def density_maps():
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 3, 19, 23, generator=generator)
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(33.0), indexing="ij")
    special = torch.rand(9, 17, generator=generator).sub(0.5)
    special[0, 0], special[3, 4], special[8, 16], special[5, 5] = math.inf, math.nan, math.inf, -math.inf
    return {
        "noise": noise,
        "few levels": (noise * 4).floor(),
        "constant": torch.ones(18, 9),
        "ramp": x + 40 * y,
        "chequerboard": (x + y) % 2 + 1,
        "sparse": torch.where(noise > 0.97, noise, 0),
        "two blobs": (-((x - 5) ** 2 + (y - 6) ** 2) / 9).exp() + (-((x - 27) ** 2 + (y - 12) ** 2) / 20).exp(),
        "not finite": special,
        "one position": torch.ones(1, 1),
        "row": noise.reshape(2, 3, 1, -1)[:, :, :, :131],
        "column": noise.reshape(2, 3, -1, 1)[:, :, :70],
        "nothing": torch.zeros(12, 12),
        "empty": torch.zeros(0, 8, 8),
        "round a tile": noise[0, 0, :8, :8],
        "one beyond a tile": noise[0, 0, :9, :9],
    }


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("name", density_maps())
def test_density_peaks(executable, name, dtype):
    density = density_maps()[name].to(dtype).contiguous()
    verify(executable, [density_check(density), density_check(density, 0.25), density_check(density, -1.0)])


def test_density_peaks_of_few_levels_fuzzed(executable):
    """Ties of density and of distance everywhere: where implementations differ."""
    generator = torch.Generator().manual_seed(1)
    checks = []
    for _ in range(40):
        height, width, levels = (int(torch.randint(1, n, (), generator=generator)) for n in (30, 30, 5))
        density = torch.randint(0, levels + 1, (2, height, width), generator=generator).float()
        checks.append(density_check(density * (torch.rand(2, height, width, generator=generator) > 0.5)))
    verify(executable, checks)


def test_the_same_bits_from_run_to_run(executable):
    shape = SharedShape(3, 40, 20, (7, 6), (3, 3), (2, 2))
    first, second = (shared_checks(shape, torch.float32, multiprocessors=m) for m in (1, 1))
    verify(executable, first + second)
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a.results, b.results, strict=True):
            assert torch.equal(x, y)
