"""The site of ``make docs``: README, the pages of docs/ and the API from the docstrings. Read by Sphinx.

Sources are relative to the repository's root, so that a link that works on a repository's page works here, too: to a
page as a link, to any other file (config/, examples/, …) as a download. Sphinx runs with ``-W``: a link to nothing, a
page in no group of the sidebar and a reference in a docstring to something that does not exist fail the build.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.inspect import stringify_signature
from sphinx.util.nodes import make_refnode

import endomatch_ros

project = "endomatch_ros"
author = copyright = "endomatch_ros maintainers"
release = version = endomatch_ros.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib.mermaid"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "docs/api/*.rst"]
exclude_patterns = [".*", "build", "install", "log", "runs", "site"]

CONTENTS = {
    "Use": ["tutorial", "install", "node", "parameters", "visualization", "troubleshooting"],
    "Consume": ["consuming/subscribers", "consuming/messages", "consuming/tracks"],
    "Train": ["training", "depth", "gvsl", "model_card"],
    "Measure": ["evaluation/protocol", "evaluation/results", "performance"],
    "Understand": ["architecture", "geometry", "verification", "/CONTRIBUTING", "/CHANGELOG"],
    "API": ["api/matching", "api/models", "api/geometry", "api/data", "api/evaluation", "api/ros"],
}
"""The sidebar: pages relative to docs/ by group."""

myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3  # as on a repository's page: #the-words-of-the-heading

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # written_signature has them
napoleon_attr_annotations = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
nitpicky = True
mermaid_init_config = {"startOnLoad": False, "deterministicIds": True}
mermaid_height = "auto"
mermaid_fullscreen = False

html_theme = "furo"
html_title = "endomatch_ros"
html_extra_path = ["index.html"]  # sends visitors to README.html
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = html_show_sphinx = html_show_copyright = False


def add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the sidebar's groups behind the front page; in README.md itself they would be noise."""
    if docname == root_doc:
        for caption, pages in CONTENTS.items():
            tree = "\n".join(page if page.startswith("/") else f"/docs/{page}" for page in pages)
            source[0] += f"\n:::{{toctree}}\n:hidden:\n:caption: {caption}\n\n{tree}\n:::\n"


def written_signature(app: Sphinx, what: str, name: str, obj: Any, *rest: Any) -> tuple[str, str] | None:
    """Annotations as the source has them: evaluated, ``ArrayLike`` alone takes ten lines."""
    if what not in ("class", "function", "method"):
        return None
    try:
        signature = inspect.signature(obj)
    except (TypeError, ValueError):
        return None
    parameters = list(signature.parameters.values())
    if what == "method" and parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    shown = stringify_signature(signature.replace(parameters=parameters))
    arguments, arrow, result = shown.rpartition(" -> ")
    return (arguments, "" if what == "class" else result) if arrow else (shown, "")


class InlineDocs:
    """Keeps the text of documented attributes from napoleon, which takes what stands before a colon for a type."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def before(self, app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        """Called ahead of napoleon."""
        if what in ("attribute", "data"):
            self._lines[name] = list(lines)

    def after(self, app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        """Called after it."""
        lines[:] = self._lines.pop(name, lines)


def candidates(node: pending_xref) -> Iterator[str]:
    """The dotted names that a reference may mean, the nearest first."""
    target, module = node["reftarget"], node.get("py:module") or "endomatch_ros"
    if node.get("py:class"):
        yield f"{module}.{node['py:class']}.{target}"
    while module:
        yield f"{module}.{target}"
        module = module.rpartition(".")[0]
    yield from (target, f"builtins.{target}")
    # A docstring that is shown under another module's name than its own.
    yield from (f"{name}.{target}" for name in sorted(sys.modules) if name.startswith("endomatch_ros."))


def find(name: str) -> tuple[Any, str] | None:
    """What a dotted name stands for, and its last part; None if there is no such thing."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
            for part in parts[count:]:
                # A field of a dataclass without a default exists in its annotations alone.
                found = getattr(found, part, None) or getattr(found, "__annotations__", {})[part]
        except (ImportError, KeyError):
            continue
        return found, parts[-1]
    return None


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Element | None:
    """References of docstrings: a link to what is documented, plain code for what only exists, else None (an error).

    Annotations are mypy's business: what is not documented stays text.
    """
    if node["refdomain"] != "py":
        return None
    found = next(filter(None, map(find, candidates(node))), None)
    if found is None:
        return None if "refwarn" in node else content
    for name, entry in env.domains["py"].data["objects"].items():
        if name.rpartition(".")[2] == found[1] and (known := find(name)) and known[0] is found[0]:
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content)
    return content


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-signature", written_signature)
    inline = InlineDocs()
    app.connect("autodoc-process-docstring", inline.before, priority=100)
    app.connect("autodoc-process-docstring", inline.after, priority=900)
    app.connect("missing-reference", resolve)
