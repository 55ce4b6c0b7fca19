"""How Sphinx builds the documentation: `make docs` runs it over this folder."""

import sys
from pathlib import Path

import pyconc

sys.path.append(str(Path(__file__).parent / "extensions"))

project = "pyconc"
author = "pyconc developers"
copyright = author
version = release = pyconc.__version__

extensions = ["sphinx.ext.autodoc", "myst_parser", "docstrings", "essays"]
exclude_patterns = ["extensions"]

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
autodoc_typehints = "none"  # the stubs beside the modules have them
autodoc_mock_imports = ["distributed"]  # which only pyconc.cluster needs
autodoc_member_order = "alphabetical"
autodoc_default_options = {"members": True}
python_display_short_literal_types = True

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["width.css", "chart.css"]
html_title = f"pyconc {version}"
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
