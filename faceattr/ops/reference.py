"""The operators stated once more, slowly and plainly: what every kernel is held against.

Loops over positions, float64 inside, any device; no kernel of the library is used.
"""

import math

import torch


def _pairs(*values):
    return [(value, value) if isinstance(value, int) else value for value in values]


def locally_shared_conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1):
    """As :func:`faceattr.ops.locally_shared_conv2d`; differentiable by plain autograd."""
    (sh, sw), (ph, pw), (dh, dw) = _pairs(stride, padding, dilation)
    grid_height, grid_width, out_channels, _, kh, kw = weight.shape
    x, w = input.double(), weight.double()
    x = torch.nn.functional.pad(x, (pw, pw, ph, ph))
    out_height = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1
    out_width = (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    rows = []
    for i in range(out_height):
        p, top = i * grid_height // out_height, i * sh
        row = []
        for j in range(out_width):
            q, left = j * grid_width // out_width, j * sw
            patch = x[:, :, top : top + dh * (kh - 1) + 1 : dh, left : left + dw * (kw - 1) + 1 : dw]
            value = torch.einsum("ncuv,ocuv->no", patch, w[p, q])
            row.append(value if bias is None else value + bias[p, q].double())
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2).to(input.dtype)


def interweave(maps, shift=0):
    """As :func:`faceattr.ops.interweave`."""
    [(ty, tx)] = _pairs(shift)
    n, grid_height, grid_width, channels, height, width = maps.shape
    blocks_y, blocks_x = height - (grid_height - 1) * ty, width - (grid_width - 1) * tx
    out = maps.new_empty(n, channels, grid_height * blocks_y, grid_width * blocks_x)
    for p in range(grid_height):
        for q in range(grid_width):
            for i in range(blocks_y):
                for j in range(blocks_x):
                    out[:, :, i * grid_height + p, j * grid_width + q] = maps[:, p, q, :, i + p * ty, j + q * tx]
    return out


def interweaved_conv2d(input, weight, bias=None, stride=1, dilation=1, shift=0, pool=1):
    """As :func:`faceattr.ops.interweaved_conv2d`; differentiable by plain autograd."""
    (sy, sx), (dy, dx), (ty, tx), (ay, ax) = _pairs(stride, dilation, shift, pool)
    grid_height, grid_width, _, _, kh, kw = weight.shape
    x, w = input.double(), weight.double()
    blocks_y = (x.shape[2] - dy * (kh - 1) - 1 - (grid_height - 1) * ty) // sy + 1 - (ay - 1)
    blocks_x = (x.shape[3] - dx * (kw - 1) - 1 - (grid_width - 1) * tx) // sx + 1 - (ax - 1)

    def response(p, q, i, j):
        top, left = i * sy + p * ty, j * sx + q * tx
        patch = x[:, :, top : top + dy * (kh - 1) + 1 : dy, left : left + dx * (kw - 1) + 1 : dx]
        value = torch.einsum("ncuv,ocuv->no", patch, w[p, q])
        return value if bias is None else value + bias[p, q].double()

    rows = []
    for i in range(blocks_y):
        for p in range(grid_height):
            row = []
            for j in range(blocks_x):
                for q in range(grid_width):
                    window = [response(p, q, i + a, j + b) for a in range(ay) for b in range(ax)]
                    responses = torch.stack(window)
                    first = responses.argmax(0, keepdim=True)
                    row.append(responses.gather(0, first)[0])
            rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2).to(input.dtype)


def density_peaks(density, threshold=0.0):
    """As :func:`faceattr.ops.density_peaks`: every pair of positions."""
    height, width = density.shape[-2:]
    distance = torch.zeros(density.shape, dtype=torch.float64)
    parent = torch.full(density.shape, -1)
    maps = zip(
        density.double().reshape(-1, height * width).tolist(),
        distance.view(-1, height * width),
        parent.view(-1, height * width),
        strict=True,
    )
    for values, distances, parents in maps:
        for i, value in enumerate(values):
            if not value > threshold:
                continue
            squares = [
                ((i // width - j // width) ** 2 + (i % width - j % width) ** 2, j)
                for j, other in enumerate(values)
                if other > value
            ]
            square, parents[i] = min(squares, default=(height**2 + width**2, -1))
            distances[i] = math.sqrt(square)
    return distance.to(torch.float64 if density.dtype == torch.float64 else torch.float32), parent
