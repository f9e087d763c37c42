"""Positions of genes, from an annotation or the RNA modality."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from anndata import AnnData

from .._validate import check_unique
from . import read_genes


def gene_table(annotation: str | Path | pd.DataFrame | None, rna: AnnData | None) -> pd.DataFrame:
    """Positions of genes from an annotation, else from the RNA modality."""
    if annotation is None:
        if rna is None:
            msg = "The positions of genes are unknown: pass `annotation`, a GTF or BED file of the "
            msg += "genome build of the peaks."
            raise ValueError(msg)
        check_unique(rna.var_names, "gene names", "call `var_names_make_unique()`")
        annotation = rna.var
    return read_genes(annotation)
