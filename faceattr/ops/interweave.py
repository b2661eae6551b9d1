"""The interweaved operation: the cells' response maps interleaved, one block a patch position (Fig. 5)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._checks import check, check_dim, check_grad, check_pair
from ._library import call, integers, overridable, register_autograd, register_vmap

_interweave = torch.ops.faceattr.interweave.default
_adjoint = torch.ops.faceattr.interweave_adjoint.default


@overridable
def interweave(maps: Tensor, shift: int | Sequence[int] = 0) -> Tensor:
    r"""Interleaves the response maps of a grid of cells, each shifted by its place in the grid::

        out[n, c, i*Gh + p, j*Gw + q] = maps[n, p, q, c, i + p*ty, j + q*tx]

    Block (i, j) of the output, [Gh, Gw], holds the grid of one patch position. With shift 0 this is
    :func:`torch.nn.functional.pixel_shuffle` with the grid as factor.
    Source: "Deep Learning Face Attributes in the Wild", section 3.2 and Fig. 5.

    Args:
        maps: [N, Gh, Gw, C, H, W], any dtype, any strides.
        shift: an int or a pair (ty, tx) >= 0, in positions of the maps.

    Returns:
        [N, C, Gh*H', Gw*W'] with H' = H - (Gh-1)*ty and W' = W - (Gw-1)*tx, contiguous; copies, bit for bit.

    Raises:
        RuntimeError: maps too small for the shifts, or not six-dimensional.
        TypeError, ValueError: a shift that is no int or pair of ints.

    Linear, and its own adjoint's adjoint: differentiable to any order, in reverse and forward mode.
    """
    return call(_interweave, maps, integers(shift, "interweave", "shift"))


def _blocks(op, size, grid, shift):
    """(H', W') for maps of `size`, (H, W)."""
    check_pair(shift, 0, op, "shift")
    blocks = [n - (cells - 1) * t for n, cells, t in zip(size, grid, shift, strict=True)]
    small = f"maps of {size[0]}x{size[1]} are too small for a grid of {grid[0]}x{grid[1]} cells shifted by "
    for count in blocks:
        check(count > 0, op, ": ", small, f"({shift[0]}, {shift[1]})")
    return blocks


@torch.library.register_fake("faceattr::interweave")
def _(maps, shift):
    op = "interweave"
    check_dim(maps, 6, op, "maps", "[N, Gh, Gw, C, H, W]")
    n, grid_height, grid_width, channels, *size = maps.shape
    for cells in (grid_height, grid_width):
        check(cells > 0, op, ": maps has an empty grid, its shape is ", list(maps.shape))
    blocks = _blocks(op, size, (grid_height, grid_width), shift)
    return maps.new_empty(n, channels, grid_height * blocks[0], grid_width * blocks[1])


@torch.library.register_fake("faceattr::interweave_adjoint")
def _(grad, map_size, grid, shift):
    op = "interweave_adjoint"
    check_dim(grad, 4, op, "grad", "[N, C, Gh*H', Gw*W']")
    check_pair(map_size, 1, op, "map_size")
    check_pair(grid, 1, op, "grid")
    blocks = _blocks(op, map_size, grid, shift)
    check_grad(grad, (*grad.shape[:2], grid[0] * blocks[0], grid[1] * blocks[1]), op, of="interweaved map")
    return grad.new_empty(grad.shape[0], *grid, grad.shape[1], *map_size)


def _setup_interweave(ctx, inputs, output):
    maps, ctx.shift = inputs
    ctx.grid, ctx.map_size = maps.shape[1:3], maps.shape[4:]


def _setup_adjoint(ctx, inputs, output):
    ctx.shift = inputs[3]


register_autograd(
    "interweave",
    _setup_interweave,
    lambda ctx, grad: (_adjoint(grad, ctx.map_size, ctx.grid, ctx.shift), None),
    lambda inputs, tangents: _interweave(tangents[0], inputs[1]),
)
register_autograd(
    "interweave_adjoint",
    _setup_adjoint,
    lambda ctx, maps: (_interweave(maps, ctx.shift), None, None, None),
    lambda inputs, tangents: _adjoint(tangents[0], *inputs[1:]),
)
register_vmap("interweave", folds=True)
register_vmap("interweave_adjoint", folds=True)
