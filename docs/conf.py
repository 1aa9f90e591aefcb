"""Sphinx configuration: Markdown pages (MyST) and the API reference from docstrings."""

from importlib.metadata import version as installed_version

project = "quasar_rt"
copyright = "The quasar_rt authors, Apache-2.0"
release = version = installed_version("quasar-rt")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = f"quasar_rt {release}"

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
