"""Labels from cells with RNA only: their open peaks are simulated, and a label head is fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._validate import check_unique
from .._warn import warn
from ..cells.formats import opened
from ..cells.source import Located, Source
from ..models import EpiFoundation
from ..peaks.genes import find_genes_of, names_of, other_case
from .label_head import check_labels
from .memberships import memberships_of
from .model_clusters import ModelClusters, clusters_of
from .rna_values import as_counts, scale_of_values
from .rows import Piece, Rows, as_float
from .sample import MAX_SAMPLE_CELLS, MAX_SAMPLE_ENTRIES, MIN_SAMPLE_CELLS
from .split import check_split, draw, split_cells

MAX_RATIO = 3.0  # of the mean size of values to that in the model
MIN_GENES = 10  # shared with the model
PILOT_CELLS = 256  # from which the scale of the values is told
VALUES = "values on the scale of the training data"


@dataclass
class RNAReference:
    """Labelled cells with RNA, on the genes that they share with a model.

    Attributes
    ----------
    expression
        Counts (of a model of values, values) of all cells, (n_cells, len(genes)).
    genes
        Positions in the model of the columns.
    scale
        What the stored values are.
    labels, batches
        Of all cells; None without a column of batches.
    """

    expression: Rows
    genes: np.ndarray
    scale: str
    labels: pd.Series
    batches: pd.Series | None


def with_rna_labels(
    model: EpiFoundation,
    named: Mapping[str, Located],
    *,
    label_key: str,
    batch_key: str | None,
    calibration: float | list[str],
    rng: np.random.Generator,
) -> tuple[EpiFoundation, dict[str, Any]]:
    """`model` with a head for the labels of cells with RNA, and a report.

    Each cell gets memberships in the clusters of the model from its RNA, and these give labels to
    cells with ATAC, see :class:`.model_clusters.ModelClusters`.

    Raises
    ------
    ValueError
        The model has no clusters with expression; too few shared genes; values that
        are not counts; fewer than two labels.
    """
    clusters = clusters_of(model, "a reference of RNA")
    data = _read(clusters, named, label_key, batch_key)
    try:
        split = split_cells(len(data.labels), calibration, data.batches, rng, option="calibration")
        rows, is_held, expression = _drawn(clusters, data, split, rng)
    finally:
        data.expression.close()
    names, codes = check_labels(data.labels, rows[~is_held], rows[is_held])
    known = codes[rows] >= 0  # a label may have calibration cells only
    rows, is_held, expression = rows[known], is_held[known], expression[known]
    profiles, counts = clusters.profiles(data.genes), clusters.is_of_counts
    if not counts:
        _check_scale(expression, profiles, model)
    memberships = memberships_of(expression, profiles, clusters.certainty, counts=counts)
    fitted = clusters.with_labels(memberships, codes[rows], is_held, names, rng)
    return fitted, {
        "reference": "RNA",
        "reference_values": data.scale,
        "reference_genes": len(data.genes),
        "reference_cells": int((~is_held).sum()),
        "calibration_cells": int(is_held.sum()),
        "unlabelled_cells": int(data.labels.isna().sum()),
        "calibration": calibration,
        "calibrated_on": "simulated open peaks of the calibration cells",
        "gene_scales": "fitted to the model" if counts else "those of the data",
    }


def _drawn(
    clusters: ModelClusters,
    data: RNAReference,
    split: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, sp.csr_matrix]:
    """Rows of labelled cells, which of them are for calibration, and their expression."""
    _, codes = check_labels(data.labels, *split)
    train, held = (rows[codes[rows] >= 0] for rows in split)
    n_cells = MAX_SAMPLE_ENTRIES / clusters.depth
    n_cells = int(np.clip(n_cells, MIN_SAMPLE_CELLS, MAX_SAMPLE_CELLS))
    train, held = draw(train, n_cells, rng, codes), draw(held, max(n_cells // 2, 1), rng)
    rows = np.concatenate([train, held])
    expression = data.expression[rows]
    kept = np.diff(expression.indptr) > 0
    if not kept.all():
        msg = f"{int((~kept).sum()):,} of {len(rows):,} cells of the reference have no count in a "
        msg += "gene of the model and are left out."
        warn(msg)
    is_held = np.arange(len(rows)) >= len(train)
    check_split(rows[kept & ~is_held], rows[kept & is_held], len(rows))
    return rows[kept], is_held[kept], expression[kept]


def _read(
    clusters: ModelClusters, named: Mapping[str, Located], label_key: str, batch_key: str | None
) -> RNAReference:
    """Match genes, read labels and batches, and open the matrices of the sources."""
    model, counts = clusters.model, clusters.is_of_counts
    found, labels, batches, sizes = [], [], [], []
    for name, place in named.items():
        with opened(place, "rna", name) as source:
            check_unique(source.var.index, "gene names", "call `var_names_make_unique()`")
            labels.append(source.column(label_key, "label_key"))
            if batch_key is not None:
                batches.append(source.column(batch_key, "batch_key").astype(str))
            found.append(find_genes_of(source.var, model.genes))
            sizes.append(source.n_obs)
            _check_genes(source, found[-1], model)
    shared = np.flatnonzero(
        np.logical_and.reduce([np.isin(np.arange(len(model.genes)), each) for each in found])
    )
    if len(shared) < MIN_GENES:
        msg = f"The sources of the reference share {len(shared)} genes with one another and the "
        msg += f"model; at least {MIN_GENES} are needed. Use the same genes in all of them."
        raise ValueError(msg)
    scale, change = VALUES, as_float
    if counts:
        scales = {_scale(named, name) for name in named}
        scale = scales.pop()
        if scales:
            msg = f"The sources of the reference have {[scale, *scales]}: pass counts in all."
            raise ValueError(msg)
        change = partial(as_counts, scale=scale)
    pieces = [
        Piece(place, name, "rna", size, _projection(positions, shared))
        for (name, place), size, positions in zip(named.items(), sizes, found, strict=True)
    ]
    expression = Rows(pieces, len(shared), "`X` of the reference", change, signed=not counts)
    every = None if batch_key is None else pd.concat(batches, ignore_index=True)
    return RNAReference(expression, shared, scale, pd.concat(labels, ignore_index=True), every)


def _projection(positions: np.ndarray, shared: np.ndarray) -> sp.csr_matrix:
    """Genes of a source x shared genes, ones."""
    rows = np.flatnonzero(np.isin(positions, shared))
    columns = np.searchsorted(shared, positions[rows])
    ones = np.ones(len(rows), np.float32)
    return sp.csr_matrix((ones, (rows, columns)), shape=(len(positions), len(shared)))


def _check_genes(source: Source, positions: np.ndarray, model: EpiFoundation) -> None:
    """Raise ValueError if a source has too few genes of the model."""
    n_found = int((positions >= 0).sum())
    if n_found >= MIN_GENES:
        return
    names, known = list(source.var.index[:3]), model.genes.names
    msg = f"{n_found} of the {len(source.var):,} features of the reference are genes of the model "
    msg += f"{model.name!r}, and at least {MIN_GENES} are needed: {names} against {known[:3]}. "
    if other_case(source.var, model.genes) >= MIN_GENES:
        msg += "They are the same but for the case of letters, as in another species: use a "
        msg += "reference of the species of the model."
    else:
        msg += f"Use {names_of(model.genes)} as `var_names`, of the species of the model; "
        msg += "or, if these are peaks, names such as 'chr1:100-200'."
    raise ValueError(msg)


def _check_scale(values: sp.csr_matrix, profiles: np.ndarray, model: EpiFoundation) -> None:
    """Raise ValueError if values are not on the scale of a model that learned values."""
    size, expected = float(np.abs(values).mean()), float(np.abs(profiles).mean())
    if not expected / MAX_RATIO < size < expected * MAX_RATIO:
        msg = f"The values of the reference are {size:.2g} on average and those of the model "
        msg += f"{model.name!r} {expected:.2g}: it learned values, not counts. Normalise the "
        msg += "reference as the training data of the model were."
        raise ValueError(msg)


def _scale(named: Mapping[str, Located], name: str) -> str:
    """What the values of a source are; ValueError if counts cannot be recovered from them."""
    with opened(named[name], "rna", name) as source:
        rows = source.read(0, min(PILOT_CELLS, source.n_obs))
        found = scale_of_values(rows)
        if found is not None:
            return found
        kind = "values that are neither counts nor normalised counts"
        if not np.isfinite(rows.data).all():
            kind = "missing or infinite values"
        elif (rows.data < 0).any():
            kind = "negative values, as after scaling"
        msg = f"`X` of the reference ({source.name}) has {kind}: pass raw counts, such as "
        msg += "`reference.X = reference.layers['counts']`."
        raise ValueError(msg)
