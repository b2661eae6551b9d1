"""The map that puts the localiser's frames right, learnt from aligned pictures that are displaced by known amounts."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from faceattr.models.frame import FrameCorrection

STRENGTH = 0.25
"""Of ridge regression on standardised responses, for each crop."""
TOGETHER = 40
"""Batches whose products are taken at once."""
KEPT = 5
"""One batch in so many measures and is not learnt from."""


def fit_frame(batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[FrameCorrection, list[float]]:
    """The correction by ANet's responses [N, R], given in batches with what is true of them [N, 3].

    No face is in two batches; float16 saves memory. Returns it, and what share of the variance of each of the three it
    explains in the batches that are kept for that.

    Raises:
        ValueError: there are fewer than KEPT batches, or responses that are not finite.
    """
    learnt, kept = [], []
    for number, batch in enumerate(batches):
        (kept if number % KEPT == KEPT - 1 else learnt).append(batch)
    if not kept:
        raise ValueError(f"fit_frame: one batch in {KEPT} is kept to measure on, and there are too few for that")
    count, size = sum(len(truth) for _, truth in learnt), learnt[0][0].shape[1]
    products, truths = np.zeros((size, size + 4)), np.zeros(3)
    # From near the mean, so that small differences of large responses are not lost.
    origin = learnt[0][0].float().mean(0)
    # Of few rows float32 is exact enough, of their sum it is not.
    for start in range(0, len(learnt), TOGETHER):
        responses, truth = (torch.cat(part).float() for part in zip(*learnt[start : start + TOGETHER], strict=True))
        responses = responses - origin
        products += (responses.T @ torch.cat([responses, truth, torch.ones(len(truth), 1)], 1)).numpy()
        truths += truth.double().sum(0).numpy()
    mean, true_mean = products[:, -1] / count, truths / count
    covariance = products[:, :size] / count - np.outer(mean, mean)
    shared = products[:, size:-1] / count - np.outer(mean, true_mean)
    deviation = np.sqrt(covariance.diagonal().clip(0)) + 1e-3
    standardised = covariance / np.outer(deviation, deviation)
    standardised.flat[:: size + 1] += STRENGTH
    weight = np.linalg.solve(standardised, shared / deviation[:, None]) / deviation[:, None]
    correction = FrameCorrection(size).requires_grad_(False)
    correction.weight.copy_(torch.from_numpy(weight.T))
    correction.bias.copy_(torch.from_numpy(true_mean - (mean + origin.double().numpy()) @ weight))
    if not (correction.weight.isfinite().all() and correction.bias.isfinite().all()):
        raise ValueError("fit_frame: ANet responds with values that are not finite, from which nothing can be learnt")
    truth = torch.cat([truth for _, truth in kept])
    left = truth - torch.cat(
        [torch.nn.functional.linear(x.float(), correction.weight, correction.bias) for x, _ in kept]
    )
    return correction.eval(), (1 - left.var(0) / truth.var(0)).tolist()
