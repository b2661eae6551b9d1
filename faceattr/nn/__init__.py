"""Layers built on :mod:`faceattr.ops`."""

from .locally_shared_conv2d import LocallySharedConv2d

__all__ = ["LocallySharedConv2d"]
