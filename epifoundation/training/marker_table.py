"""Marker genes of cell types as one table, from a mapping or a table of the user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from .._columns import check_storable
from .._keys import UNKNOWN_LABEL
from .._validate import check_single
from .._warn import warn
from ..peaks.genes import names_of, positions_of
from ..peaks.vocabulary import GeneVocabulary

# Genes of each type, or their weights; or a table with columns of types and genes
Markers: TypeAlias = Mapping[str, Iterable[str] | Mapping[str, float]] | pd.DataFrame
TYPE_COLUMNS = ("cell_type", "type", "label", "cluster")
GENE_COLUMNS = ("gene", "marker", "genes", "names", "symbol")
WEIGHT_COLUMNS = ("weight", "sign")
SIGNS = {"+": 1.0, "-": -1.0, "positive": 1.0, "negative": -1.0, "up": 1.0, "down": -1.0}


def is_markers(reference: Any) -> bool:
    """Whether a reference is a table of markers: not cells, nor paths."""
    if isinstance(reference, pd.DataFrame):
        return True
    if not isinstance(reference, Mapping) or not len(reference):
        return False
    kinds = (list, tuple, set, frozenset, np.ndarray, pd.Index, pd.Series, Mapping)
    return all(isinstance(each, kinds) for each in reference.values())


def read_markers(markers: Markers, genes: GeneVocabulary) -> pd.DataFrame:
    """Columns ``type``, ``gene``, ``weight`` and ``position`` in the model, one row per marker.

    Markers that are not genes of the model are left out, with a warning.

    Raises
    ------
    ValueError
        Columns or values are missing or not valid; fewer than two types; a type without a gene of
        the model.
    """
    table = _of_table(markers) if isinstance(markers, pd.DataFrame) else _of_mapping(markers)
    table = table.drop_duplicates(ignore_index=True)
    types = list(dict.fromkeys(table["type"]))
    if len(types) < 2:
        msg = f"`reference` has markers of {len(types)} types ({types}); at least two are needed."
        raise ValueError(msg)
    if UNKNOWN_LABEL in types:
        msg = f"`reference` has markers of a type {UNKNOWN_LABEL!r}, which is the label of cells "
        msg += "without a type: call it otherwise."
        raise ValueError(msg)
    check_storable(types, "type")
    twice = table.duplicated(["type", "gene"])
    if twice.any():
        name, gene = table.loc[twice, ["type", "gene"]].iloc[0]
        msg = f"`reference` has the marker {gene!r} of {name!r} with several weights: keep one."
        raise ValueError(msg)
    table["position"] = positions_of(table["gene"], genes)
    known = table["position"] >= 0
    empty = [name for name in types if not (known & (table["type"] == name)).any()]
    if empty:
        wanted = list(table.loc[table["type"] == empty[0], "gene"][:5])
        msg = f"None of the markers of {empty} are among the {len(genes):,} genes of the model: "
        msg += f"{wanted} against {list(genes.names[:5])}. Use {names_of(genes)} of "
        msg += "the species of the model, other markers, or leave these types out."
        raise ValueError(msg)
    if not known.all():
        names = list(dict.fromkeys(table.loc[~known, "gene"]))
        warn(
            f"{len(names)} of {table['gene'].nunique()} markers are not genes of the model and are "
            f"left out: {names[:10]}."
        )
    return table[known].drop_duplicates(["type", "position"]).reset_index(drop=True)


def _of_mapping(markers: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for name, genes in markers.items():
        if isinstance(genes, set | frozenset):  # their order differs between processes
            genes = sorted(genes, key=str)
        pairs = genes.items() if isinstance(genes, Mapping) else ((gene, 1.0) for gene in genes)
        of_type = [(name, gene, weight) for gene, weight in pairs]
        rows += of_type
        if not of_type:
            msg = f"`reference` has no markers of {name!r}: name some, or leave the type out."
            raise ValueError(msg)
    return _checked(pd.DataFrame(rows, columns=["type", "gene", "weight"]))


def _of_table(markers: pd.DataFrame) -> pd.DataFrame:
    names = [_column(markers, options) for options in (TYPE_COLUMNS, GENE_COLUMNS, WEIGHT_COLUMNS)]
    if names[0] is None or names[1] is None:
        msg = "A table of markers as `reference` needs the columns 'cell_type' and 'gene', and for "
        msg += "weights or signs 'weight'; it has "
        msg += f"{list(markers.columns)}. Rename them with `reference.rename(columns=...)`."
        raise ValueError(msg)
    table = pd.DataFrame(
        {"type": markers[names[0]].to_numpy(object), "gene": markers[names[1]].to_numpy(object)}
    )
    table["weight"] = 1.0 if names[2] is None else markers[names[2]].to_numpy(object)
    return _checked(table)


def _column(markers: pd.DataFrame, options: Iterable[str]) -> str | None:
    name = next((each for each in options if each in markers.columns), None)
    if name is not None:
        check_single(markers.columns, name, "The table of markers")
    return name


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """Names as text, and weights as numbers that are not 0."""
    for column in ("type", "gene"):
        wrong = [
            value
            for value in table[column]
            if not isinstance(value, str | int) or not str(value).strip()
        ]
        if wrong:
            msg = f"`reference` has a {column} {wrong[0]!r} among its markers; expected a name."
            raise ValueError(msg)
        table[column] = [str(value).strip() for value in table[column]]
    words = [SIGNS.get(str(value).strip().lower(), value) for value in table["weight"]]
    weights = pd.to_numeric(pd.Series(words, dtype=object), errors="coerce").astype(float)
    wrong_weight = ~np.isfinite(weights) | (weights == 0)
    if wrong_weight.any():
        i = int(np.flatnonzero(wrong_weight)[0])
        msg = f"The marker {table['gene'].iloc[i]!r} of {table['type'].iloc[i]!r} has the weight "
        msg += f"{words[i]!r}; expected a number other than 0, or one of {list(SIGNS)}."
        raise ValueError(msg)
    table["weight"] = weights.to_numpy()
    return table
