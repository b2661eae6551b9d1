"""Response maps measured by themselves, as weakly supervised localisation does: by the boxes that a threshold cuts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from faceattr.evaluation.boxes import overlaps, recall_curve
from faceattr.models.lnet import LNet

DELTAS = (0.3, 0.5, 0.7)
"""Overlaps that MaxBoxAccV2 averages over."""
THRESHOLDS = np.linspace(0, 1, 51)[1:]
"""At which maps, scaled to [0, 1], are cut."""
GRID_SIDE = 112
"""Longest side, in cells, of the grid on which maps are cut."""


def enlarge(response: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map [h, w] whose cells divide a picture of `size` (width, height) evenly, on a finer such grid, float32 [rows,
    columns], its longest side GRID_SIDE."""
    finer = F.interpolate(torch.from_numpy(response)[None, None].float(), _grid(size[::-1]), mode="bilinear")
    return finer[0, 0].numpy()


def _grid(sides: tuple[float, float]) -> tuple[int, int]:
    rows, columns = (max(1, round(GRID_SIDE * side / max(sides))) for side in sides)
    return rows, columns


def spread(response: Tensor, level: tuple[int, int], stride: int) -> np.ndarray:
    """What a net responds, [h, w], on the grid of :func:`enlarge` over the whole picture.

    level: height and width in pixels of the picture that the net saw; position i of the map is centred on its pixel
        ``stride`` * i.
    """
    height, width = level
    rows, columns = _grid(level)
    y = ((torch.arange(rows, dtype=torch.float32) + 0.5) * height / rows - 0.5) / stride
    x = ((torch.arange(columns, dtype=torch.float32) + 0.5) * width / columns - 0.5) / stride
    y, x = (2 * axis / max(1, length - 1) - 1 for axis, length in zip((y, x), response.shape, strict=True))
    grid = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), -1)
    out = F.grid_sample(response.float().cpu()[None, None], grid[None], padding_mode="border", align_corners=True)
    return out[0, 0].numpy()


@torch.inference_mode()
def baseline_maps(lnet: LNet, photo: Tensor, side: float) -> dict[str, np.ndarray]:
    """Other ways to read C5 on a photo [3, H, W], its longest side at `side` pixels, on the grid of :func:`enlarge`.

    "mean_c5": the plain average of its channels, as the paper has it. "cam": class activation maps, C5 weighted by the
    tags' classifiers, averaged over the tags.
    """
    scale = side / max(photo.shape[1:])
    level = tuple(max(1, round(length * scale)) for length in photo.shape[1:])
    image = F.interpolate(photo[None], size=level, mode="bilinear", antialias=True, align_corners=False)
    c5 = lnet.trunk(image)
    weight = lnet.head.weight[: len(lnet.config["tags"])].mean(0, keepdim=True)
    return {
        "mean_c5": spread(c5[0].mean(0), level, lnet.trunk.stride),
        "cam": spread(F.conv2d(c5, weight)[0, 0], level, lnet.trunk.stride),
    }


def cut(score_map: np.ndarray, threshold: float, size: tuple[float, float]) -> np.ndarray:
    """Boxes [n, 4] round the connected regions of a map [h, w] that reach the threshold, in pixels of a picture of
    `size` (width, height)."""
    labels, _ = ndimage.label(score_map >= threshold, structure=np.ones((3, 3)))
    boxes = [[x.start, y.start, x.stop, y.stop] for y, x in ndimage.find_objects(labels)]
    return np.array(boxes, dtype=float).reshape(-1, 4) * np.tile(np.array(size) / score_map.shape[::-1], 2)


def overlaps_by_threshold(
    maps: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    sizes: Sequence[tuple[float, float]],
    thresholds: np.ndarray = THRESHOLDS,
) -> np.ndarray:
    """Best overlap [T, n] of each of the n target boxes of all photos with the boxes cut at each of T thresholds.

    maps: [h, w] a photo, scaled to [0, 1] within it. targets: [k, 4] a photo. sizes: width and height a photo.
    """
    best = [[] for _ in thresholds]
    for score_map, boxes, size in zip(maps, targets, sizes, strict=True):
        scaled = _scaled(score_map)
        for row, threshold in zip(best, thresholds, strict=True):
            found = cut(scaled, threshold, size)
            row.append(overlaps(boxes, found).max(1) if len(found) and len(boxes) else np.zeros(len(boxes)))
    return np.array([np.concatenate(row) for row in best])


def boxes_at(maps: Sequence[np.ndarray], threshold: float, sizes: Sequence[tuple[float, float]]) -> list[np.ndarray]:
    """The boxes of each map, as :func:`overlaps_by_threshold` cuts them at one threshold for all photos."""
    return [cut(_scaled(score_map), threshold, size) for score_map, size in zip(maps, sizes, strict=True)]


def _scaled(score_map: np.ndarray) -> np.ndarray:
    low, high = score_map.min(), score_map.max()
    return (score_map - low) / (high - low) if high > low else np.zeros_like(score_map)


def max_box_acc_v2(best: np.ndarray) -> float:
    """MaxBoxAccV2 of overlaps [T, n]: for each overlap of DELTAS the share of targets found at the threshold that suits
    it best, one threshold for all photos; averaged over DELTAS. NaN without a target."""
    return float(np.mean(np.max([recall_curve(row, DELTAS) for row in best], axis=0)))
