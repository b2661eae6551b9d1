"""Operators that no one else ships: locally shared convolution, the interweaved operation, density peaks.

Needs torch alone; nothing of the face part is imported.
"""

from . import _decompositions, _flops  # noqa: F401, tells torch what the operators are made of, and cost
from .density_peaks import Peaks, assign_peaks, density_peaks, find_peaks
from .interweave import interweave
from .interweaved_conv2d import interweaved_conv2d
from .locally_shared_conv2d import channels_last_filters, locally_shared_conv2d

__all__ = [
    "Peaks",
    "assign_peaks",
    "channels_last_filters",
    "density_peaks",
    "find_peaks",
    "interweave",
    "interweaved_conv2d",
    "locally_shared_conv2d",
]
