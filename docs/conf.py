"""Sphinx settings. Warnings are errors: see docs/BUILD."""

project = "Subquad"
author = "The Subquad authors"
copyright = "The Subquad authors. Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["BUILD", "tests"]
html_theme = "furo"
html_title = "Subquad"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
napoleon_use_ivar = True  # fields of named tuples are documented once
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
# jaxtyping's names live behind a lazy module; links to outside projects need a network, which a build has not.
nitpicky = False
