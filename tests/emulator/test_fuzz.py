"""Convolutions of random shapes on random devices: whatever tiles, windows and slots they come to."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from . import cases
from .operators import InterweavedShape, SharedShape, interweaved_checks, shared_checks, verify

# Always the same examples: once in ten thousands two responses tie but for rounding, and the gradient goes elsewhere.
# How fast examples come depends on what else runs.
fuzz = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
channels = st.sampled_from([1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 33, 40, 64, 66, 72])
batches = st.sampled_from([0, 1, 2, 3, 7, 16, 33])
numbers = st.fixed_dictionaries(
    {
        "dtype, tf32": st.sampled_from([(dtype, False) for dtype in cases.DTYPES] + [(cases.DTYPES[1], True)]),
        "layout": st.sampled_from(["contiguous", "channels_last", "sliced"]),
        "filters_last": st.booleans(),
    }
)
devices = st.fixed_dictionaries(
    {
        "multiprocessors": st.sampled_from([1, 4, 1 << 30]),
        "shared_bytes": st.sampled_from([0, 40_000, 50_176, 64_000, 82_944, 115_712]),
        "direct_products": st.sampled_from([0, 0, 0, 1 << 60]),
        "most_blocks": st.sampled_from([5, cases.NO_LIMIT, cases.NO_LIMIT]),
    }
)


def pairs(*values):
    return st.tuples(st.sampled_from(values), st.sampled_from(values))


@st.composite
def shared_shapes(draw):
    kernel, stride = draw(pairs(1, 2, 3, 3, 5, 11)), draw(pairs(1, 1, 1, 2, 3))
    padding, dilation = draw(pairs(0, 0, 1, 4)), draw(pairs(1, 1, 2))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = tuple(n + draw(st.sampled_from([0, 1, 4, 7, 13])) for n in least)
    shape = SharedShape(draw(batches), draw(channels), draw(channels), size, kernel, (1, 1), stride, padding, dilation)
    grid = tuple(draw(st.sampled_from(sorted({1, (n + 1) // 2, n}))) for n in shape.out_size)
    return SharedShape(*(grid if name == "grid" else getattr(shape, name) for name in shape.__dataclass_fields__))


@st.composite
def interweaved_shapes(draw):
    kernel, grid, stride = draw(pairs(1, 2, 3)), draw(pairs(1, 2, 3)), draw(pairs(1, 1, 2))
    dilation, shift, pool = draw(pairs(1, 1, 2)), draw(pairs(0, 1, 3)), draw(pairs(1, 2))
    least = [
        d * (k - 1) + 1 + (g - 1) * t + (a - 1) * s
        for d, k, g, t, a, s in zip(dilation, kernel, grid, shift, pool, stride, strict=True)
    ]
    size = tuple(n + draw(st.sampled_from([0, 1, 3, 6])) for n in least)
    batch = draw(st.sampled_from([0, 1, 2, 5]))
    return InterweavedShape(batch, draw(channels), draw(channels), size, kernel, grid, stride, dilation, shift, pool)


def options(numbers, device):
    dtype, tf32 = numbers["dtype, tf32"]
    return (dtype, numbers["layout"], tf32), {"filters_last": numbers["filters_last"], **device}


@fuzz
@given(shared_shapes(), numbers, devices)
def test_locally_shared_conv2d(executable, shape, numbers, device):
    arguments, keywords = options(numbers, device)
    verify(executable, shared_checks(shape, *arguments, **keywords))


@fuzz
@given(interweaved_shapes(), numbers, devices)
def test_interweaved_conv2d(executable, shape, numbers, device):
    arguments, keywords = options(numbers, device)
    checks = interweaved_checks(shape, *arguments, **keywords)
    if arguments[2] and shape.pool != (1, 1):  # rounded to TF32, another response may be the maximum
        del checks[1:]
    verify(executable, checks)
