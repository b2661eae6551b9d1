"""The examples in docs/ say what happens, its figures are those of the script, and its site builds."""

import doctest
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="runs in the source folder")
PAGES = sorted(page.name for page in DOCS.glob("*.md") if ">>> " in page.read_text())


@pytest.mark.parametrize("name", PAGES)
def test_examples(name):
    failed, tried = doctest.testfile(str(DOCS / name), module_relative=False)
    assert tried > 0 and failed == 0


def test_every_operator_has_examples():
    assert {"locally_shared_conv2d.md", "interweaved_conv2d.md", "density_peaks.md", "from_others.md"} <= set(PAGES)


def test_figures():
    for name, draw in runpy.run_path(str(DOCS / "draw.py"))["FIGURES"].items():
        assert (DOCS / name).read_text() == draw(), f"{name} is out of date: python docs/draw.py"


def test_site(tmp_path):
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package, reason='the site needs pip install "faceattr[docs]"')
    arguments = ["-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path / "site")]
    # Not from the sources, where the package is not built.
    built = subprocess.run([sys.executable, "-m", "sphinx", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    api = (tmp_path / "site" / "api.html").read_text()
    assert "locally_shared_conv2d" in api and "TypeError" in api
