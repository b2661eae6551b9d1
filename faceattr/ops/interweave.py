"""The interweaved operation: the cells' response maps interleaved, one block a patch position (Fig. 5)."""

import torch

from ._library import pair, register_vmap

_interweave = torch.ops.faceattr.interweave.default
_adjoint = torch.ops.faceattr.interweave_adjoint.default


def interweave(maps, shift=0):
    r"""Interleaves the response maps of a grid of cells, each shifted by its place in the grid.

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
    """
    return _interweave(maps, pair(shift))


@torch.library.register_fake("faceattr::interweave")
def _(maps, shift):
    torch._check(
        maps.dim() == 6,
        lambda: f"interweave: maps has shape {list(maps.shape)}, it must be [N, Gh, Gw, C, H, W]",
    )
    n, grid_height, grid_width, channels, height, width = maps.shape
    blocks = height - (grid_height - 1) * shift[0], width - (grid_width - 1) * shift[1]
    return maps.new_empty(n, channels, grid_height * blocks[0], grid_width * blocks[1])


@torch.library.register_fake("faceattr::interweave_adjoint")
def _(grad, map_size, grid, shift):
    return grad.new_empty(grad.shape[0], *grid, grad.shape[1], *map_size)


def _setup_interweave(ctx, inputs, output):
    maps, ctx.shift = inputs
    ctx.grid, ctx.map_size = maps.shape[1:3], maps.shape[4:]


def _setup_adjoint(ctx, inputs, output):
    ctx.shift = inputs[3]


torch.library.register_autograd(
    _interweave,
    lambda ctx, grad: (_adjoint(grad, ctx.map_size, ctx.grid, ctx.shift), None),
    setup_context=_setup_interweave,
)
torch.library.register_autograd(
    _adjoint, lambda ctx, maps: (_interweave(maps, ctx.shift), None, None, None), setup_context=_setup_adjoint
)
register_vmap("interweave", folds=True)
register_vmap("interweave_adjoint", folds=True)
