"""Sphinx configuration."""

import dataclasses
import inspect
import re
import shutil
import textwrap
import zlib
from importlib.metadata import version as version_of
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from mudata import MuData
from sphinx.application import Sphinx
from sphinx.ext.napoleon import NumpyDocstring

import epifoundation as ep

HERE = Path(__file__).parent
# Sphinx reads only files in docs/
shutil.copytree(
    HERE.parent / "tutorials",
    HERE / "tutorials",
    dirs_exist_ok=True,
    ignore=shutil.ignore_patterns(".*"),
)


def prose_returns(self: NumpyDocstring, section: str) -> list[str]:
    """Render "Returns" as prose; napoleon expects pairs of name and type."""
    header, *lines = self._parse_generic_section("Returns", use_admonition=False)
    # sphinx-autodoc-typehints puts a colon above the first paragraph and indents it
    lines = [line.removeprefix(": ") for line in lines if line.strip() != ":"]
    end = next((i for i, line in enumerate(lines) if i and not line.strip()), len(lines))
    return [header, *textwrap.dedent("\n".join(lines[:end])).split("\n"), *lines[end:]]


NumpyDocstring._parse_returns_section = prose_returns


KINDS = {
    "None": "data",
    "typing.Any": "data",
    "typing.Literal": "data",
    "scanpy.pl.umap": "function",
}


def inventory(name: str, pages: dict[str, str]) -> str:
    """Write an inventory of types, to link them without network access."""
    path = HERE / "_build" / "inventories" / f"{name}.inv"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    lines = [f"{each} py:{KINDS.get(each, 'class')} 1 {page} -\n" for each, page in pages.items()]
    path.write_bytes(head.encode() + zlib.compress("".join(lines).encode()))
    return str(path)


PUBLIC = {  # public names of types from private modules
    AnnData: "anndata.AnnData",
    MuData: "mudata.MuData",
    pd.DataFrame: "pandas.DataFrame",
    pd.Series: "pandas.Series",
    pd.Index: "pandas.Index",
    np.random.Generator: "numpy.random.Generator",
    npt.ArrayLike: "numpy.typing.ArrayLike",
    Axes: "matplotlib.axes.Axes",
}


def typehints_formatter(annotation: object, _: object) -> str | None:
    """Link a type by its public name."""
    return next((f":class:`~{name}`" for kind, name in PUBLIC.items() if annotation == kind), None)


# Names of functions in the text of a page, such as `ep.tl.embed`
NAME = re.compile(
    r"(?<!`)`ep\.((?:pp|tl|get|pl|models|datasets|metrics|genome)\.\w+|[A-Z]\w+)`(?!`)"
)


def link_names(_: Sphinx, docname: str, source: list[str]) -> None:
    """Link function names to their API pages, in Markdown pages."""
    if not docname.startswith(("generated/", "tutorials/")):
        source[0] = NAME.sub(r"{py:obj}`ep.\1 <epifoundation.\1>`", source[0])


def setup(app: Sphinx) -> None:
    """Register `link_names`."""
    app.connect("source-read", link_names)


project = "EpiFoundation"
author = "The EpiFoundation toolkit developers"
copyright = "2026, the EpiFoundation toolkit developers"
release = version = version_of("epifoundation")

extensions = [
    "myst_nb",
    "sphinx_copybutton",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
]
suppress_warnings = ["config.cache"]  # functions in this file cannot be cached
exclude_patterns = ["measured", "_build", "jupyter_execute"]
templates_path = ["_templates"]
autosummary_generate = True
# Fields of dataclasses are documented as parameters
autosummary_context = {
    "fields": {
        f"epifoundation.{name}": [field.name for field in dataclasses.fields(getattr(ep, name))]
        for name in ep.__all__
        if inspect.isclass(getattr(ep, name))
    }
}
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": True}
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
always_use_bars_union = True
typehints_defaults = "braces"
typehints_document_rtype = False
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

TYPES = {
    "anndata": (
        "https://anndata.readthedocs.io/en/stable/",
        {"anndata.AnnData": "generated/anndata.AnnData.html#anndata.AnnData"},
    ),
    "mudata": (
        "https://mudata.readthedocs.io/en/latest/",
        {"mudata.MuData": "api/generated/mudata.MuData.html#mudata.MuData"},
    ),
    "matplotlib": (
        "https://matplotlib.org/stable/",
        {
            "matplotlib.axes.Axes": "api/_as_gen/matplotlib.axes.Axes.html",
            "matplotlib.figure.Figure": "api/_as_gen/matplotlib.figure.Figure.html",
        },
    ),
    "numpy": (
        "https://numpy.org/doc/stable/",
        {
            "numpy.typing.ArrayLike": "reference/typing.html#numpy.typing.ArrayLike",
            "numpy.ndarray": "reference/generated/numpy.ndarray.html",
            "numpy.random.Generator": "reference/random/generator.html",
        },
    ),
    "pandas": (
        "https://pandas.pydata.org/docs/",
        {
            "pandas.DataFrame": "reference/api/pandas.DataFrame.html",
            "pandas.Series": "reference/api/pandas.Series.html",
            "pandas.Index": "reference/api/pandas.Index.html",
        },
    ),
    "scipy": (
        "https://docs.scipy.org/doc/scipy/",
        {"scipy.sparse.csr_matrix": "reference/generated/scipy.sparse.csr_matrix.html"},
    ),
    "scanpy": (
        "https://scanpy.readthedocs.io/en/stable/",
        {"scanpy.pl.umap": "generated/scanpy.pl.umap.html"},
    ),
    "torch": (
        "https://docs.pytorch.org/docs/stable/",
        {"torch.device": "tensor_attributes.html#torch.device"},
    ),
    "python": (
        "https://docs.python.org/3/",
        {
            **{name: f"library/functions.html#{name}" for name in ("int", "float", "bool")},
            **{name: f"library/stdtypes.html#{name}" for name in ("str", "dict", "list", "tuple")},
            **{
                f"collections.abc.{name}": f"library/collections.abc.html#collections.abc.{name}"
                for name in ("Sequence", "Mapping", "Iterable", "Callable")
            },
            **{
                f"typing.{name}": f"library/typing.html#typing.{name}"
                for name in ("Any", "Literal")
            },
            "pathlib.Path": "library/pathlib.html#pathlib.Path",
            "os.PathLike": "library/os.html#os.PathLike",
            "None": "library/constants.html#None",
        },
    ),
}
intersphinx_mapping = {name: (url, inventory(name, pages)) for name, (url, pages) in TYPES.items()}

html_theme = "sphinx_book_theme"
html_title = "EpiFoundation"
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {
    "logo": {"text": "EpiFoundation"},
    "navbar_persistent": [],  # the search field is in the sidebar
    "repository_url": "https://github.com/epifoundation/epifoundation",
    "use_repository_button": True,
    "use_issues_button": True,
    "show_toc_level": 2,
    "show_navbar_depth": 1,
}
