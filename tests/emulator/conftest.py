"""The emulator needs a C++20 compiler and nothing of CUDA."""

import os
import shutil

import pytest

from . import cases


@pytest.fixture(scope="session")
def executable(tmp_path_factory):
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler")
    return cases.build(tmp_path_factory.mktemp("emulator"))
