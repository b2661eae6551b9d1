"""Age in years read off the probabilities that somebody is at least so old."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LIMITS = (3, 10, 20, 30, 40, 50, 60, 70)
"""Years for which the probability of being at least so old is estimated."""
OLDEST = 100
"""Years that nobody is taken to reach."""


@dataclass(frozen=True)
class Age:
    """How old somebody looks, in years: as likely younger as older than `years`, in four of five cases from `low` to
    `high`."""

    years: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.years:.0f} ({self.low:.0f} to {self.high:.0f})"

    def to_dict(self) -> dict:
        """As JSON takes it."""
        return {"years": round(self.years, 1), "low": round(self.low, 1), "high": round(self.high, 1)}


def age_at(probabilities: np.ndarray, share: float) -> np.ndarray:
    """The age [N] that each of N people is younger than with probability ``share``.

    probabilities: [N, T] of being at least LIMITS old. They fall from 1 at birth to 0 at OLDEST, in straight lines from
    limit to limit; where they rise, the lowest so far counts.
    """
    falling = np.minimum.accumulate(np.clip(probabilities, 0, 1), axis=1)
    # A little slope everywhere, so that no age is ambiguous.
    limits = np.array([0, *LIMITS, OLDEST], dtype=np.float64)
    values = np.pad(falling, ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0))) - 1e-9 * limits
    return np.array([np.interp(share - 1, -row, limits) for row in values])


def read_ages(probabilities: np.ndarray, tail: float) -> list[Age]:
    """Ages of N people of whom the probabilities [N, T] of being at least LIMITS old are known; ``tail`` is the share
    of the distribution left out of the interval at each end."""
    columns = (age_at(probabilities, share) for share in (0.5, tail, 1 - tail))
    return [Age(*map(float, row)) for row in zip(*columns, strict=True)]
