"""Layers built on :mod:`faceattr.ops`."""

from .locally_shared_conv2d import LazyLocallySharedConv2d, LocallySharedConv1d, LocallySharedConv2d

__all__ = ["LazyLocallySharedConv2d", "LocallySharedConv1d", "LocallySharedConv2d"]
