"""Plots: they read what the tools wrote, and lean on scanpy."""

from ._coverage import coverage
from ._umap import umap

__all__ = ["coverage", "umap"]
