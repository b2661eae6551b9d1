"""Ages as people write them, in years or groups, and the tags that follow from them."""

from __future__ import annotations

import re

import numpy as np

from faceattr.ages import LIMITS

AGE_TAGS = tuple(f"Age_{limit}" for limit in LIMITS)
"""The tag Age_T says that somebody is at least T years old."""
ELDEST = 120
CHILD, SENIOR = 13, 65
"""A Child is younger, a Senior as old or older, in years."""
YOUNG, OLD = 30, 60
"""Who is younger is Young for everybody, who is as old or older for nobody; between them nothing is said."""


def parse_age(text: str) -> tuple[float, float]:
    """The range of years [low, high) that an age stands for: "34", "20-29", "70+", "more than 70" or "" (unknown: NaN).

    Raises ValueError for anything else.
    """
    text = text.strip().lower()
    if not text:
        return np.nan, np.nan
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)", text):
        low = float(match[1])
        high = np.floor(low) + 1
    elif match := re.fullmatch(r"(\d+)\s*(?:-|–|to)\s*(\d+)", text):
        low, high = float(match[1]), float(match[2]) + 1
    elif match := re.fullmatch(r"(?:more than|over)\s*(\d+)|(\d+)\s*\+", text):
        low, high = float(match[1] or match[2]), float(ELDEST)
    else:
        raise ValueError(f"age {text!r}, expected years (34), a group (20-29, 70+) or nothing")
    if not 0 <= low < high <= ELDEST:
        raise ValueError(f"age {text!r}, expected years from 0 to {ELDEST - 1}")
    return low, high


def at_least(ages: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Whether people of ages [N, 2] (low, high) are at least ``limit`` years old, and whether that is known, [N]."""
    low, high = ages.T
    with np.errstate(invalid="ignore"):
        old, young = low >= limit, high <= limit
    return old, old | young


def age_tags(ages: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tags and knowledge [N] of AGE_TAGS, Child, Senior and, where age leaves no doubt, Young, of ages [N, 2]."""
    found = {name: at_least(ages, limit) for name, limit in zip(AGE_TAGS, LIMITS, strict=True)}
    old, known = at_least(ages, CHILD)
    found["Child"] = known & ~old, known
    found["Senior"] = at_least(ages, SENIOR)
    _, high = ages.T
    with np.errstate(invalid="ignore"):
        young = high <= YOUNG
    found["Young"] = young, young | at_least(ages, OLD)[0]
    return found
