"""Plots of the results of ``ep.tl`` and ``ep.pp``."""

from ._annotation import annotation
from ._composition import composition
from ._coverage import coverage
from ._expression import expression
from ._integration import integration
from ._knock_out import knock_out
from ._links import links
from ._report import report
from ._training import training
from ._umap import umap

__all__ = [
    "annotation",
    "composition",
    "coverage",
    "expression",
    "integration",
    "knock_out",
    "links",
    "report",
    "training",
    "umap",
]
