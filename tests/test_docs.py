"""The examples in docs/ say what happens."""

import doctest
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.skipif(not DOCS.is_dir(), reason="runs in the source folder")
@pytest.mark.parametrize("name", ["operators.md"])
def test_examples(name):
    failed, tried = doctest.testfile(str(DOCS / name), module_relative=False)
    assert tried > 0 and failed == 0
