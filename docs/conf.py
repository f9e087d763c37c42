"""Sphinx configuration."""

import shutil
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.ext.napoleon import NumpyDocstring

HERE = Path(__file__).parent
# The tutorials live beside the package, where the tests execute them; Sphinx reads only what is below docs/.
shutil.copytree(HERE.parent / "tutorials", HERE / "tutorials", dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))


def prose_returns(self: NumpyDocstring, section: str) -> list[str]:
    """What a tool writes is told in sentences and lists, which napoleon would take for pairs of name and type."""
    lines = self._parse_generic_section("Returns", use_admonition=False)
    return [line.removeprefix(": ") for line in lines]  # put there by sphinx-autodoc-typehints


NumpyDocstring._parse_returns_section = prose_returns

project = "EpiFoundation"
author = "The EpiFoundation toolkit developers"
copyright = "2026, the EpiFoundation toolkit developers"
release = version = version_of("epifoundation")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
]
exclude_patterns = ["measured", "_build", "jupyter_execute"]
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = False
napoleon_use_rtype = False
always_use_bars_union = True
typehints_defaults = "braces"
typehints_document_rtype = False
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

html_theme = "sphinx_book_theme"
html_title = "EpiFoundation"
html_static_path = ["_static"]
