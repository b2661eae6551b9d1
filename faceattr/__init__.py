"""Faces and their attributes from any photo, and the operators that this takes: `faceattr.ops`, `faceattr.nn`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faceattr.pipeline import Face, FaceAttributes, load

__version__ = "0.1.0"
__all__ = ["Face", "FaceAttributes", "load"]


def __getattr__(name: str) -> Any:
    # On first use: `import faceattr.ops` must not pay for the pipeline.
    if name in __all__:
        return getattr(importlib.import_module("faceattr.pipeline"), name)
    raise AttributeError(f"module 'faceattr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
