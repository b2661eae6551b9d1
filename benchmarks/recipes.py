"""What people write today for what the operators do; each is checked against ours before it is timed."""

import torch
from torch.nn import functional as F


def cell_loop(input, weight, bias, stride=1):
    """conv2d on the crop that each cell reads, joined."""
    grid_height, grid_width, _, _, kh, kw = weight.shape
    height, width = (input.shape[2] - kh) // stride + 1, (input.shape[3] - kw) // stride + 1
    rows = []
    for p in range(grid_height):
        top, bottom = -(-p * height // grid_height), -(-(p + 1) * height // grid_height)
        row = []
        for q in range(grid_width):
            left, right = -(-q * width // grid_width), -(-(q + 1) * width // grid_width)
            crop = input[:, :, top * stride : (bottom - 1) * stride + kh, left * stride : (right - 1) * stride + kw]
            row.append(F.conv2d(crop, weight[p, q], bias[p, q], stride))
        rows.append(torch.cat(row, 3))
    return torch.cat(rows, 2)


def _cell_size(input, weight, stride):
    """Output positions of a cell: the following are for cells of one size."""
    return [
        ((n - k) // stride + 1) // cells
        for n, k, cells in zip(input.shape[2:], weight.shape[4:], weight.shape[:2], strict=True)
    ]


def grouped_conv(input, weight, bias, stride=1):
    """One grouped conv2d over the cells' crops, unfolded with their halo; for cells of one size."""
    grid_height, grid_width, out_channels, channels, kh, kw = weight.shape
    height, width = _cell_size(input, weight, stride)
    crop = (height - 1) * stride + kh, (width - 1) * stride + kw
    crops = input.unfold(2, crop[0], height * stride).unfold(3, crop[1], width * stride).permute(0, 2, 3, 1, 4, 5)
    crops = crops.reshape(len(input), -1, *crop)
    output = F.conv2d(crops, weight.flatten(0, 2), bias.flatten(), stride, groups=grid_height * grid_width)
    output = output.view(len(input), grid_height, grid_width, out_channels, height, width)
    return output.permute(0, 3, 1, 4, 2, 5).reshape(len(input), out_channels, grid_height * height, -1)


def unfold_baddbmm(input, weight, bias, stride=1):
    """All patches unfolded, one matrix product a cell; for cells of one size."""
    grid_height, grid_width, out_channels, _, kh, kw = weight.shape
    n = len(input)
    height, width = _cell_size(input, weight, stride)
    patches = F.unfold(input, (kh, kw), stride=stride).view(n, -1, grid_height, height, grid_width, width)
    patches = patches.permute(2, 4, 1, 0, 3, 5).flatten(3).flatten(0, 1)
    output = torch.baddbmm(bias.flatten(0, 1).unsqueeze(2), weight.flatten(3).flatten(0, 1), patches)
    output = output.view(grid_height, grid_width, out_channels, n, height, width)
    return output.permute(3, 2, 0, 4, 1, 5).reshape(n, out_channels, grid_height * height, -1)


def rows_baddbmm(input, weight, bias, stride=1):
    """The patches as views, the batch as rows of one matrix product a cell; for cells of one size."""
    grid_height, grid_width, out_channels, _, kh, kw = weight.shape
    height, width = _cell_size(input, weight, stride)
    patches = input.unfold(2, kh, stride).unfold(3, kw, stride)
    patches = patches.unflatten(3, (grid_width, width)).unflatten(2, (grid_height, height))
    patches = patches.permute(2, 4, 0, 3, 5, 1, 6, 7).reshape(grid_height * grid_width, -1, weight[0, 0, 0].numel())
    output = torch.baddbmm(bias.flatten(0, 1).unsqueeze(1), patches, weight.flatten(3).flatten(0, 1).transpose(1, 2))
    output = output.view(grid_height, grid_width, len(input), height, width, out_channels)
    return output.permute(2, 5, 0, 3, 1, 4).reshape(len(input), out_channels, grid_height * height, -1)


LOCALLY_SHARED = {
    "loop over cells": cell_loop,
    "grouped conv": grouped_conv,
    "unfold + baddbmm": unfold_baddbmm,
    "rows + baddbmm": rows_baddbmm,
}


def interweaved_by_maps(input, weight, bias, stride, shift, pool):
    """Every cell's whole map, pooled, cut to what the blocks need, and interleaved by a permutation."""
    grid_height, grid_width = weight.shape[:2]
    reach = [(grid_height - 1) * shift, (grid_width - 1) * shift]
    size = [n - r for n, r in zip(input.shape[2:], reach, strict=True)]
    rows = []
    for p in range(grid_height):
        row = []
        for q in range(grid_width):
            part = input[:, :, p * shift : p * shift + size[0], q * shift : q * shift + size[1]]
            row.append(F.max_pool2d(F.conv2d(part, weight[p, q], bias[p, q], stride), pool, 1))
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, 3).flatten(4).flatten(2, 3)


def pairwise_density_peaks(density, threshold):
    """All pairs of positions, masked to the denser ones; for one map."""
    height, width = density.shape
    values = density.flatten()
    index = torch.arange(height * width)
    y, x = index // width, index % width
    squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    nearest, parent = squared.masked_fill(values <= values[:, None], 2**40).min(1)
    root = nearest == 2**40
    distance = nearest.double().masked_fill(root, height**2 + width**2).sqrt().float()
    background = ~(values > threshold)
    parent = parent.masked_fill(root | background, -1).view_as(density)
    return distance.masked_fill(background, 0).view_as(density), parent


def pydpc_density_peaks(density, threshold):
    """The package pydpc, given the densities; for one map. Its maximum has the largest distance between two points."""
    import pydpc

    places = (density > threshold).nonzero().double().contiguous().numpy()
    order = density[density > threshold].argsort(descending=True).int().numpy()
    apart = pydpc.core.get_distances(places)
    distance = torch.zeros(density.shape, dtype=torch.float64)
    distance[density > threshold] = torch.from_numpy(pydpc.core.get_delta_and_neighbour(order, apart, apart.max())[0])
    return distance.float()


def tree_density_peaks(density, threshold):
    """A k-d tree asked for ever more neighbours until one is denser; for one map. Breaks ties as it likes."""
    from scipy.spatial import cKDTree

    height, width = density.shape
    places = (density > threshold).nonzero().numpy()
    values = density[density > threshold].numpy()
    distance = torch.zeros(density.shape)
    tree, pending, count = cKDTree(places), torch.arange(len(places)).numpy(), 9
    while len(pending):
        count = min(count, len(places))
        near, index = tree.query(places[pending], k=[*range(1, count + 1)])
        denser = values[index] > values[pending, None]
        found = denser.any(1)
        at = places[pending[found]]
        distance[at[:, 0], at[:, 1]] = torch.from_numpy(near[found, denser[found].argmax(1)]).float()
        pending = pending[~found]
        if count == len(places):
            break
        count *= 4
    for y, x in places[pending]:
        distance[y, x] = (height**2 + width**2) ** 0.5
    return distance
