import copy

import pytest
import torch

from faceattr.nn import LocallySharedConv2d
from faceattr.ops import locally_shared_conv2d


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
    "options, message",
    [({"groups": 2}, "2 groups"), ({"padding": "same"}, "same"), ({"padding_mode": "reflect"}, "reflect")],
)
def test_from_conv2d_refuses_what_it_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        LocallySharedConv2d.from_conv2d(torch.nn.Conv2d(4, 4, 3, **options), 2)


def test_repr():
    text = repr(LocallySharedConv2d(3, 4, 3, (5, 4), stride=2, bias=False))
    assert text == "LocallySharedConv2d(3, 4, kernel_size=(3, 3), grid=(5, 4), stride=(2, 2), bias=False)"


@pytest.mark.parametrize("name, value", [("kernel_size", 0), ("grid", (2, 0)), ("padding", -1), ("in_channels", 0)])
def test_bad_arguments_are_named(name, value):
    options = {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "grid": 2, name: value}
    with pytest.raises(ValueError, match=f"{name} is"):
        LocallySharedConv2d(**options)


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


def test_compile_and_export():
    net = torch.nn.Sequential(LocallySharedConv2d(3, 4, 3, 2), torch.nn.ReLU(), torch.nn.Flatten())
    input = torch.randn(2, 3, 7, 7)
    torch.testing.assert_close(torch.compile(net, fullgraph=True)(input), net(input))
    program = torch.export.export(net, (input,))
    torch.testing.assert_close(program.module()(input), net(input))
