"""Annotations: complete on what users call, and told to type checkers."""

import inspect
from importlib import resources

import pytest
from torch import nn

import faceattr.nn
from faceattr import ops


def public_callables():
    for module in (ops, faceattr.nn):
        for name in module.__all__:
            value = getattr(module, name)
            if not isinstance(value, type):
                yield name, value
            elif issubclass(value, nn.Module):
                methods = {
                    key: method
                    for base in value.__mro__
                    for key, method in vars(base).items()
                    if base.__module__.startswith("faceattr")
                }
                yield from (
                    (f"{name}.{key}", getattr(method, "__func__", method))
                    for key, method in methods.items()
                    if inspect.isroutine(getattr(method, "__func__", method))
                    and (key == "__init__" or not key.startswith("_"))
                )


@pytest.mark.parametrize("name, function", list(public_callables()))
def test_every_argument_and_result_is_annotated(name, function):
    signature = inspect.signature(function)
    bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name not in ("self", "cls")]
    assert not bare
    assert name.endswith("__init__") or signature.return_annotation is not signature.empty


def test_type_checkers_are_told():
    assert (resources.files("faceattr") / "py.typed").is_file()
