"""Sphinx configuration: Markdown pages (MyST), the API from docstrings, the command line from click."""

from __future__ import annotations

import re
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from typing import Any

project = "quasar_rt"
copyright = "The quasar_rt authors, Apache-2.0"
release = version = installed_version("quasar-rt")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
# Notebooks are shown as they were run: `make notebooks`.
nb_execution_mode = "off"

html_theme = "furo"
html_title = f"quasar_rt {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]

napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
# PYNQ is on boards only, and the linters' environment has no [host] extra.
autodoc_mock_imports = [name for name in ("pynq", "timm", "torch", "torchvision") if find_spec(name) is None]
autodoc_type_aliases = {"ImageLike": "ImageLike"}
python_use_unqualified_type_names = True

# `Name` in a docstring is a link where the site has the name, and code where it has not.
default_role = "py:obj"

# The button copies commands without the prompt and without their output.
copybutton_prompt_text = r"\$ |# |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"


def resolve_by_name(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Links a name that is documented under another module than the one that defines it.

    The package re-exports most names, so `quasar_rt.subnet.Subnet`, `subnet.Subnet` and `Subnet` all mean the page's
    `quasar_rt.Subnet`. A name that several objects share is left alone.
    """
    if node.get("refdomain") != "py":
        return None
    wanted = node.get("reftarget", "").removeprefix("quasar_rt.").split(".")
    if len(wanted) == 1 and wanted[0].islower():
        return None  # most probably an argument
    objects = env.get_domain("py").objects
    for parts in [wanted] if len(wanted) < 2 else [wanted, wanted[1:]]:
        ending = "." + ".".join(parts)
        found = [name for name, entry in objects.items() if name.endswith(ending) and not entry.aliased]
        if len(found) == 1:
            entry = objects[found[0]]
            from sphinx.util.nodes import make_refnode

            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, found[0])
    return None


def keep_shapes_plain(app: Any, doctree: Any) -> None:
    """Keeps the names of axes in a described type, as in ``float64 [images, classes]``, from being links.

    Sphinx would search all modules for the last part of such a name. Types begin with a capital letter.
    """
    from sphinx.addnodes import pending_xref

    for node in doctree.findall(pending_xref):
        target = node.get("reftarget", "")
        if node.get("refspecific") and "." not in target and target.islower():
            del node["refspecific"]


def keep_options_plain(app: Any, ctx: Any, lines: list[str]) -> None:
    """Sets ``--option`` in the command line's help as code, whose hyphens stay as they are."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith(".."):
            lines[i] = re.sub(r"(?<![`\w-])(--[a-z][a-z-]*)", r"``\1``", line)


def mend_source_links(app: Any, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Lets a module's source lead back to all its names, and the list of modules to those that have a page.

    Sphinx takes the module under which the first of a module's names is documented for the module of all.
    """
    if not pagename.startswith("_modules/"):
        return
    objects = app.env.get_domain("py").objects

    def mended(link: re.Match[str]) -> str:
        found = [n for n, entry in objects.items() if n.endswith(f".{link[2]}") and not entry.aliased]
        return link[0] if link[1] + link[2] in objects or len(found) != 1 else f"#{found[0]}"

    body = re.sub(r"#((?:[a-z_]+\.)+)([A-Z]\w*(?:\.\w+)*)", mended, context["body"])
    for name in [name for name, entry in app.env._viewcode_modules.items() if not entry]:
        body = re.sub(rf'<li><a href="[^"]*">{re.escape(name)}</a></li>\n', "", body)
    context["body"] = body


def setup(app: Any) -> None:
    for part in ("description", "options", "epilog"):
        app.connect(f"sphinx-click-process-{part}", keep_options_plain)
    app.connect("doctree-read", keep_shapes_plain)
    app.connect("missing-reference", resolve_by_name)
    app.connect("html-page-context", mend_source_links)
