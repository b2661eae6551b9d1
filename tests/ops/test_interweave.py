import pytest
import torch
from torch.nn import functional as F

from faceattr.ops import interweave, reference

SHAPES = [
    ((1, 1, 1, 1, 1, 1), 0),
    ((2, 3, 2, 4, 7, 6), (1, 2)),
    ((1, 4, 4, 3, 9, 9), 2),
    ((2, 2, 3, 1, 5, 8), (0, 3)),
    ((1, 5, 4, 2, 10, 8), 1),
]


def maps_of(shape, dtype):
    return torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.uint8, torch.int32, torch.bool, torch.complex128]
)
@pytest.mark.parametrize("shape, shift", SHAPES)
def test_equals_the_reference_bit_for_bit(shape, shift, dtype):
    maps = maps_of(shape, dtype)
    assert torch.equal(interweave(maps, shift), reference.interweave(maps, shift))
    strided = torch.stack([maps, maps], -1)[..., 0].transpose(1, 3).contiguous().transpose(1, 3)
    assert torch.equal(interweave(strided, shift), reference.interweave(maps, shift))


def test_without_shift_it_is_pixel_shuffle():
    maps = torch.randn(2, 3, 3, 4, 5, 6)
    channels_first = maps.permute(0, 3, 1, 2, 4, 5).flatten(1, 3)
    assert torch.equal(interweave(maps), F.pixel_shuffle(channels_first, 3))


def test_a_block_is_the_grid_of_its_patch_position():
    grid, shift = 3, 2
    # The response of cell (p, q) at y, x says where it was read.
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(9.0), indexing="ij")
    maps = torch.stack([y, x]).expand(1, grid, grid, 2, 8, 9)
    out = interweave(maps, shift)
    block = out[0, :, 2 * grid : 3 * grid, 4 * grid : 5 * grid]  # patch position (2, 4)
    assert block[0].tolist() == [[2] * 3, [4] * 3, [6] * 3]
    assert block[1].tolist() == [[4, 6, 8]] * 3


@pytest.mark.parametrize("shape, shift", SHAPES)
def test_gradient_is_the_adjoint(shape, shift):
    maps = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: interweave(m, shift), maps, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda m: interweave(m, shift), maps, fast_mode=True)
    out = interweave(maps, shift)
    grad = torch.randn_like(out)
    (back,) = torch.autograd.grad(out, maps, grad)
    torch.testing.assert_close((back * maps).sum(), (grad * out).sum())
    assert torch.count_nonzero(back) == torch.count_nonzero(grad)  # what is never read gets zero


def test_empty_batch():
    assert interweave(torch.zeros(0, 2, 2, 3, 5, 5), 1).shape == (0, 3, 8, 8)


def test_opcheck_compile_export():
    maps = torch.randn(2, 3, 2, 4, 7, 6, requires_grad=True)
    torch.library.opcheck(torch.ops.faceattr.interweave.default, (maps, [1, 2]))
    grad = torch.randn(2, 4, 15, 8, requires_grad=True)
    torch.library.opcheck(torch.ops.faceattr.interweave_adjoint.default, (grad, [7, 6], [3, 2], [1, 2]))
    assert torch.equal(torch.compile(interweave, fullgraph=True)(maps, (1, 2)), interweave(maps, (1, 2)))

    class Net(torch.nn.Module):
        def forward(self, maps):
            return interweave(maps, (1, 2))

    program = torch.export.export(Net(), (maps,))
    assert torch.equal(program.module()(maps), interweave(maps, (1, 2)))


def test_vmap():
    maps = torch.randn(4, 2, 3, 2, 4, 7, 6)
    output = torch.vmap(lambda m: interweave(m, 1), in_dims=1)(maps.transpose(0, 1))
    assert torch.equal(output, torch.stack([interweave(m, 1) for m in maps]))


@pytest.mark.parametrize(
    "shape, shift, message",
    [
        ((2, 3, 4, 7, 6), 0, r"maps has shape \[2, 3, 4, 7, 6\], it must be \[N, Gh, Gw, C, H, W\]"),
        ((1, 3, 3, 1, 4, 9), 2, "maps of 4x9 are too small for a grid of 3x3 cells shifted by"),
        ((1, 3, 3, 1, 4, 9), -1, r"shift is \(-1, -1\), both values must be at least 0"),
        ((1, 0, 3, 1, 4, 9), 0, "empty grid"),
    ],
)
def test_bad_arguments_are_named(shape, shift, message):
    with pytest.raises(RuntimeError, match=message):
        interweave(torch.zeros(shape), shift)
