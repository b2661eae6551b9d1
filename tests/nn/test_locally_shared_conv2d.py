import copy

import numpy as np
import pytest
import torch

from faceattr.nn import LazyLocallySharedConv2d, LocallySharedConv1d, LocallySharedConv2d
from faceattr.ops import locally_shared_conv2d, reference


def test_forward_is_the_operator():
    layer = LocallySharedConv2d(3, 5, (3, 2), (2, 3), stride=2, padding=1)
    input = torch.randn(2, 3, 11, 12)
    expected = locally_shared_conv2d(input, layer.weight, layer.bias, 2, 1, 1)
    assert torch.equal(layer(input), expected) and torch.equal(layer(input[0]), expected[0])


def test_parameters_shapes_dtype_and_state_dict():
    layer = LocallySharedConv2d(3, 5, 3, (2, 3), bias=False, dtype=torch.float64)
    assert layer.weight.shape == (2, 3, 5, 3, 3, 3) and layer.weight.dtype == torch.float64
    assert list(layer.state_dict()) == ["weight"]
    layer = LocallySharedConv2d(3, 5, 3, 2)
    twin = LocallySharedConv2d(3, 5, 3, 2)
    twin.load_state_dict(layer.state_dict())
    input = torch.randn(1, 3, 8, 8)
    assert torch.equal(twin(input), layer(input))
    assert torch.equal(copy.deepcopy(layer)(input), layer(input))


def test_cells_start_different_within_the_bound_of_conv2d():
    layer = LocallySharedConv2d(4, 8, 3, 2)
    assert not torch.equal(layer.weight[0, 0], layer.weight[1, 1])
    bound = torch.nn.Conv2d(4, 8, 3).weight.abs().max()
    assert 0.9 * bound < layer.weight.abs().max() <= 1 / 36**0.5


@pytest.mark.parametrize("grid", [1, (3, 4), (9, 10)])
@pytest.mark.parametrize("bias", [True, False])
def test_from_conv2d_computes_the_same(grid, bias):
    conv = torch.nn.Conv2d(3, 4, 3, stride=1, padding=(1, 0), dilation=(2, 1), bias=bias)
    input = torch.randn(2, 3, 11, 12)
    layer = LocallySharedConv2d.from_conv2d(conv, grid)
    torch.testing.assert_close(layer(input), conv(input))
    layer.weight.data.zero_()
    assert conv.weight.abs().sum() > 0  # a copy, not a view


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2},
        {"padding": "same", "kernel_size": (3, 2), "dilation": 2},
        {"padding": "valid"},
        {"padding": "same", "padding_mode": "circular", "kernel_size": (2, 4)},
        *({"padding": (2, 1), "padding_mode": mode} for mode in ("reflect", "replicate", "circular")),
    ],
)
def test_from_conv2d_with_every_option_of_conv2d(options):
    conv = torch.nn.Conv2d(4, 6, **{"kernel_size": 3, **options})
    input = torch.randn(2, 4, 11, 12)
    layer = LocallySharedConv2d.from_conv2d(conv, (3, 2))
    torch.testing.assert_close(layer(input), conv(input))
    torch.testing.assert_close(layer(input[0]), conv(input[0]))


def test_from_conv2d_keeps_what_is_trainable_and_the_mode():
    conv = torch.nn.Conv2d(2, 3, 3).eval()
    conv.weight.requires_grad_(False)
    layer = LocallySharedConv2d.from_conv2d(conv, 2)
    assert not layer.training and not layer.weight.requires_grad and layer.bias.requires_grad


@pytest.mark.parametrize(
    "module", [torch.nn.ConvTranspose2d(2, 2, 3), torch.nn.Conv1d(2, 2, 3), torch.nn.Linear(2, 2), torch.ones(2)]
)
def test_from_conv2d_refuses_other_modules(module):
    with pytest.raises(TypeError, match=f"conv is a {type(module).__name__}, it must be a torch.nn.Conv2d"):
        LocallySharedConv2d.from_conv2d(module, 2)


@pytest.mark.parametrize("grid", [1, (2, 3)])
def test_groups_are_convolutions_of_their_own(grid):
    layer = LocallySharedConv2d(6, 4, 3, grid, groups=2, padding=1, dtype=torch.float64)
    assert layer.weight.shape[2:4] == (4, 3)
    input = torch.randn(2, 6, 7, 8, dtype=torch.float64, requires_grad=True)
    halves = [
        reference.locally_shared_conv2d(x, w, b, 1, 1)
        for x, w, b in zip(input.chunk(2, 1), layer.weight.chunk(2, 2), layer.bias.chunk(2, 2), strict=True)
    ]
    expected = torch.cat(halves, 1)
    output = layer(input)
    torch.testing.assert_close(output, expected)
    leaves = input, layer.weight, layer.bias
    for ours, theirs in zip(
        torch.autograd.grad(output.sin().sum(), leaves), torch.autograd.grad(expected.sin().sum(), leaves), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"padding": "same", "groups": 2, "dilation": 2}])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_conv1d(options, padding_mode):
    conv = torch.nn.Conv1d(4, 6, 3, padding_mode=padding_mode, dtype=torch.float64, **options)
    layer = LocallySharedConv1d.from_conv1d(conv, 3)
    input = torch.randn(2, 4, 11, dtype=torch.float64)
    assert layer.weight.shape == (3, *conv.weight.shape)
    torch.testing.assert_close(layer(input), conv(input))
    torch.testing.assert_close(layer(input[0]), conv(input[0]))
    # Cell by cell.
    torch.nn.init.normal_(layer.weight)
    output = layer(input)
    for cell in range(3):
        conv.weight.data, conv.bias.data = layer.weight[cell].detach(), layer.bias[cell].detach()
        own = [at for at in range(output.shape[2]) if at * 3 // output.shape[2] == cell]
        torch.testing.assert_close(output[..., own], conv(input)[..., own])
    assert torch.autograd.gradcheck(layer, input.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize(
    "options, grid",
    [
        ({}, (6, 7)),
        ({"padding": "same"}, (8, 9)),
        ({"stride": 2, "padding": 1, "groups": 2}, (4, 5)),
        ({"grid": 2}, (2, 2)),
    ],
)
def test_lazy_layer_learns_its_sizes_from_the_first_input(options, grid):
    lazy = LazyLocallySharedConv2d(6, 3, **options)
    lazy = torch.nn.Sequential(lazy, torch.nn.ReLU())
    input = torch.randn(2, 4, 8, 9)
    output = lazy(input)
    layer = lazy[0]
    assert type(layer) is LocallySharedConv2d and layer.in_channels == 4 and layer.grid == grid
    assert layer.weight.shape == (*grid, 6, 4 // layer.groups, 3, 3)
    twin = LocallySharedConv2d(4, 6, 3, grid, **{key: value for key, value in options.items() if key != "grid"})
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(output, twin(input).relu())
    assert 0 < layer.weight.abs().max() <= 1 / (4 // layer.groups * 9) ** 0.5


def test_lazy_layer_takes_its_sizes_from_a_state_dict():
    layer = LocallySharedConv2d(4, 6, 3, (3, 5), groups=2)
    lazy = LazyLocallySharedConv2d(6, 3, groups=2)
    lazy.load_state_dict(layer.state_dict())
    input = torch.randn(2, 4, 8, 9)
    assert torch.equal(lazy(input), layer(input))
    assert repr(lazy) == repr(layer)


def test_lazy_layer_refuses_another_input():
    with pytest.raises(ValueError, match=r"input has shape \[8, 9\], it must be \[N, C, H, W\] or \[C, H, W\]"):
        LazyLocallySharedConv2d(6, 3)(torch.zeros(8, 9))


def test_lazy_layer_refuses_another_grid():
    with pytest.raises(ValueError, match="grid is 'input'"):
        LazyLocallySharedConv2d(6, 3, grid="input")


@pytest.mark.parametrize(
    "initialise, options",
    [
        (torch.nn.init.kaiming_normal_, {"nonlinearity": "relu"}),
        (torch.nn.init.xavier_uniform_, {}),
        (torch.nn.init.kaiming_uniform_, {"mode": "fan_out"}),
    ],
)
def test_init_cells_draws_each_cell_as_a_convolution_of_its_own(initialise, options):
    layer = LocallySharedConv2d(16, 24, 3, (5, 4))
    assert layer.init_cells_(initialise, **options) is layer
    conv = torch.nn.Conv2d(16, 24, 3)
    initialise(conv.weight, **options)
    torch.testing.assert_close(layer.weight.std((2, 3, 4, 5)), conv.weight.std().expand(5, 4), rtol=0.1, atol=0)
    assert not torch.equal(layer.weight[0, 0], layer.weight[1, 1])
    initialise(layer.weight, **options)
    assert layer.weight.std() < 0.6 * conv.weight.std()  # why it is needed
    narrow = LocallySharedConv1d(16, 24, 3, 5).init_cells_(initialise, **options)
    assert (
        0.7
        < narrow.weight.std() / torch.nn.init.__dict__[initialise.__name__](torch.empty(24, 16, 3), **options).std()
        < 1.4
    )


def test_repr():
    text = repr(LocallySharedConv2d(3, 4, 3, (5, 4), stride=2, bias=False))
    assert text == "LocallySharedConv2d(3, 4, kernel_size=(3, 3), grid=(5, 4), stride=(2, 2), bias=False)"


@pytest.mark.parametrize(
    "name, value",
    [("kernel_size", 0), ("grid", (2, 0)), ("padding", -1), ("in_channels", 0), ("groups", 0), ("stride", (1, -1))],
)
def test_bad_arguments_are_named(name, value):
    options = {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "grid": 2, name: value}
    with pytest.raises(ValueError, match=f"LocallySharedConv2d: {name} is"):
        LocallySharedConv2d(**options)


SIZES = ["kernel_size", "grid", "stride", "padding", "dilation"]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(
    "value, error",
    [((1, 2, 3), ValueError), ((2,), ValueError), (3.0, TypeError), ((1, 2.5), TypeError), (None, TypeError)],
)
def test_sizes_that_are_no_pair_of_ints_are_refused_at_construction(name, value, error):
    options = {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "grid": 2, name: value}
    with pytest.raises(error, match=f"LocallySharedConv2d: {name} (has . values|holds)"):
        LocallySharedConv2d(**options)
    if name not in ("kernel_size", "grid"):
        with pytest.raises(error, match=f"locally_shared_conv2d: {name} (has . values|holds)"):
            locally_shared_conv2d(torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 1, 1, 1, 1), **{name: value})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"padding": "full"}, "padding is 'full'"),
        ({"padding": "same", "stride": 2}, 'padding is "same" with stride'),
        ({"padding_mode": "mirror"}, "padding_mode is 'mirror'"),
        ({"groups": 2}, "in_channels is 3, no multiple of the 2 groups"),
        ({"groups": 3}, "out_channels is 4, no multiple of the 3 groups"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LocallySharedConv2d(**{"in_channels": 3, "out_channels": 4, "kernel_size": 3, "grid": 2, **options})


def test_numpy_integers_are_sizes():
    layer = LocallySharedConv2d(np.int64(3), np.int32(4), np.array([3, 2])[0], (np.int64(2), 1), padding=np.uint8(1))
    assert repr(layer) == repr(LocallySharedConv2d(3, 4, 3, (2, 1), padding=1))
    input, weight = torch.randn(1, 3, 6, 6), layer.weight.detach()
    assert torch.equal(
        locally_shared_conv2d(input, weight, stride=np.int64(2)), locally_shared_conv2d(input, weight, stride=2)
    )


def test_learns_what_a_shared_filter_cannot():
    # The target is a filter of its own in each half of the map.
    target = LocallySharedConv2d(2, 3, 3, (1, 2)).requires_grad_(False)
    input = torch.randn(64, 2, 6, 8)
    losses = []
    for grid in [(1, 1), (1, 2)]:
        layer = LocallySharedConv2d(2, 3, 3, grid)
        optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100)

        def loss(layer=layer):
            return (layer(input) - target(input)).square().mean()

        def closure(optimizer=optimizer, loss=loss):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        optimizer.step(closure)
        losses.append(loss().item())
    assert losses[1] < 1e-4 < 1e-2 < losses[0]


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize(
    "layer",
    [
        LocallySharedConv2d(4, 6, 3, 2, groups=2),
        LocallySharedConv2d(4, 6, 2, 2, padding="same"),
        LocallySharedConv2d(4, 6, 3, 2, padding=1, padding_mode="reflect"),
        LocallySharedConv1d(4, 6, 3, 2, groups=2, padding="same"),
    ],
)
def test_every_option_is_one_graph(layer, dynamic):
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in ((2, 4, 9, 9), (3, 4, 9, 9), (3, 4, 12, 10)):
        input = torch.randn(size[: 2 + layer.dims])
        torch.testing.assert_close(compiled(input), layer(input))


def test_compile_and_export():
    net = torch.nn.Sequential(LocallySharedConv2d(3, 4, 3, 2), torch.nn.ReLU(), torch.nn.Flatten())
    input = torch.randn(2, 3, 7, 7)
    torch.testing.assert_close(torch.compile(net, fullgraph=True)(input), net(input))
    program = torch.export.export(net, (input,))
    torch.testing.assert_close(program.module()(input), net(input))
