"""Shapes, strides and devices of the operators' results on CUDA tensors without memory: needs no GPU, not even CUDA."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from faceattr import ops

CALLS = {
    "locally_shared_conv2d": (
        lambda x, w, b: ops.locally_shared_conv2d(x, w, b, stride=2, padding=1),
        [(4, 6, 13, 11), (3, 2, 10, 6, 3, 3), (3, 2, 10)],
        (4, 10, 7, 6),
    ),
    "interweaved_conv2d": (
        lambda x, w, b: ops.interweaved_conv2d(x, w, b, shift=2, pool=2),
        [(4, 6, 14, 13), (3, 2, 10, 6, 3, 3), (3, 2, 10)],
        (4, 10, 3 * 7, 2 * 8),
    ),
    "interweave": (lambda maps: ops.interweave(maps, 1), [(4, 3, 2, 6, 7, 7)], (4, 6, 3 * 5, 2 * 6)),
}


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def backward(name, grad, tensors):
    """The operators that the gradients are made of: a torch without CUDA builds no graph on cuda tensors."""
    operators = torch.ops.faceattr
    if name == "locally_shared_conv2d":
        input, weight, _ = tensors
        geometry = [2, 2], [1, 1], [1, 1]
        last = input.is_contiguous(memory_format=torch.channels_last)
        input_grad = operators.locally_shared_conv2d_input_grad(grad, weight, input.shape[2:], *geometry, last)
        return input_grad, *operators.locally_shared_conv2d_weight_grad(
            grad, input, weight.shape[:2], weight.shape[4:], *geometry
        )
    if name == "interweaved_conv2d":
        return operators.interweaved_conv2d_backward(grad, *tensors, [1, 1], [1, 1], [2, 2], [2, 2])
    (maps,) = tensors
    return (operators.interweave_adjoint(grad, maps.shape[4:], maps.shape[1:3], [1, 1]),)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CALLS)
def test_forward_and_backward(name, dtype):
    call, shapes, expected = CALLS[name]
    with FakeTensorMode():
        tensors = [torch.empty(shape, dtype=dtype, device="cuda") for shape in shapes]
        output = call(*tensors)
        grads = backward(name, output, tensors)
    assert output.shape == expected
    for result in (output, *grads):
        assert result.device == torch.device("cuda", 0) and result.dtype == dtype
    assert [grad.shape for grad in grads] == [tensor.shape for tensor in tensors]


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_filters_gradient_lies_as_they_do(channels_last):
    """Then the optimizer's copy of it costs nothing. On the CPU, where the operator is two calls, as on CUDA."""
    input, weight = torch.randn(2, 3, 6, 5), torch.randn(2, 2, 4, 3, 3, 3)
    if channels_last:
        weight = ops.channels_last_filters(weight)
    output = ops.locally_shared_conv2d(input, weight)
    arguments = output, input, weight, [1, 1], [0, 0], [1, 1]
    torch.library.opcheck(torch.ops.faceattr.locally_shared_conv2d_backward.default, arguments)
    with FakeTensorMode():
        fake = [torch.empty_strided(t.shape, t.stride(), device="cuda") for t in arguments[:3]]
        grads = torch.ops.faceattr.locally_shared_conv2d_backward(*fake, *arguments[3:])
    assert [grad.stride() for grad in grads[:2]] == [input.stride(), weight.stride()]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch builds no graph on cuda tensors without CUDA or GPU")
@pytest.mark.parametrize("name", CALLS)
def test_backward_through_autograd(name):
    call, shapes, _ = CALLS[name]
    with FakeTensorMode():
        tensors = [torch.empty(shape, device="cuda", requires_grad=True) for shape in shapes]
        grads = torch.autograd.grad(call(*tensors).sum(), tensors)
    assert [grad.shape for grad in grads] == [tensor.shape for tensor in tensors]


@pytest.mark.parametrize("name", ["locally_shared_conv2d", "interweaved_conv2d"])
def test_channels_last_stays(name):
    call, shapes, _ = CALLS[name]
    with FakeTensorMode():
        input, weight, bias = (torch.empty(shape, device="cuda") for shape in shapes)
        input = input.to(memory_format=torch.channels_last)
        output = call(input, weight, bias)
        grad = backward(name, output, (input, weight, bias))[0]
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_density_peaks(dtype):
    with FakeTensorMode():
        distance, parent = ops.density_peaks(torch.empty(3, 2, 57, 57, dtype=dtype, device="cuda"))
    assert distance.shape == parent.shape == (3, 2, 57, 57)
    assert distance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert parent.dtype == torch.int64 and parent.device.type == "cuda"


@pytest.fixture
def convolution_precision():
    """torch's setting, put back afterwards."""
    setting = torch.backends.cudnn.conv
    before = setting.fp32_precision
    yield setting
    torch.backends.cudnn.allow_tf32 = True
    setting.fp32_precision = before


def test_the_kernels_follow_torchs_convolution_setting(convolution_precision):
    allowed = torch.ops.faceattr.tf32_allowed
    assert convolution_precision.fp32_precision == "tf32" and allowed() is True  # torch's default
    for precision, answer in (("ieee", False), ("tf32", True)):
        convolution_precision.fp32_precision = precision
        assert allowed() is answer
    for older in (False, True):
        torch.backends.cudnn.allow_tf32 = older
        assert allowed() is older
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=not older):
            assert allowed() is not older


def test_not_torchs_matmul_setting(convolution_precision):
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("high", "highest"):
            torch.set_float32_matmul_precision(precision)
            assert torch.ops.faceattr.tf32_allowed() is True
    finally:
        torch.set_float32_matmul_precision(before)


def test_no_tf32_without_python(tmp_path):
    """The library alone, as a C++ process loads it, has an answer."""
    (library,) = Path(ops.__file__).parent.parent.glob("_C.*")
    script = f"import torch; torch.ops.load_library({str(library)!r}); print(torch.ops.faceattr.tf32_allowed())"
    process = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert process.stdout == "False\n", process.stderr
