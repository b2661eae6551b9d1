"""What only a user with permissions to lack can see: tests mostly run as root inside containers."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

NOBODY = 65534


@contextlib.contextmanager
def unprivileged():
    """Inside, permissions count. Files have to be where anyone may look: see `open_folder`."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder():
    """A temporary folder that any user may enter and write to."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o777)
    shutil.rmtree(folder)
