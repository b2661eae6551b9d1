"""What torch's tools see of the operators: FLOP counter, torch.fx, profiler, checkpointing."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from faceattr import ops
from faceattr.nn import LocallySharedConv1d, LocallySharedConv2d


def flops(function, *args):
    with FlopCounterMode(display=False) as counter:
        function(*args)
    return counter.get_total_flops()


def forward_and_backward(function):
    return lambda *args: function(*args).sum().backward()


@pytest.mark.parametrize("geometry", [{}, {"stride": 2, "padding": 1}, {"dilation": 2}])
# torch counts a grouped convolution's gradients as if it had one group.
@pytest.mark.parametrize("groups, run", [(1, lambda f: f), (1, forward_and_backward), (2, lambda f: f)])
def test_flops_are_those_of_conv2d(geometry, groups, run):
    input = torch.randn(3, 4, 12, 10, requires_grad=True)
    conv = nn.Conv2d(4, 6, 3, groups=groups, **geometry)
    layer = LocallySharedConv2d.from_conv2d(conv, (3, 2))
    assert flops(run(layer), input) == flops(run(conv), input)


@pytest.mark.parametrize("pool, passes", [(1, 3), ((2, 3), 4)])
def test_flops_of_the_interweaved_convolution(pool, passes):
    """Those of one convolution a cell over what its responses read; with pooling, responses twice."""
    input = torch.randn(2, 4, 14, 13, requires_grad=True)
    weight = torch.randn(3, 2, 6, 4, 3, 2, requires_grad=True)
    # Each cell's part of the input is smaller by the shifts between the first and the last cell.
    one = flops(nn.functional.conv2d, input[:, :, :10, :11].detach(), weight[0, 0].detach())

    def run(*args):
        return ops.interweaved_conv2d(*args, shift=2, pool=pool)

    assert flops(run, input, weight) == 6 * one
    assert flops(forward_and_backward(run), input, weight) == passes * 6 * one


def test_flops_of_both_gradients_in_one_call():
    """What CUDA takes for a backward that needs both."""
    grad, input, weight = torch.randn(2, 6, 5, 4), torch.randn(2, 4, 7, 6), torch.randn(3, 2, 6, 4, 3, 3)
    one = flops(ops.locally_shared_conv2d, input, weight)
    both = torch.ops.faceattr.locally_shared_conv2d_backward
    assert flops(both, grad, input, weight, [1, 1], [0, 0], [1, 1]) == 2 * one


def test_flops_of_copies_and_comparisons_are_none():
    assert flops(ops.interweave, torch.randn(1, 2, 2, 3, 5, 5)) == 0
    assert flops(ops.density_peaks, torch.rand(9, 9)) == 0


def test_flops_in_a_compiled_net_and_under_meta():
    layer = LocallySharedConv2d(3, 4, 3, 2)
    expected = flops(layer, torch.randn(1, 3, 8, 8))
    assert flops(layer.to("meta"), torch.randn(1, 3, 8, 8, device="meta")) == expected


@pytest.mark.parametrize(
    "layer, size",
    [
        (LocallySharedConv2d(3, 4, 3, 2, padding="same"), (3, 8, 9)),
        (LocallySharedConv2d(4, 4, 3, 2, groups=2, padding=1, padding_mode="reflect"), (4, 8, 9)),
        (LocallySharedConv1d(3, 4, 3, 2), (3, 9)),
    ],
)
def test_symbolic_trace(layer, size):
    net = nn.Sequential(layer, nn.ReLU())
    graph = torch.fx.symbolic_trace(net)
    assert "locally_shared_conv2d" in graph.code
    input = torch.randn(2, *size)
    assert torch.equal(graph(input), net(input))
    assert torch.equal(graph(input[0]), net(input[0]))


def test_symbolic_trace_of_the_functions():
    def detect(maps, density):
        responses = ops.interweaved_conv2d(maps[:, 0, 0], torch.ones(2, 2, 1, 1, 1, 1))
        return ops.interweave(maps, shift=0) + responses, ops.density_peaks(density)

    graph = torch.fx.symbolic_trace(detect)
    arguments = torch.randn(1, 2, 2, 1, 5, 5), torch.rand(5, 5)
    assert torch.equal(graph(*arguments)[0], detect(*arguments)[0])
    assert {"interweave", "interweaved_conv2d", "density_peaks"} <= {node.name for node in graph.graph.nodes}


def test_profiler_names_the_operators():
    layer = LocallySharedConv2d(3, 4, 3, 2)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        layer(torch.randn(1, 3, 8, 8, requires_grad=True)).sum().backward()
    names = {event.key for event in profiled.key_averages()}
    forward = "faceattr::locally_shared_conv2d"
    assert {forward, f"{forward}_input_grad", f"{forward}_weight_grad", "LocallySharedConv2dBackward"} <= names


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(use_reentrant):
    net = nn.Sequential(LocallySharedConv2d(3, 4, 3, 2), nn.Tanh(), LocallySharedConv2d(4, 2, 3, 2))
    input = torch.randn(2, 3, 9, 9, requires_grad=True)
    grads = []
    for forward in (net, lambda x: checkpoint(net, x, use_reentrant=use_reentrant)):
        net.zero_grad()
        input.grad = None
        forward(input).square().sum().backward()
        grads.append([input.grad, *(p.grad for p in net.parameters())])
    assert all(map(torch.equal, *grads))
