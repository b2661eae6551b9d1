"""FaceTracer after Kumar et al. (2008): gradient and colour histograms of a face's parts, one SVM an attribute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from skimage.color import rgb2gray, rgb2hsv
from skimage.feature import hog

from faceattr.evaluation.parts import PARTS, cut_part
from faceattr.train.svm import fit_svm

SIDE = 48
"""Pixels a side of a part."""
BINS = 8
"""Of the histogram of each colour channel."""


class FaceTracer:
    """fit() and probabilities() take what describe() makes of placed pictures, stacked."""

    def describe(self, placed: np.ndarray) -> np.ndarray:
        """Features [F], float32, of a picture [218, 178, 3] uint8 with the face where aligned pictures have it."""
        features = []
        for part in PARTS:
            pixels = cut_part(placed, part, SIDE)
            features.append(hog(rgb2gray(pixels), 9, (SIDE // 4, SIDE // 4), (2, 2), block_norm="L2-Hys"))
            channels = rgb2hsv(pixels).reshape(-1, 3).T
            features += [np.histogram(channel, BINS, (0, 1))[0] / SIDE**2 for channel in channels]
        return np.concatenate(features).astype(np.float32)

    def fit(
        self, features: np.ndarray, tags: np.ndarray, identities: np.ndarray, names: Sequence[str] | None = None
    ) -> None:
        """Features [N, F], tags [N, A] bool, identities [N]; thresholds, by goal, are in `thresholds` afterwards.

        names: of the attributes, for the error that tells which of them is the same for all.
        """
        strengths = (1e-4, 1e-3)
        self.svm, self.thresholds, _, _ = fit_svm(features, tags, identities, strengths, folds=3, names=names)

    @torch.inference_mode()
    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """[N, A], calibrated."""
        return self.svm(torch.from_numpy(features)).numpy()
