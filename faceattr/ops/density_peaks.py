"""Density peaks: each position's distance to the nearest position of higher density (eq. 3)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import check, check_floating
from ._library import call, integer, overridable, register_constant

_density_peaks = torch.ops.faceattr.density_peaks.default


@overridable
def density_peaks(density: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
    r"""For each foreground position the nearest position of strictly higher density.

    A position is foreground when its density is > threshold (NaN never is). Exact for every input: plateaus,
    constants, noise, infinities. Source: "Deep Learning Face Attributes in the Wild", eq. 3 (sigma_i), after
    Rodriguez and Laio, Science 344 (2014).

    Args:
        density: [..., H, W]; float64, float32, float16 or bfloat16; any strides.
        threshold: least density of the foreground, exclusive.

    Returns:
        distance [..., H, W]: Euclidean, in positions; sqrt(H^2 + W^2) where no position is higher (the maxima), 0 in
            the background; float32 (float64 for float64).
        parent [..., H, W]: flat index in the map of that nearest higher position, of equally near ones the smallest;
            -1 for maxima and background; int64.

    Raises:
        RuntimeError: a density with fewer than two dimensions or not of a floating dtype.

    Both results are constants to autograd, as those of :func:`torch.argmax`: they change by steps or not at all.
    """
    return call(_density_peaks, density, threshold)


class Peaks(NamedTuple):
    """Peaks of a batch of maps in falling score, ties by index, padded to K = max_peaks.

    index: flat index in the map, -1 where there is no further peak; [..., K], int64.
    score: eq. 3 with both terms scaled to 1, 0 in the padding; [..., K]. Differentiable in the density.
    parent: of :func:`density_peaks`, for :func:`assign_peaks`; [..., H, W], int64.
    """

    index: Tensor  # type: ignore[assignment]  # a tuple's method of that name makes way
    score: Tensor
    parent: Tensor


def find_peaks(
    density: Tensor,
    threshold: float = 0.0,
    max_peaks: int = 16,
    min_score: float = 0.1,
    min_distance: float = 0.0,
) -> Peaks:
    r"""The positions that are both dense and far from anything denser::

        score_i = sqrt((density_i / max density)^2 + (distance_i / sqrt(H^2 + W^2))^2) / sqrt(2)

    which is eq. 3 of "Deep Learning Face Attributes in the Wild" with both terms scaled to 1. A negative density
    counts as 0 in the score, in a map whose maximum is +inf every finite one does.

    Args:
        density: [..., H, W], as for :func:`density_peaks`.
        threshold: least density of the foreground, exclusive.
        max_peaks: how many peaks a map may have, K.
        min_score: positions with a lower score are no peaks.
        min_distance: positions nearer than this to a denser one are no peaks; by eq. 3 alone the slopes of a high peak
            outscore a low one, and 1.5 leaves them out.

    Returns:
        :class:`Peaks`.

    Raises:
        TypeError, ValueError: max_peaks that is no int, or below 1.
        RuntimeError: as :func:`density_peaks`.
    """
    max_peaks = integer(max_peaks, "find_peaks", "max_peaks")
    if max_peaks < 1:
        raise ValueError(f"find_peaks: max_peaks is {max_peaks}, it must be at least 1")
    distance, parent = density_peaks(density, threshold)
    height, width = density.shape[-2:]
    diagonal = torch.sym_sqrt(height * height + width * width)
    values = density.to(distance.dtype).flatten(-2)
    distance = distance.flatten(-2)
    foreground = distance > 0
    values = values.masked_fill(~foreground, 0).clamp_min(0)
    if values.shape[-1] == 0:
        top = values.new_zeros(*values.shape[:-1], 1)
    else:
        top = values.amax(-1, keepdim=True)
    # Where the quotient or the root has no derivative, a number that has one stands in, and is not chosen.
    regular = (top > 0) & top.isfinite()
    quotient = values.masked_fill(values.isinf(), 0) / top.masked_fill(~regular, 1)
    relative = torch.where(values == top, (top > 0).to(values.dtype), quotient.where(regular, 0))
    score = torch.hypot(relative, (distance / diagonal).masked_fill(~foreground, 1)) / math.sqrt(2)
    score = score.masked_fill(~(foreground & (score >= min_score) & (distance >= min_distance)), 0)
    score, index = torch.sort(score, dim=-1, descending=True, stable=True)
    count = min(max_peaks, score.shape[-1])
    score = torch.nn.functional.pad(score[..., :count], (0, max_peaks - count))
    index = torch.nn.functional.pad(index[..., :count], (0, max_peaks - count))
    return Peaks(index.masked_fill(score == 0, -1), score, parent)


def assign_peaks(parent: Tensor, peaks: Peaks) -> Tensor:
    r"""The peak of each foreground position: the first peak met on the way along the parents.

    A position whose way meets no peak belongs to the peak of its root. Where that root is no peak either (it was
    crowded out by max_peaks) it belongs to none.

    Args:
        parent: [..., H, W], int64, from :func:`density_peaks` (also ``peaks.parent``).
        peaks: :class:`Peaks` of the same maps.

    Returns:
        [..., H, W], int64: position of the peak in ``peaks.index``'s last dimension, -1 for none and background.

    Raises:
        RuntimeError: a parent that is not int64, or peaks of other maps.
    """
    # Not by _checks: torch.compile reads these lines.
    if parent.dtype != torch.int64:
        raise RuntimeError(f"assign_peaks: parent is {parent.dtype}, it must be int64")
    if peaks.index.shape[:-1] != parent.shape[:-2]:
        maps, others = list(peaks.index.shape[:-1]), list(parent.shape[:-2])
        raise RuntimeError(f"assign_peaks: peaks are of maps {maps}, parent of {others}")
    target = parent.flatten(-2)
    positions = target.shape[-1]
    place = torch.where(peaks.index < 0, positions, peaks.index)  # padding goes to an extra position, cut off below
    peak = target.new_full((*target.shape[:-1], positions + 1), -1)
    slots = torch.arange(peaks.index.shape[-1], device=parent.device).expand_as(place)
    peak = peak.scatter(-1, place, slots)[..., :positions]
    own = torch.arange(positions, device=parent.device)
    target = torch.where((target < 0) | (peak >= 0), own, target)
    # Each round doubles how far along the parents a position sees. A program for any size has those of the largest.
    for _ in range(32 if torch.compiler.is_compiling() else positions.bit_length()):
        target = target.gather(-1, target)
    return peak.gather(-1, target).unflatten(-1, parent.shape[-2:])


@torch.library.register_fake("faceattr::density_peaks")
def _(density, threshold):
    op = "density_peaks"
    check(density.dim() >= 2, op, ": density has shape ", list(density.shape), ", it must be [..., H, W]")
    check_floating(density, op)
    dtype = torch.float64 if density.dtype == torch.float64 else torch.float32
    shape = density.shape
    return density.new_empty(shape, dtype=dtype), density.new_empty(shape, dtype=torch.int64)


@torch.library.register_vmap(_density_peaks)
def _(info, in_dims, density, threshold):
    # Any leading dimensions will do, but a map must not be one of them.
    check(density.dim() >= 3, "density_peaks: density has ", density.dim() - 1, " dimensions, it must be [..., H, W]")
    return _density_peaks(density.movedim(in_dims[0], 0), threshold), (0, 0)


register_constant("density_peaks")
