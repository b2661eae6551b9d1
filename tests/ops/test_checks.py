"""What an operator refuses: the compiled kernel and the fake one (meta tensors, torch.export) in the same words."""

import re

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from faceattr import ops

operators = torch.ops.faceattr

# Arguments that fit each other. All tensors are float32.
GOOD = {
    "locally_shared_conv2d": {
        "input": (2, 3, 9, 8),
        "weight": (3, 2, 4, 3, 3, 2),
        "bias": (3, 2, 4),
        "stride": [2, 1],
        "padding": [1, 0],
        "dilation": [1, 2],
    },
    "locally_shared_conv2d_input_grad": {
        "grad": (2, 4, 5, 6),
        "weight": (3, 2, 4, 3, 3, 2),
        "input_size": [9, 8],
        "stride": [2, 1],
        "padding": [1, 0],
        "dilation": [1, 2],
        "channels_last": False,
    },
    "locally_shared_conv2d_weight_grad": {
        "grad": (2, 4, 5, 6),
        "input": (2, 3, 9, 8),
        "grid": [3, 2],
        "kernel_size": [3, 2],
        "stride": [2, 1],
        "padding": [1, 0],
        "dilation": [1, 2],
    },
    "locally_shared_conv2d_backward": {
        "grad": (2, 4, 5, 6),
        "input": (2, 3, 9, 8),
        "weight": (3, 2, 4, 3, 3, 2),
        "stride": [2, 1],
        "padding": [1, 0],
        "dilation": [1, 2],
    },
    "interweave": {"maps": (2, 3, 2, 4, 7, 6), "shift": [1, 2]},
    "interweave_adjoint": {"grad": (2, 4, 15, 8), "map_size": [7, 6], "grid": [3, 2], "shift": [1, 2]},
    "interweaved_conv2d": {
        "input": (2, 3, 9, 8),
        "weight": (3, 2, 4, 3, 3, 2),
        "bias": (3, 2, 4),
        "stride": [1, 1],
        "dilation": [1, 1],
        "shift": [1, 1],
        "pool": [1, 2],
    },
    "interweaved_conv2d_backward": {
        "grad": (2, 4, 15, 10),
        "input": (2, 3, 9, 8),
        "weight": (3, 2, 4, 3, 3, 2),
        "bias": (3, 2, 4),
        "stride": [1, 1],
        "dilation": [1, 1],
        "shift": [1, 1],
        "pool": [1, 2],
    },
    "density_peaks": {"density": (2, 5, 6), "threshold": 0.0},
}
LOCALLY_SHARED = [name for name in GOOD if name.startswith("locally")]
INTERWEAVED = [name for name in GOOD if name.startswith("interweaved")]
CONVOLUTIONS = ["locally_shared_conv2d", "locally_shared_conv2d_backward", *INTERWEAVED]


def cases():
    def each(names, message, **changed):
        for name in names:
            if changed.keys() <= GOOD[name].keys():
                yield pytest.param(name, changed, message, id=f"{name}, {changed}")

    dims = {"input": 4, "grad": 4, "weight": 6, "maps": 6, "density": None}
    for name, arguments in GOOD.items():
        for argument, shape in arguments.items():
            if isinstance(shape, tuple) and dims.get(argument):
                yield from each([name], f"{name}: {argument} has shape .*, it must be", **{argument: shape[1:]})
                yield from each([name], f"{name}: {argument} has shape .*, it must be", **{argument: (1, *shape)})
            elif isinstance(shape, list):
                least = 0 if argument in ("padding", "shift") else 1
                wanted = f", both values must be at least {least} and at most 2147483647"
                yield from each(
                    [name], rf"{name}: {argument} is \(2, {least - 1}\){wanted}", **{argument: [2, least - 1]}
                )
                yield from each([name], rf"{name}: {argument} is \({2**31}, 2\){wanted}", **{argument: [2**31, 2]})
    yield from each(GOOD, r"density has shape \[5\], it must be \[..., H, W\]", density=(5,))
    yield from each(CONVOLUTIONS, "weight has 3 input channels, input has 2", input=(2, 2, 9, 8))
    for bias in [(3, 2, 5), (1, 2, 4), (3, 1, 4), (4,), (3, 2, 4, 1)]:
        yield from each(CONVOLUTIONS, r"bias has shape .*, with this weight it must be \[3, 2, 4\]", bias=bias)
    kernel = r"input of 9x1 is smaller than the kernel of 3x2 with dilation \(1, 2\) and padding \(1, 0\)"
    yield from each([*LOCALLY_SHARED[::2], LOCALLY_SHARED[3]], kernel, input=(2, 3, 9, 1))
    yield from each(LOCALLY_SHARED, kernel, input_size=[9, 1])
    cells = "weight has a grid of 6x2 cells, the output only 5x6 positions; every cell needs at least one"
    yield from each(LOCALLY_SHARED[:1], cells, weight=(6, 2, 4, 3, 3, 2), bias=(6, 2, 4))
    yield from each(LOCALLY_SHARED[1::2], cells, weight=(6, 2, 4, 3, 3, 2))
    yield from each(LOCALLY_SHARED, cells, grid=[6, 2])
    for grad in [(2, 4, 4, 6), (2, 4, 5, 5)]:
        yield from each(LOCALLY_SHARED, r"grad has shape .*, the output's is \[2, 4, 5, 6\]", grad=grad)
    yield from each(LOCALLY_SHARED[1:2], r"grad has shape .*, the output's is \[2, 4, 5, 6\]", grad=(2, 5, 5, 6))
    yield from each(LOCALLY_SHARED[2:], r"grad has shape .*, the output's is \[2, 4, 5, 6\]", grad=(3, 4, 5, 6))
    yield from each(LOCALLY_SHARED, "weight has 0|grid is|kernel_size is", weight=(3, 2, 4, 3, 0, 2))
    yield from each(["interweave"], "maps has an empty grid, its shape is", maps=(2, 0, 2, 4, 7, 6))
    small = r"maps of 7x6 are too small for a grid of 3x2 cells shifted by \(4, 2\)"
    yield from each(["interweave", "interweave_adjoint"], small, shift=[4, 2])
    adjoint = r"grad has shape .*, the interweaved map's is \[2, 4, 15, 8\]"
    yield from each(["interweave_adjoint"], adjoint, grad=(2, 4, 15, 9))
    yield from each(INTERWEAVED, "weight has an empty grid or kernel", weight=(3, 2, 4, 3, 0, 2))
    yield from each(INTERWEAVED, "weight has an empty grid or kernel", weight=(3, 0, 4, 3, 3, 2), bias=(3, 0, 4))
    for changed in ({"shift": [4, 1]}, {"pool": [6, 2]}, {"dilation": [1, 7]}):
        yield from each(INTERWEAVED, "input of 9x8 is too small for a grid of 3x2 cells with kernel 3x2", **changed)
    for grad in [(2, 4, 15, 9), (2, 3, 15, 10), (1, 4, 15, 10)]:
        yield from each(INTERWEAVED, r"grad has shape .*, the output's is \[2, 4, 15, 10\]", grad=grad)


def call(name, arguments, make):
    tensors = {key: make(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
    return getattr(operators, name)(*tensors.values())


def raised(function, *args):
    with pytest.raises(RuntimeError) as caught:
        function(*args)
    return str(caught.value).splitlines()[0]


MAKERS = {"real": torch.zeros, "meta": lambda shape: torch.zeros(shape, device="meta")}


@pytest.mark.parametrize("name", GOOD)
def test_what_fits_is_taken(name):
    shapes = [
        torch.utils._pytree.tree_map(lambda out: (out.shape, out.stride(), out.dtype), call(name, GOOD[name], make))
        for make in MAKERS.values()
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name, changed, message", cases())
def test_what_does_not_fit_is_refused_in_the_same_words(name, changed, message):
    arguments = {**GOOD[name], **changed}
    real = raised(call, name, arguments, MAKERS["real"])
    assert raised(call, name, arguments, MAKERS["meta"]) == real
    with FakeTensorMode():
        assert raised(call, name, arguments, torch.zeros) == real
    with pytest.raises(RuntimeError, match=message):
        raise RuntimeError(real)


def second_tensor(name):
    tensors = [key for key, value in GOOD[name].items() if isinstance(value, tuple)]
    return [(name, key) for key in tensors[1:]]


@pytest.mark.parametrize("name, argument", [pair for name in GOOD for pair in second_tensor(name)])
def test_another_dtype_and_another_device_are_refused(name, argument):
    def make_others(**options):
        return {
            key: torch.zeros(value, **(options if key == argument else {})) if isinstance(value, tuple) else value
            for key, value in GOOD[name].items()
        }

    operator = getattr(operators, name)
    with pytest.raises(RuntimeError, match="different dtypes"):
        operator(*make_others(dtype=torch.float64).values())
    with pytest.raises(RuntimeError, match="different devices"):
        operator(*make_others(device="meta").values())
    with FakeTensorMode(), pytest.raises(RuntimeError, match="different dtypes"):
        operator(*make_others(dtype=torch.float64).values())


@pytest.mark.parametrize("name", [name for name in GOOD if not name.startswith("interweave") or "conv" in name])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_other_dtypes_are_refused(name, dtype):
    message = raised(call, name, GOOD[name], lambda shape: torch.zeros(shape, dtype=dtype))
    assert "input must be float64, float32, float16 or bfloat16" in message
    assert raised(call, name, GOOD[name], lambda shape: torch.zeros(shape, dtype=dtype, device="meta")) == message


def test_export_refuses_what_would_fail_at_run_time():
    class Net(torch.nn.Module):
        def forward(self, input, weight):
            return operators.locally_shared_conv2d(input, weight, None, [1, 1], [0, 0], [1, 1])

    with pytest.raises(RuntimeError, match="every cell needs at least one"):
        torch.export.export(Net(), (torch.zeros(1, 1, 5, 5), torch.zeros(9, 9, 1, 1, 3, 3)))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(
    "function, gigabytes",
    [
        (lambda zero: ops.locally_shared_conv2d(zero[..., 0, 0], zero.expand(2, 1, 1, 1, 1, 1), padding=10**6), 16000),
        (lambda zero: ops.locally_shared_conv2d(zero[..., 0, 0].expand(2**45, 1, 1, 1), zero), 140737),
        (lambda zero: ops.interweaved_conv2d(zero[..., 0, 0].expand(10**7, 1, 10**3, 10**3), zero), 40000),
        (lambda zero: ops.interweave(zero.expand(10**4, 10**3, 10**3, 10**3, 1, 1)), 40000),
        (lambda zero: ops.density_peaks(zero[0, 0, 0, 0].expand(10**7, 10**6)), 40000),
    ],
)
def test_out_of_memory_says_how_much_was_asked_for(function, gigabytes, requires_grad):
    with pytest.raises(RuntimeError) as error:
        function(torch.zeros(1, 1, 1, 1, 1, 1, requires_grad=requires_grad))
    message = re.fullmatch(
        r"(locally_shared|interweave|density)\w*: out of memory, asked for (\d+) bytes", str(error.value)
    )
    assert message and int(message[2]) // 10**9 == gigabytes
