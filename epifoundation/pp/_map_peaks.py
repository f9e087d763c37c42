"""``ep.pp.map_peaks``: map the peaks of data onto those of a model, and report the coverage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from .._keys import Keys
from .._memory import copy_of
from .._validate import Data, check_writable, get_atac, get_matrix
from ..cells.tokens import iter_tokens
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..peaks.mapping import map_onto

MIN_COVERAGE = 0.02


def was_written_by(model: EpiFoundation, report: Any) -> bool:
    """Whether an entry of ``uns`` was written with this model."""
    if not isinstance(report, Mapping) or report.get("model") != model.name:
        return False
    # Only `tl.embed` writes the revision: computing it takes a second for a large model in memory
    return "revision" not in report or report["revision"] == model.revision


def map_peaks(
    data: Data,
    model: EpiFoundation | str | Path | None = None,
    *,
    modality: str = "atac",
    min_overlap: float = 0.0,
    genome: str | None = None,
    liftover: str | Path | None = None,
    min_coverage: float = MIN_COVERAGE,
    key_added: str | None = None,
    copy: bool = False,
) -> Data | None:
    """Map the peaks of data onto the peaks of a model by genomic overlap, and report the coverage.

    :func:`epifoundation.tl.embed` does this itself; call it to look first, or to get the mapped
    cells. A peak that the model has maps to itself only, any other to every peak of the model that
    it overlaps; a peak of the model that several open peaks of a cell overlap counts once.
    Intervals are 0-based and half-open.

    Parameters
    ----------
    data
        A MuData with the modality `modality`, or an AnnData of cells x peaks; peaks in the columns
        ``chrom``, ``start``, ``end`` of ``var``, in a 10x column ``interval``, or in the names.
    model
        A model, its name or directory (see :func:`epifoundation.models.from_pretrained`); None is
        the bundled model.
    modality
        Name in the MuData.
    min_overlap
        Minimal overlap, as a fraction of the shorter of two peaks; 0: one base.
    genome
        Build of the data's peaks, if known. Peaks that lie past the ends of the model's chromosomes
        and fit another build raise an error in any case; without `genome`, so do peaks that
        overlap the model's no more than by chance.
    liftover
        UCSC chain file to the model's build; peaks are lifted before they are compared.
    min_coverage
        Minimal fraction of the model's peaks that the data must reach. Below a half, it warns.
    key_added
        Replaces ``epifoundation`` in the names of all results.
    copy
        Return a copy with the results and leave `data` unchanged.

    Returns
    -------
    None, or the copy. Written into the ATAC modality:

    - ``uns["epifoundation"]["peaks"]``: ``data`` and ``vocabulary`` (numbers of peaks), ``matched``
      and ``vocabulary_matched`` (those of each with an overlap), ``open_fraction_matched``,
      ``counts_fraction_matched``, ``genome`` (of the model), ``data_genome`` (of the data as
      given), ``misplaced`` (peaks past a chromosome's end) and ``unknown_contigs`` (peaks on
      contigs that the model lacks), and with `liftover` ``lifted``, ``split`` and ``lost``;
    - ``obs["epifoundation_coverage"]``: fraction of a cell's open peaks that the model knows;
    - ``var["epifoundation_matched"]``: number of peaks of the model that a peak maps to;
    - ``obsm["epifoundation_peaks"]``: open peaks of the model as ones, sparse (n_cells, n_peaks).

    Raises
    ------
    ValueError
        The builds differ, too few peaks overlap, a name is not an interval, or counts are negative
        or NaN.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()
    >>> ep.pp.map_peaks(mdata)
    >>> mdata["atac"].uns["epifoundation"]["peaks"]["matched"]
    5724
    """
    keys = Keys.of(key_added)
    atac = get_atac(data, modality)
    check_writable(data, atac, copy=copy)
    model = resolve_model(model, None)
    mapping = map_onto(
        model.peaks, atac.var, min_overlap=min_overlap, genome=genome, liftover=liftover
    )
    mapping.check(min_coverage)
    parts, n_open, n_known = [], [], []
    total = matched = 0.0
    matrix = get_matrix(atac, None)
    for _, tokens in iter_tokens(matrix, mapping.projection, atac.obs_names):
        shape = (len(tokens), len(model.peaks))
        ones = np.ones(len(tokens.ids), np.float32)
        parts.append(sp.csr_matrix((ones, tokens.ids, tokens.offsets), shape=shape))
        n_open.append(tokens.n_open)
        n_known.append(tokens.n_known)
        total, matched = total + tokens.total, matched + tokens.matched
    empty = np.zeros(0, np.int64)
    opened, known = (np.concatenate([empty, *counts]) for counts in (n_open, n_known))
    mapping.count(int(opened.sum()), int(known.sum()), total, matched)
    mapping.log()
    old = atac.uns.get(keys.uns)
    kept = old if was_written_by(model, old) else {}
    report = {**kept, "model": model.name, "peaks": mapping.report}
    target = copy_of(data) if copy else data
    atac = get_atac(target, modality)
    projection = mapping.projection
    atac.var[keys.matched] = 1 if projection is None else projection.getnnz(axis=1)
    atac.obs[keys.coverage] = np.where(opened > 0, known / np.maximum(opened, 1), np.nan)
    no_cells = sp.csr_matrix((0, len(model.peaks)))
    atac.obsm[keys.peaks] = sp.vstack(parts, format="csr") if parts else no_cells
    atac.uns[keys.uns] = report
    return target if copy else None
