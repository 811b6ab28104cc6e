"""How the documentation site is built: ``sphinx-build --fail-on-warning --keep-going docs build/docs``.

Nothing is fetched, neither while building nor when the pages are read. Links between pages, and to their headings, are
checked: one that leads nowhere is a warning, and a warning is an error.
"""

from __future__ import annotations

project = "Lambda Search"
copyright = "The Lambda Search authors"
author = "The Lambda Search authors"
language = "en"

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["pictures", "_build"]
nitpicky = True  # a reference that leads nowhere is a warning

highlight_language = "text"  # of blocks that name none

myst_heading_anchors = 3
"""Headings down to this level can be linked to."""

html_theme = "furo"
html_title = "Lambda Search"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
