"""Positions of genes, from an annotation or from the data."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from .._validate import check_unique
from ._genes import read_genes


def gene_table(
    annotation: str | Path | pd.DataFrame | None, var: pd.DataFrame | None
) -> pd.DataFrame:
    """Positions of genes: of `annotation`, else of `var` of an RNA modality."""
    if annotation is None:
        if var is None:
            msg = (
                "The positions of genes are not known: pass `annotation`, a GTF or BED file of the "
                "genome build of the peaks or its name, such as 'hg38'."
            )
            raise ValueError(msg)
        check_unique(var.index, "gene names", "call `var_names_make_unique()`")
        annotation = var
    return read_genes(annotation)
