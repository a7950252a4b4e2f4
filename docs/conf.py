"""Settings of the site that ``make docs`` builds: Sphinx with MyST, in furo's theme.

Sphinx, because docstrings have its roles and pages link to files outside of this folder: it checks both.
"""

import pathlib
import re

from sphinx.application import Sphinx

project = "tip_kernels"
author = "tip_kernels maintainers"
html_title = "tip_kernels"
html_theme = "furo"
html_show_copyright = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
toc_object_entries_show_parents = "hide"

nitpicky = True  # roles in docstrings that lead nowhere are errors
nitpick_ignore_regex = [("py:.*", r"torch\..*")]
autodoc_mock_imports = ["flwr", "lightning", "nvflare"]
autodoc_typehints = "none"

OUTSIDE = re.compile(r"\[([^\]\n]+)\]\((\.\./[\w./-]+\.md)(?:#[\w-]+)?\)")
"""A link to a page of the sources that is not one of the site."""


def name_pages_outside(app: Sphinx, _name: str, source: list[str]) -> None:
    """Has the site name such a page where the sources link to it."""
    for _, path in OUTSIDE.findall(source[0]):
        if not pathlib.Path(app.srcdir, path).is_file():
            raise FileNotFoundError(f"a page links to {path}")
    source[0] = OUTSIDE.sub(lambda link: f"{link[1]} (`{link[2].removeprefix('../')}` in the sources)", source[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", name_pages_outside)
