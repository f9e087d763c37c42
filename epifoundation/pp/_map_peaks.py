"""``ep.pp.map_peaks``: map the peaks of data onto those of a model, and report the coverage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from .._docs import documented
from .._keys import Keys
from .._memory import copy_of, restored_on_error
from .._option_types import checked
from .._validate import Data, check_writable, get_atac
from ..cells.formats import opened
from ..cells.source import InMemory, Inputs, Source, as_sources
from ..cells.tokens import iter_tokens
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..peaks.mapping import MIN_COVERAGE, PeakMap
from ..peaks.options import PeakMapping


def was_written_by(model: EpiFoundation, report: Any) -> bool:
    """Whether an entry of ``uns`` was written with this model."""
    if not isinstance(report, Mapping) or report.get("model") != model.name:
        return False
    # Only `tl.embed` writes the revision: computing it takes a second for a large model in memory
    return "revision" not in report or report["revision"] == model.revision


def recorded_mapping(report: Any, model: EpiFoundation) -> dict[str, Any]:
    """Report of the mapping onto the peaks of this model in an entry of ``uns``, or empty."""
    found = dict(report.get("peaks", {})) if was_written_by(model, report) else {}
    return found if found.get("vocabulary") == len(model.peaks) else {}


def map_source(
    source: Source, model: EpiFoundation, mapping: PeakMapping | None, keys: Keys
) -> PeakMap:
    """Map the peaks of a source onto those of a model, with the options used on it before if any.

    Raises
    ------
    ValueError
        The builds differ, or the peaks reach too little of the model.
    """
    if mapping is None:
        recorded = recorded_mapping(source.uns(keys.uns), model)
        mapping = PeakMapping(**recorded.get("options", {}))
    return mapping.map(model.peaks, source.var)


@documented
@checked
def map_peaks(
    data: Inputs,
    model: EpiFoundation | str | Path | None = None,
    *,
    modality: str = "atac",
    min_overlap: float = 0.0,
    genome: str | None = None,
    liftover: str | Path | None = None,
    min_coverage: float = MIN_COVERAGE,
    key_added: str | None = None,
    copy: bool = False,
) -> Data | PeakMapping | None:
    """Map the peaks of data onto the peaks of a model by genomic overlap, and report the coverage.

    All tools do this themselves. Use it to inspect the match, to get the mapped cells, or to set
    options: tools that are run on the same data with the same model use the options recorded here.
    For files, pass the result to tools as ``mapping=``. A peak maps to the overlapping peak of the
    model whose centre is nearest; a peak of the model to which several open peaks of a cell map
    counts once. Intervals are 0-based and half-open.

    Parameters
    ----------
    data
        A MuData with the modality `modality`, or an AnnData of cells x peaks; peaks in the columns
        ``chrom``, ``start``, ``end`` of ``var``, in a 10x column ``interval``, or in the names. Or
        files, as for :func:`epifoundation.tl.embed`, of which only the peaks are read.
    model
        A model, its name or directory (:func:`epifoundation.models.from_pretrained`). If None, the
        bundled model.
    {modality}
    min_overlap
        Minimal overlap, as a fraction of the shorter of two peaks; 0: one base.
    genome
        Build of the data's peaks, if known. Peaks that lie past the ends of the model's chromosomes
        and fit another build raise an error in any case; without `genome`, so do peaks that
        overlap the model's no more than by chance.
    liftover
        UCSC chain file from the build of the data's peaks to that of the model.
    min_coverage
        Minimal fraction of the model's peaks to be reached; for an atlas, which has the peaks of
        many tissues, of the data's peaks that it knows. Below 0.5, a warning is issued.
    {key_added}
    {copy}

    Returns
    -------
    None, or the copy; for files, a :class:`epifoundation.PeakMapping` whose ``report`` is a
    DataFrame with the coverage of each. Written into the ATAC modality:

    - ``uns["epifoundation"]["peaks"]``: ``data`` and ``vocabulary`` (numbers of peaks), ``matched``
      and ``vocabulary_matched`` (those of each with an overlap), ``open_fraction_matched``,
      ``counts_fraction_matched``, ``genome`` (of the model), ``data_genome`` (of the data as
      given), ``misplaced`` (peaks past a chromosome's end) and ``unknown_contigs`` (peaks on
      contigs that the model lacks), with `liftover` ``lifted``, ``split`` and ``lost``, and
      ``options`` (those that differ from the default);
    - ``obs["epifoundation_coverage"]``: fraction of a cell's open peaks that the model knows;
    - ``var["epifoundation_matched"]``: 1 for a peak that maps to one of the model, else 0;
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
    >>> ep.pp.map_peaks(mdata, "pbmc-51loci")
    >>> mdata["atac"].uns["epifoundation"]["peaks"]["matched"]
    5724
    """
    keys = Keys.of(key_added)
    options = PeakMapping(min_overlap, genome, liftover, min_coverage)
    model = resolve_model(model, None)
    if not isinstance(data, AnnData | MuData):
        return _map_files(data, model, options, modality, copy=copy)
    atac = get_atac(data, modality)
    check_writable(data, atac, copy=copy)
    source = InMemory(data, modality, "the data")
    mapping = map_source(source, model, options, keys)
    parts, n_open, n_known = [], [], []
    total = matched = 0.0
    for _, tokens in iter_tokens(source, mapping.projection):
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
    no_cells = sp.csr_matrix((0, len(model.peaks)))
    mapped = sp.vstack(parts, format="csr") if parts else no_cells
    with restored_on_error(atac):
        atac.var[keys.matched] = 1 if projection is None else projection.getnnz(axis=1)
        atac.obs[keys.coverage] = np.where(opened > 0, known / np.maximum(opened, 1), np.nan)
        atac.obsm[keys.peaks] = mapped
        atac.uns[keys.uns] = report
    return target if copy else None


def _map_files(
    data: Inputs, model: EpiFoundation, options: PeakMapping, modality: str, *, copy: bool
) -> PeakMapping:
    """The options, with a report on each file."""
    if copy:
        msg = "`copy=True` is for objects in memory; for files, pass the result as `mapping=`."
        raise ValueError(msg)
    reports = {}
    for name, place in as_sources(data).items():
        with opened(place, modality, name) as source:
            found = options.map(model.peaks, source.var)
        found.log()
        reports[name] = found.report
    table = pd.DataFrame.from_dict(reports, orient="index").drop(columns="options", errors="ignore")
    object.__setattr__(options, "report", table)
    return options
