"""How the documentation site is built.

    python -m sphinx -W --keep-going -n -b html docs build/site

The pages are Markdown that reads well on a code host, too.  What they need to become a site stands here:
links that lead out of ``docs/``, and names in docstrings, which are written as code has them after an import.
"""

from __future__ import annotations

import os
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "Pools"
author = project_copyright = "The Pools authors"
version = release = installed_version("pools-core")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [
    # Other people's documentation is not at hand while this is built, and their names need no link.
    ("py:.*", r"(collections|concurrent|contextlib|multiprocessing|os|pathlib|random|tqdm|typing)\..*"),
    ("py:class", "(Path|Future|Executor|EntryPoint)"),
    # What a function is generic over.
    ("py:class", r"(pools_\w+\.[\w.]+\.)?[PRST](\.(args|kwargs))?"),
]

myst_heading_anchors = 3  # links to headings are checked, down to this level

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_use_ivar = True  # else the attributes of a dataclass would be described twice
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

copybutton_prompt_text = "$ "  # commands are copied without their prompt, and what they print is not

html_theme = "furo"
html_title = f"Pools {release}"
html_static_path: list[str] = []
html_copy_source = False


class LinksOutOfTheSite(SphinxTransform):
    """Makes a link to a Markdown file outside ``docs/`` a download, as other files are of themselves."""

    default_priority = 200

    def apply(self, **kwargs: Any) -> None:
        """Change the links of one page."""
        for link in list(self.document.findall(addnodes.pending_xref)):
            target = Path(f"{link.get('reftarget', '')}.md")
            if link.get("refdomain") == "doc" and target.is_absolute() and target.is_file():
                path = os.path.relpath(target, self.env.doc2path(self.env.docname).parent)
                download = addnodes.download_reference(reftarget=path, refdoc=self.env.docname)
                download += link.children
                link.replace_self(download)


def resolve_short_name(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Find what a docstring calls by its short name; None if nothing or more than one thing is called so."""
    short = node.get("reftarget", "")
    if node.get("refdomain") != "py" or "." in short:
        return None
    objects = env.domains.python_domain.objects.items()
    found = [(name, one) for name, one in objects if name.rpartition(".")[2] == short and not one.aliased]
    if len(found) != 1:
        return None
    ((name, one),) = found
    return make_refnode(app.builder, node["refdoc"], one.docname, one.node_id, contnode, name)


def prepare_docstring(
    _app: Sphinx, what: str, _name: str, _obj: object, _options: object, lines: list[str]
) -> None:
    """Change what napoleon, which comes next, would get wrong."""
    if what == "module":
        lines.clear()  # it draws the inside, for those who read the code
    elif what in ("attribute", "data", "property"):
        lines.insert(0, "\\")  # shows as nothing; else what stands before a colon would be taken for a type


def is_left_out(
    _app: Sphinx, _what: str, _name: str, obj: object, _skip: bool, _options: object
) -> bool | None:
    """Leave out the fields of named tuples: their class describes them, and better."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> None:
    """Connect the above."""
    app.add_transform(LinksOutOfTheSite)
    app.connect("missing-reference", resolve_short_name)
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)
    app.connect("autodoc-skip-member", is_left_out)
