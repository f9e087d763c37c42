"""``ep.pp.map_peaks``: how the peaks of data map onto those of a model, and what the model will read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from .._keys import Keys
from .._memory import copy_of
from .._validate import Data, check_writable, get_atac, get_matrix
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..tokens import iter_tokens
from ._mapping import map_onto

MIN_COVERAGE = 0.02


def is_of(model: EpiFoundation, report: Any) -> bool:
    """Whether what stands in ``uns`` was written with this model."""
    if not isinstance(report, Mapping) or report.get("model") != model.name:
        return False
    # Only `tl.embed` tells the revision: it takes a second for a large model that was not loaded from a file.
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
    """Map the peaks of data onto the peaks of a model by genomic overlap, and report what is covered.

    :func:`epifoundation.tl.embed` does this itself; call it to look before, or to have the mapped cells. A peak that the model
    has maps to itself alone, any other to every peak of the model that it overlaps; a peak of the model that several peaks
    of a cell overlap is read once. Intervals are 0-based and half-open.

    Parameters
    ----------
    data
        A MuData with the modality `modality`, or an AnnData of cells x peaks; peaks in the columns ``chrom``, ``start``,
        ``end`` of ``var``, in a 10x column ``interval``, or in the names.
    model
        A model, its name or directory (see :func:`epifoundation.models.from_pretrained`); None is the bundled one.
    modality
        Name in the MuData.
    min_overlap
        Least overlap, as a fraction of the shorter of two peaks; 0 asks for one base.
    genome
        Build of the data's peaks, if it is known. Peaks that lie past the ends of the chromosomes of the model's build, and fit another
        build, are refused in any case; without `genome`, so are those that overlap the model's peaks no more than by chance.
    liftover
        UCSC chain file to the model's build; peaks are lifted before they are compared.
    min_coverage
        Least fraction of the model's peaks that the data must reach. Below a half there is a warning.
    key_added
        Replaces ``epifoundation`` in all names that are written.
    copy
        Return a copy with the results and leave `data` as it is.

    Returns
    -------
    None, or the copy. Written into the ATAC modality:

    - ``uns["epifoundation"]["peaks"]``: ``data`` and ``vocabulary`` (numbers of peaks), ``matched`` and ``vocabulary_matched``
      (those of either with an overlap), ``open_fraction_matched``, ``counts_fraction_matched``, ``genome`` (of the model),
      ``data_genome`` (of the data as given), ``misplaced`` and ``unknown_contigs`` (peaks past a chromosome's end, or on contigs that the model lacks), and
      with `liftover` ``lifted``, ``split`` and ``lost``;
    - ``obs["epifoundation_coverage"]``: fraction of the cell's open peaks that the model knows;
    - ``var["epifoundation_matched"]``: how many peaks of the model each peak maps to;
    - ``obsm["epifoundation_peaks"]``: open peaks of the model, ones, sparse (n_cells, n_vocabulary).

    Raises
    ------
    ValueError
        The builds differ, nothing or too little overlaps, names are no intervals, negative or NaN counts.

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
    mapping = map_onto(model.peaks, atac.var, min_overlap=min_overlap, genome=genome, liftover=liftover)
    mapping.check(min_coverage)
    parts, n_open, n_known = [], [], []
    total = matched = 0.0
    for _, tokens in iter_tokens(get_matrix(atac, None), mapping.projection, atac.obs_names):
        shape = (len(tokens), len(model.peaks))
        parts.append(sp.csr_matrix((np.ones(len(tokens.ids), np.float32), tokens.ids, tokens.offsets), shape=shape))
        n_open.append(tokens.n_open)
        n_known.append(tokens.n_known)
        total, matched = total + tokens.total, matched + tokens.matched
    opened, known = (np.concatenate([np.zeros(0, np.int64), *counts]) for counts in (n_open, n_known))
    mapping.count(int(opened.sum()), int(known.sum()), total, matched)
    mapping.tell()
    old = atac.uns.get(keys.uns)
    old = old if is_of(model, old) else {}
    report = {**old, "model": model.name, "peaks": mapping.report}
    target = copy_of(data) if copy else data
    atac = get_atac(target, modality)
    atac.var[keys.matched] = 1 if mapping.projection is None else mapping.projection.getnnz(axis=1)
    atac.obs[keys.coverage] = np.where(opened > 0, known / np.maximum(opened, 1), np.nan)
    atac.obsm[keys.peaks] = sp.vstack(parts, format="csr") if parts else sp.csr_matrix((0, len(model.peaks)))
    atac.uns[keys.uns] = report
    return target if copy else None
