"""The convolutions by torch's own operators: what torch.onnx.export makes standard ONNX of."""

import torch
from torch.nn.functional import conv2d, max_pool2d, pad

from ._library import decompositions


def _bounds(cells, size):
    """Where each cell of a row (column) of `size` positions begins, and the last one's end."""
    return [(cell * size + cells - 1) // cells for cell in range(cells + 1)]


def _locally_shared_conv2d(input, weight, bias, stride, padding, dilation):
    """A convolution of each cell's part of the input."""
    grid, kernel = weight.shape[:2], weight.shape[4:]
    input = pad(input, (padding[1], padding[1], padding[0], padding[0]))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    sizes = [(n - r) // s + 1 for n, r, s in zip(input.shape[2:], reach, stride, strict=True)]
    rows, columns = (_bounds(cells, size) for cells, size in zip(grid, sizes, strict=True))
    lines = []
    for p in range(grid[0]):
        part = input[:, :, rows[p] * stride[0] : (rows[p + 1] - 1) * stride[0] + reach[0]]
        line = []
        for q in range(grid[1]):
            cell = part[..., columns[q] * stride[1] : (columns[q + 1] - 1) * stride[1] + reach[1]]
            line.append(conv2d(cell, weight[p, q], None if bias is None else bias[p, q], stride, 0, dilation))
        lines.append(torch.cat(line, 3))
    return torch.cat(lines, 2)


def _interweave(maps, shift):
    n, grid_height, grid_width, channels, height, width = maps.shape
    blocks = height - (grid_height - 1) * shift[0], width - (grid_width - 1) * shift[1]
    cells = [
        maps[:, p, q, :, p * shift[0] : p * shift[0] + blocks[0], q * shift[1] : q * shift[1] + blocks[1]]
        for p in range(grid_height)
        for q in range(grid_width)
    ]
    return _interleave(cells, (grid_height, grid_width))


def _interleave(cells, grid):
    """[N, C, Gh*H, Gw*W] of the cells' maps [N, C, H, W]."""
    rows = [torch.stack(cells[p * grid[1] : (p + 1) * grid[1]], 4).flatten(3) for p in range(grid[0])]
    return torch.stack(rows, 3).flatten(2, 3)


def _interweaved_conv2d(input, weight, bias, stride, dilation, shift, pool):
    """Each cell's convolution of the part of the input that its blocks need, pooled."""
    grid, kernel = weight.shape[:2], weight.shape[4:]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    responses = [
        (n - r - (cells - 1) * t) // s + 1
        for n, r, cells, t, s in zip(input.shape[2:], reach, grid, shift, stride, strict=True)
    ]
    height, width = ((count - 1) * s + r for count, s, r in zip(responses, stride, reach, strict=True))
    cells = []
    for p in range(grid[0]):
        for q in range(grid[1]):
            part = input[:, :, p * shift[0] : p * shift[0] + height, q * shift[1] : q * shift[1] + width]
            cell = conv2d(part, weight[p, q], None if bias is None else bias[p, q], stride, 0, dilation)
            cells.append(cell if max(pool) == 1 else max_pool2d(cell, list(pool), 1))
    return _interleave(cells, grid)


decompositions |= {
    "interweave": _interweave,
    "interweaved_conv2d": _interweaved_conv2d,
    "locally_shared_conv2d": _locally_shared_conv2d,
}
