"""The site: make docs, or sphinx-build -W docs build/docs."""

import faceattr

project = "faceattr"
version = release = faceattr.__version__
copyright = "the faceattr authors, Apache License 2.0"
html_title = "faceattr"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
nitpicky = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 2

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
