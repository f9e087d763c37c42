"""Genes of other data among those of a model: by symbol or identifier, with or without versions."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from .._validate import check_single
from ..genome import read_intervals
from ..genome._intervals import RNA_TYPES, advice_on_names
from .vocabulary import GENE_IDS, GeneVocabulary

# Columns of `var` with other names of genes: identifiers, then symbols (10x, scanpy, CELLxGENE)
OTHER_NAMES = (*GENE_IDS, "gene_symbols", "gene_symbol", "gene_name", "feature_name", "symbol")
_INTERVAL = re.compile(r"^\S+[:_-]\d+[-_]\d+$")  # chr1:100-200, chr1-100-200, chr1_100_200
_ENSEMBL = re.compile(r"^ENS[A-Z]*G\d+")
_VERSION = re.compile(r"^(ENS[A-Z]*\d+)\.\d+$")


def find_genes_of(var: pd.DataFrame, genes: GeneVocabulary) -> np.ndarray:
    """Position in `genes` of each row of `var`, -1 if unknown; each position at most once.

    Names are compared first, then the identifiers and symbols in other columns, in both directions;
    Ensembl identifiers without their version.
    """
    others = [name for name in OTHER_NAMES if name in var.columns]
    for name in others:
        check_single(var.columns, name, "`var` of the RNA")
    columns = [var.index, *(var[name] for name in others)]
    found = np.full(len(var), -1)
    for names in columns:
        found = np.where(found >= 0, found, positions_of(names.astype(str), genes))
    known = np.flatnonzero(found >= 0)
    first = known[np.unique(found[known], return_index=True)[1]]
    once = np.full(len(var), -1)
    once[first] = found[first]
    return once


def has_genes(var: pd.DataFrame, genes: GeneVocabulary) -> bool:
    """Whether features are genes, not peaks: by their types, then names, then columns.

    Features that look like neither are taken as genes.
    """
    if "feature_types" in var.columns:
        types = set(var["feature_types"].astype(str))
        if types & {*RNA_TYPES, "Peaks"}:
            return types <= set(RNA_TYPES)
    names = pd.Series(var.index[:1000].astype(str))
    if names.str.match(_INTERVAL).mean() > 0.5:
        return False
    is_known = (find_genes_of(var, genes) >= 0).any() or other_case(var, genes) > 0
    if is_known or names.str.match(_ENSEMBL).any() or "strand" in var.columns:
        return True
    try:
        read_intervals(var)
    except ValueError:
        return "The column" not in advice_on_names(var)  # of peaks that are named otherwise
    return False


def positions_of(names: Iterable[str], genes: GeneVocabulary) -> np.ndarray:
    """Position of each symbol or identifier, -1 if unknown; versions of Ensembl are ignored."""
    wanted = without_versions(names)
    found = _unique(without_versions(genes.names)).get_indexer(wanted)
    if genes.ids is None:
        return found
    by_id = _unique(without_versions(genes.ids)).get_indexer(wanted)
    return np.where(found >= 0, found, by_id)


def without_versions(names: Iterable[str]) -> pd.Index:
    """Names, of Ensembl identifiers such as ``ENSG00000156738.17`` without the version."""
    return pd.Index([_VERSION.sub(r"\1", str(name)) for name in names], dtype=object)


def names_of(genes: GeneVocabulary) -> str:
    """What names of genes can be, for messages: not all models have identifiers."""
    return "gene symbols" if genes.ids is None else "gene symbols or Ensembl identifiers"


def other_case(var: pd.DataFrame, genes: GeneVocabulary) -> int:
    """Number of names that are genes in another case, as mouse and human symbols are."""
    lower = {str(name).lower() for name in genes.names}
    return len(lower & {str(name).lower() for name in var.index})


def _unique(names: pd.Index) -> pd.Index:
    """Names, of which those that occur more than once match nothing."""
    if names.is_unique:
        return names
    copies = names.duplicated(keep=False)
    others = [f"\0{i}" for i in range(len(names))]
    return pd.Index(np.where(copies, others, names), dtype=object)
