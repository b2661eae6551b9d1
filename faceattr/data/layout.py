"""Where faces lie in training pictures, and the image-level tags that follow. No net sees more than the tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FACE_CENTRE = (0.5, 0.54)
"""Centre of the face in an aligned CelebA picture, as parts of its width and height."""
FACE_HEIGHT = 140 / 218
"""Height of the face, crown to chin, as a part of the height of an aligned CelebA picture."""
FACE_ASPECT = 1.38
"""Height of the face's frame over its width."""


@dataclass(frozen=True)
class Layout:
    """The faces of N pictures, F of each at most."""

    heights: np.ndarray
    """[N, F], crown to chin, in pixels; 0: no face."""
    centres: np.ndarray
    """[N, F, 2] (columns, rows)."""
    sure: np.ndarray
    """bool [N, F]; the others may or may not be faces."""
    visible: np.ndarray
    """[N, F]: the part of each face's frame that is there."""
    complete: np.ndarray
    """bool [N]; where not, faces may be there of which nothing is said."""

    def of(self, rows: np.ndarray) -> Layout:
        """The faces of some pictures, each as often as it is named."""
        return Layout(self.heights[rows], self.centres[rows], self.sure[rows], self.visible[rows], self.complete[rows])

    @staticmethod
    def joined(parts: Sequence[Layout]) -> Layout:
        """The faces of several lots of pictures, one lot after the other."""
        most = max(part.heights.shape[1] for part in parts)

        def column(name: str) -> np.ndarray:
            values = [getattr(part, name) for part in parts]
            missing = [[(0, 0), (0, most - each.shape[1])] + [(0, 0)] * (each.ndim - 2) for each in values]
            return np.concatenate([np.pad(each, pad) for each, pad in zip(values, missing, strict=True)])

        complete = np.concatenate([part.complete for part in parts])
        return Layout(*(column(name) for name in ("heights", "centres", "sure", "visible")), complete)


def inside(centres: np.ndarray, heights: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """The part of each face's frame that lies between the corners `low` and `high` [..., 2] of what is shown.

    centres [..., 2] (columns, rows) and heights [...] of the faces, in pixels.
    """
    half = np.stack([heights / FACE_ASPECT / 2, heights / 2], -1)
    visible = np.minimum(centres + half, high) - np.maximum(centres - half, low)
    return np.prod(np.clip(visible, 0, None) / np.maximum(2 * half, 1e-6), -1)


def size_tags(layout: Layout, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tags and knowledge [N, K] of K size classes.

    Size class k is meant for faces nearer to sizes[k] than to its neighbours. Between two classes, and for faces cut by
    the border or not sure, there is no telling; such a face makes a tag unknown unless another makes it true. Where the
    faces are not complete, no tag is known not to hold.
    """
    step = np.log(sizes[1] / sizes[0])
    distance = np.abs(np.log(np.maximum(layout.heights, 1e-6))[..., None] - np.log(sizes)) / step
    present, sure, shown = layout.heights[..., None] > 0, layout.sure[..., None], layout.visible[..., None]
    true = present & sure & (distance <= 0.55) & (shown >= 0.8)
    # What is not sure is not sure in its size either.
    unsure = present & np.where(sure, (distance <= 0.9) & (shown >= 0.4), (distance <= 2) & (shown >= 0.1))
    tags = true.any(1)
    return tags, tags | (layout.complete[:, None] & ~unsure.any(1))
