"""Builds one of setup.py's extensions in place: several of these at once build them side by side.

python benchmarks/gpu/build.py faceattr._C_cuda
"""

import runpy
import sys
import tempfile

import setuptools

wanted, setup = sys.argv[1], setuptools.setup


def setup_of_one(ext_modules, **options):
    chosen = [extension for extension in ext_modules if extension.name == wanted]
    setup(ext_modules=chosen, **options)


setuptools.setup = setup_of_one
with tempfile.TemporaryDirectory() as temporary:  # of its own: each writes a build.ninja
    sys.argv = ["setup.py", "-q", "build_ext", "--inplace", "--build-temp", temporary]
    runpy.run_path("setup.py", run_name="__main__")
