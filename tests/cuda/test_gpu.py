"""The operators on a GPU against the CPU: pytest -m gpu. FACEATTR_REQUIRE_CUDA=1 makes a missing GPU a failure."""

import os

import pytest
import torch

import faceattr.ops as ops
from faceattr.nn import LocallySharedConv2d
from faceattr.ops import reference


def missing():
    """Why nothing can run here; None where it can."""
    if not torch.cuda.is_available():
        return "there is no GPU"
    if not torch._C._dispatch_has_kernel_for_dispatch_key("faceattr::locally_shared_conv2d", "CUDA"):
        return "faceattr was built without CUDA"
    return None


@pytest.fixture(autouse=True)
def _needs_a_gpu():
    if reason := missing():
        if os.environ.get("FACEATTR_REQUIRE_CUDA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def _no_tf32():
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True


pytestmark = pytest.mark.gpu
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
# (batch, in, out, size, kernel, grid, stride, padding, dilation)
SHARED = {
    "C3": (32, 40, 60, (12, 10), (3, 3), (5, 4), (1, 1), (0, 0), (1, 1)),
    "C3 of one": (1, 40, 60, (12, 10), (3, 3), (5, 4), (1, 1), (0, 0), (1, 1)),
    "C4": (32, 60, 80, (5, 4), (2, 2), (4, 3), (1, 1), (0, 0), (1, 1)),
    "unshared": (32, 40, 60, (14, 14), (3, 3), (12, 12), (1, 1), (0, 0), (1, 1)),
    "wide": (16, 96, 128, (26, 26), (3, 3), (4, 4), (1, 1), (0, 0), (1, 1)),
    "many positions": (24, 64, 64, (34, 34), (3, 3), (4, 4), (1, 1), (0, 0), (1, 1)),
    "general": (9, 33, 65, (27, 25), (3, 5), (3, 4), (2, 1), (2, 3), (2, 1)),
    "plain": (8, 64, 64, (30, 30), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "many cells": (2, 4, 4, (72, 70), (3, 3), (70, 68), (1, 1), (0, 0), (1, 1)),
}
INTERWEAVED = {  # (batch, in, out, size, kernel, grid, stride, dilation, shift, pool)
    "C3": (4, 40, 60, (27, 25), (3, 3), (5, 4), (1, 1), (1, 1), (2, 2), (2, 2)),
    "C4": (4, 60, 80, (80, 64), (2, 2), (4, 3), (5, 4), (1, 1), (1, 1), (1, 1)),
    "general": (3, 9, 33, (30, 31), (2, 3), (2, 3), (2, 1), (3, 2), (1, 4), (2, 3)),
}


def relative_error(result, expected):
    scale = expected.double().abs().max().clamp_min(1e-30)
    return ((result.double().cpu() - expected.double().cpu()).abs().max() / scale).item()


def random(shape, dtype, channels_last=False):
    values = torch.randn(shape, dtype=torch.float64).to(dtype)
    return values.to(memory_format=torch.channels_last) if channels_last else values


def both(function, tensors, grad_dtype):
    """Output and gradients on the CPU in float64 and on the GPU in the tensors' own dtype."""
    on_cpu = [t.double().requires_grad_() for t in tensors]
    on_gpu = [t.cuda().requires_grad_() for t in tensors]
    expected, result = function(*on_cpu), function(*on_gpu)
    grad = torch.randn(expected.shape, dtype=torch.float64).to(grad_dtype)
    expected_grads = torch.autograd.grad(expected, on_cpu, grad.double())
    grads = torch.autograd.grad(result, on_gpu, grad.cuda())
    return [expected, *expected_grads], [result, *grads]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHARED)
def test_shared_convolution(shape, dtype, channels_last):
    batch, inputs, outputs, size, kernel, grid, *geometry = SHARED[shape]
    tensors = [
        random((batch, inputs, *size), dtype, channels_last),
        random((*grid, outputs, inputs, *kernel), dtype),
        random((*grid, outputs), dtype),
    ]
    if channels_last:
        tensors[1] = ops.channels_last_filters(tensors[1])
    expected, results = both(lambda x, w, b: ops.locally_shared_conv2d(x, w, b, *geometry), tensors, dtype)
    for result, wanted in zip(results, expected, strict=True):
        assert relative_error(result, wanted) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", INTERWEAVED)
def test_interweaved_convolution(shape, dtype):
    batch, inputs, outputs, size, kernel, grid, *geometry = INTERWEAVED[shape]
    tensors = [
        random((batch, inputs, *size), dtype),
        random((*grid, outputs, inputs, *kernel), dtype),
        random((*grid, outputs), dtype),
    ]
    expected, results = both(lambda x, w, b: ops.interweaved_conv2d(x, w, b, *geometry), tensors, dtype)
    checked = results if dtype == torch.float64 else results[:1]  # near ties: another maximum may take the gradient
    for result, wanted in zip(checked, expected, strict=False):
        assert relative_error(result, wanted) <= 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int8, torch.complex128, torch.bool])
def test_interweave(dtype):
    maps = torch.randint(0, 2, (3, 4, 3, 5, 20, 18)).to(dtype)
    assert torch.equal(ops.interweave(maps.cuda(), (1, 2)).cpu(), ops.interweave(maps, (1, 2)))
    grad = torch.randint(0, 9, (3, 5, 4 * 17, 3 * 14)).to(dtype)
    adjoint = torch.ops.faceattr.interweave_adjoint
    arguments = (20, 18), (4, 3), (1, 2)
    assert torch.equal(adjoint(grad.cuda(), *arguments).cpu(), adjoint(grad, *arguments))


@pytest.mark.parametrize("dtype", DTYPES)
def test_density_peaks_bit_for_bit(dtype):
    noise = torch.rand(64, 57, 57)
    for maps in (noise, (noise * 8).floor(), torch.ones(3, 40, 70), torch.where(noise > 0.98, noise, 0)):
        maps = maps.to(dtype)
        for result, expected in zip(ops.density_peaks(maps.cuda(), 0.1), ops.density_peaks(maps, 0.1), strict=True):
            assert torch.equal(result.cpu(), expected)


def test_second_order_gradients():
    weight = random((2, 3, 4, 3, 2, 2), torch.float64).cuda().requires_grad_()
    input = random((2, 3, 7, 6), torch.float64).cuda().requires_grad_()
    assert torch.autograd.gradcheck(ops.locally_shared_conv2d, (input, weight))
    assert torch.autograd.gradgradcheck(ops.locally_shared_conv2d, (input, weight))


def layer(dtype=torch.float32):
    torch.manual_seed(1)
    return LocallySharedConv2d(40, 60, 3, (5, 4)).to("cuda", dtype), torch.randn(
        32, 40, 12, 10, device="cuda", dtype=dtype
    )


def test_tf32_when_torch_allows_it():
    conv, input = layer()
    exact = conv.double()(input.double())
    conv.float()
    precise = relative_error(conv(input), exact)
    for allow in (
        lambda: setattr(torch.backends.cudnn, "allow_tf32", True),
        lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "tf32"),
    ):
        torch.backends.cudnn.allow_tf32 = False
        assert relative_error(conv(input), exact) == precise < 1e-5
        allow()
        assert precise < relative_error(conv(input), exact) < 3e-3


def test_the_same_bits_every_time():
    conv, input = layer(torch.bfloat16)
    grads = []
    for _ in range(3):
        conv.zero_grad()
        conv(input).float().square().sum().backward()
        grads.append((conv.weight.grad.clone(), conv.bias.grad.clone()))
    assert all(torch.equal(a, b) for grad in grads[1:] for a, b in zip(grads[0], grad, strict=True))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch", [1, 32])
def test_both_gradients_at_once_are_those_of_an_operator_each(batch, channels_last):
    input, weight = (
        random((batch, 64, 18, 18), torch.bfloat16, channels_last),
        random((4, 4, 64, 64, 3, 3), torch.bfloat16),
    )
    if channels_last:
        weight = ops.channels_last_filters(weight)
    tensors = [input.cuda().requires_grad_(), weight.cuda().requires_grad_()]
    output = ops.locally_shared_conv2d(*tensors)
    grad = torch.randn_like(output)
    together = torch.autograd.grad(output, tensors, grad, retain_graph=True)
    apart = torch.autograd.grad(output, tensors, grad, create_graph=True)
    assert all(torch.equal(one, other) for one, other in zip(together, apart, strict=True))
    assert [one.stride() for one in together] == [tensor.stride() for tensor in tensors]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 32])
def test_kernels_that_start_early_wait_for_what_they_read(batch, dtype):
    """Calls on other numbers each, in the same memory, without a pause: what is read too early is the call before's."""

    def shared(input, weight, bias):
        return ops.locally_shared_conv2d(input, weight, bias)

    def pooled(input, weight, bias):
        return ops.interweaved_conv2d(input, weight, bias, shift=(1, 1), pool=(2, 2))

    for function in (shared, pooled) if dtype == torch.float64 else (shared,):  # near ties: see above
        calls = [
            [random(size, dtype) for size in ((batch, 24, 12, 11), (2, 3, 33, 24, 3, 3), (2, 3, 33))] for _ in range(8)
        ]
        expected = [tensor for call in calls for tensor in forward_and_gradients(function, call, "cpu")]
        calls = [[tensor.cuda() for tensor in call] for call in calls]
        for _ in range(5):
            results = [tensor for call in calls for tensor in forward_and_gradients(function, call, "cuda")]
            for result, wanted in zip(results, expected, strict=True):
                assert relative_error(result, wanted) <= 2 * TOLERANCE[dtype]


def forward_and_gradients(function, tensors, device):
    """Of the output's sum; on the CPU in float64."""
    tensors = [(t.double() if device == "cpu" else t).detach().requires_grad_() for t in tensors]
    output = function(*tensors)
    return [output.detach(), *torch.autograd.grad(output, tensors, torch.ones_like(output))]


def test_on_another_stream():
    """The input arrives late on that stream: a kernel on any other would see zeros."""
    conv, input = layer()
    expected = conv(input)
    late = torch.zeros_like(input)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)
        late.copy_(input)
        result = conv(late)
    torch.cuda.synchronize()
    assert torch.equal(result, expected)


def test_on_a_second_device():
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    conv, input = layer()
    expected = conv(input)
    torch.cuda.set_device(0)
    assert relative_error(conv.to("cuda:1")(input.to("cuda:1")), expected) < 1e-6


def test_in_a_cuda_graph():
    conv, input = layer()
    with torch.no_grad():
        ops.density_peaks(conv(input))  # kernels are loaded at their first launch, which a capture may not do
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        output = conv(input)
        distance, parent = ops.density_peaks(output)
    input.copy_(torch.randn_like(input))
    graph.replay()
    expected = conv(input).detach()
    assert torch.equal(output, expected)
    assert torch.equal(parent, ops.density_peaks(expected)[1])


def test_autocast():
    conv, input = layer()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        output = conv(input)
    assert output.dtype == torch.bfloat16
    assert relative_error(output, conv(input)) < TOLERANCE[torch.bfloat16]


def test_compiled():
    conv, input = layer()
    compiled = torch.compile(conv, fullgraph=True)
    assert relative_error(compiled(input), conv(input)) < 1e-6
    compiled(input).sum().backward()


def test_wrong_input_is_refused():
    conv, input = layer()
    with pytest.raises(RuntimeError, match="different devices"):
        ops.locally_shared_conv2d(input, conv.weight.cpu())
    with pytest.raises(RuntimeError, match="input has 3"):
        conv(input[:, :3])
    assert conv(input[:0]).shape == (0, 60, 10, 8)


def test_against_the_reference():
    """Not only against the CPU's kernels."""
    conv, input = layer(torch.float64)
    expected = reference.locally_shared_conv2d(input[:2].cpu(), conv.weight.cpu(), conv.bias.cpu())
    assert relative_error(conv(input[:2]), expected) < 1e-12


@pytest.mark.large
def test_more_than_two_to_the_31_elements():
    batch, last = 2**31 // (16 * 64 * 64) + 3, 4
    input = torch.randn(batch, 16, 64, 64, dtype=torch.bfloat16, device="cuda")
    weight = torch.randn(2, 2, 8, 16, 3, 3, dtype=torch.bfloat16, device="cuda")
    output = ops.locally_shared_conv2d(input, weight)
    assert relative_error(output[-last:], ops.locally_shared_conv2d(input[-last:], weight)) < 1e-2

    to_input = torch.ops.faceattr.locally_shared_conv2d_input_grad
    to_weight = torch.ops.faceattr.locally_shared_conv2d_weight_grad
    geometry = [1, 1], [0, 0], [1, 1]
    input_grad = to_input(output, weight, [64, 64], *geometry, False)
    expected = to_input(output[-last:], weight, [64, 64], *geometry, False)
    assert relative_error(input_grad[-last:], expected) < 1e-2
    del input_grad
    halves = [slice(0, batch // 2), slice(batch // 2, batch)]
    weight_grad, bias_grad = to_weight(output, input, [2, 2], [3, 3], *geometry)
    parts = [to_weight(output[half], input[half], [2, 2], [3, 3], *geometry) for half in halves]
    assert relative_error(weight_grad, sum(part[0].float() for part in parts)) < 2e-2
    assert relative_error(bias_grad, sum(part[1].float() for part in parts)) < 2e-2


@pytest.mark.large
def test_other_operators_on_more_than_two_to_the_31_elements():
    maps = torch.empty(2**31 + 64, dtype=torch.int8, device="cuda").random_().view(-1, 2, 2, 16, 1, 1)
    assert torch.equal(ops.interweave(maps)[-3:], ops.interweave(maps[-3:]))
    del maps
    density = torch.rand(2**31 // 64**2 + 2, 64, 64, dtype=torch.bfloat16, device="cuda")
    distance, parent = ops.density_peaks(density)
    expected = ops.density_peaks(density[-3:].cpu())
    assert torch.equal(distance[-3:].cpu(), expected[0]) and torch.equal(parent[-3:].cpu(), expected[1])
