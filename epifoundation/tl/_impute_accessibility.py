"""``ep.tl.impute_accessibility``: probabilities that peaks are open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from .._columns import check_storable, table_of
from .._docs import documented
from .._keys import Keys
from .._memory import copy_of
from .._option_types import checked
from .._validate import Data, check_writable, get_atac
from ..cells.source import InMemory
from ..inference.calibration import Counts, Curve, fit_curve, reliability
from ..inference.encode import encode_cells
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..nn import MeasuredPeakHead, PeakHead
from ..peaks.options import PeakMapping, takes_mapping
from ..peaks.select import select_peaks
from ..pp._map_peaks import map_source

IMPUTE_CELLS = 64  # at a time: each has a probability for all peaks of the model
CALIBRATION_CELLS = 512


@documented
@takes_mapping
@checked
def impute_accessibility(
    data: Data,
    model: EpiFoundation | str | Path | None = None,
    *,
    peaks: str | Sequence[str] | None = None,
    groupby: str | None = None,
    depth: float | None = None,
    modality: str = "atac",
    key_added: str | None = None,
    mapping: PeakMapping | None = None,
    device: str | torch.device = "auto",
    copy: bool = False,
) -> Data | None:
    r"""Predict the probability that peaks are open, for an object in memory (no files).

    The result is a table in the object, by cell or by group. The model's head for held-out peaks
    gives each cell a distribution over peaks, :math:`\pi`. In a cell with :math:`n` open peaks, a
    peak is open with probability :math:`1 - e^{-f(n \pi)}`. The increasing function :math:`f` is
    fitted to the open peaks of some of the cells, each with its own :math:`n`, so that of the peaks
    with a probability of 0.6, about 60 % are open. The result has the same :math:`n` for all cells,
    so that noise and sequencing depth do not enter. All peaks of all cells would not fit into
    memory: select peaks, or average over groups of cells.

    Parameters
    ----------
    {data}
    {model}
    peaks
        Names of peaks of the data, or regions such as ``"chr1:1000-50000"``. If None, all peaks;
        needs `groupby`.
    groupby
        Column of ``obs``: means over the cells of each group. If None, each cell; needs `peaks`.
    depth
        Number of open peaks known to the model, :math:`n`; if None, the median over the cells.
    {modality}
    {key_added}
    {mapping}
    {device}
    {copy}

    Returns
    -------
    None, or the copy. Written into the ATAC modality: without `groupby`,
    ``obsm["epifoundation_accessibility"]``, a DataFrame of cells x `peaks`; with it,
    ``varm["epifoundation_accessibility"]``, a DataFrame of peaks x groups;
    ``uns["epifoundation_accessibility"]`` has the names of peaks and groups
    (:func:`epifoundation.get.accessibility` returns the table with them). Probabilities, float32;
    NaN for peaks that the model does not know or that were not selected, and for cells without a
    known open peak. A peak has the probability of the peak of the model that it maps to.

    ``uns["epifoundation_accessibility"]``: ``depth``; ``cells``, on which :math:`f` was fitted (at
    most 512); ``curve``, a DataFrame with :math:`n \pi` and ``calibrated``, :math:`f`;
    ``reliability``, a DataFrame with the mean probability and the fraction of open peaks by range
    of the probability, in one half of these cells with :math:`f` from the other half, and with the
    depth of each cell; ``error``, the expected calibration error, with and without :math:`f`. With
    fewer than 100 open peaks in these cells, :math:`f` is the identity.

    Raises
    ------
    ValueError
        Neither `peaks` nor `groupby`; a model without a head for peaks; peaks that are not in the
        data.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()[:200].copy()
    >>> ep.tl.impute_accessibility(mdata, "pbmc-51loci", groupby="cell_type")
    >>> mdata["atac"].varm["epifoundation_accessibility"].shape[0] == mdata["atac"].n_vars
    True
    """
    keys = Keys.of(key_added)
    atac = get_atac(data, modality)
    check_writable(data, atac, copy=copy)
    if peaks is None and groupby is None:
        msg = (
            f"All {atac.n_vars:,} peaks of {atac.n_obs:,} cells are too many: select some with "
            "`peaks=`, or pass `groupby=` for the mean of groups."
        )
        raise ValueError(msg)
    is_number = isinstance(depth, int | float | np.number) and not isinstance(depth, bool)
    if depth is not None and not (is_number and depth > 0):
        msg = f"`depth` must be a positive number of open peaks or None, got {depth!r}."
        raise ValueError(msg)
    model = resolve_model(model, device)
    head = model.network.peaks
    if head is None:
        msg = (
            f"The model {model.name!r} predicts no peaks: it is an atlas, or its decoder is the "
            "paper's. Use a set encoder that was pretrained on cells, or `decoder='linear'`."
        )
        raise ValueError(msg)
    source = InMemory(data, modality, "the data")
    projection = map_source(source, model, mapping, keys).projection
    selected = np.ones(atac.n_vars, dtype=bool) if peaks is None else select_peaks(atac.var, peaks)
    to_vocabulary = (
        sp.identity(atac.n_vars, np.float32, "csr") if projection is None else projection
    )
    columns = np.flatnonzero(selected & (np.diff(to_vocabulary.indptr) > 0))
    to_data = to_vocabulary[columns].T.tocsr()  # vocabulary x selected peaks
    groups = None
    if groupby is not None:
        groups = source.column(groupby, "groupby").astype("category")
        check_storable(groups.cat.categories, "group")

    embedding = np.full((atac.n_obs, model.network.dim), np.nan, dtype=np.float32)
    n_known = np.zeros(atac.n_obs)
    n_sampled = min(CALIBRATION_CELLS, atac.n_obs)
    is_sampled = np.zeros(atac.n_obs, dtype=bool)
    is_sampled[np.linspace(0, atac.n_obs - 1, n_sampled).astype(int)] = True
    open_peaks: dict[int, np.ndarray] = {}
    for rows, tokens, part in encode_cells(model, source, projection):
        embedding[rows], n_known[rows] = part.cpu().numpy(), np.diff(tokens.offsets)
        each = np.split(tokens.ids, tokens.offsets[1:-1])
        numbers = np.arange(atac.n_obs)[rows]
        open_peaks |= {
            int(cell): ids for cell, ids in zip(numbers, each, strict=True) if is_sampled[cell]
        }
    cells = np.flatnonzero(n_known > 0)
    halves = _count_pairs(model, head, embedding, open_peaks)
    curve = fit_curve(Counts(*(a + b for a, b in zip(*halves, strict=True))))
    table, error = reliability(halves)
    n_open = float(depth or (np.median(n_known[cells]) if len(cells) else 1))
    to_group = None if groups is None else _membership(groups, cells)
    shape = (atac.n_obs if to_group is None else to_group.shape[0], len(columns))
    values = np.full(shape, np.nan if to_group is None else 0.0, np.float32)
    for start in range(0, len(cells), IMPUTE_CELLS):
        some = slice(start, min(start + IMPUTE_CELLS, len(cells)))
        of_cells = torch.from_numpy(embedding[cells[some]]).to(model.device)
        is_open = _probabilities(head, of_cells, n_open, curve, to_data)
        if to_group is None:
            values[cells[some]] = is_open
        else:
            values += to_group[:, some] @ is_open
    target = copy_of(data) if copy else data
    written = get_atac(target, modality)
    old = dict(written.uns.get(keys.accessibility, {}))
    numbers_of = {
        "depth": n_open,
        "cells": sum(len(ids) > 0 for ids in open_peaks.values()),
        "curve": pd.DataFrame(
            {"expected": np.exp(curve.predicted), "calibrated": np.exp(curve.calibrated)},
            index=np.arange(len(curve.predicted)).astype(str),
        ),
        "reliability": table,
        "error": error,
    }
    if groups is None or to_group is None:
        among = np.flatnonzero(selected)
        filled = np.full((atac.n_obs, len(among)), np.nan, dtype=np.float32)
        filled[:, np.searchsorted(among, columns)] = values
        names = atac.var_names[among]
        written.obsm[keys.accessibility] = table_of(filled, atac.obs_names, names)
        report = {"peaks": list(names)}
    else:
        filled = np.full((atac.n_vars, shape[0]), np.nan, dtype=np.float32)
        with np.errstate(invalid="ignore"):  # a group without cells
            filled[columns] = (values / np.diff(to_group.indptr)[:, None]).T
        names = pd.Index([str(name) for name in groups.cat.categories])
        written.varm[keys.accessibility] = table_of(filled, atac.var_names, names)
        report = {"groups": list(names)}
    written.uns[keys.accessibility] = old | numbers_of | report
    return target if copy else None


def _membership(groups: pd.Series, cells: np.ndarray) -> sp.csr_matrix:
    """Groups x cells, ones."""
    codes = groups.cat.codes.to_numpy()[cells]
    column = np.flatnonzero(codes >= 0)
    shape = (len(groups.cat.categories), len(cells))
    return sp.csr_matrix((np.ones(len(column)), (codes[column], column)), shape=shape)


@torch.inference_mode()
def _probabilities(
    head: PeakHead | MeasuredPeakHead,
    embedding: torch.Tensor,
    n_open: float,
    curve: Curve,
    to_data: sp.csr_matrix,
) -> np.ndarray:
    """Probability that each selected peak is open: that one of the model's that it overlaps is."""
    expected = curve(head(embedding).softmax(dim=-1).mul_(n_open)).cpu().numpy()
    return -np.expm1(-np.asarray(to_data.T @ expected.T).T)


@torch.inference_mode()
def _count_pairs(
    model: EpiFoundation,
    head: PeakHead | MeasuredPeakHead,
    embedding: np.ndarray,
    open_peaks: dict[int, np.ndarray],
) -> tuple[Counts, Counts]:
    """Expected and open peaks of cells, each with its own depth, in two halves of the cells."""
    halves = Counts.zero(), Counts.zero()
    used = [cell for cell, ids in open_peaks.items() if len(ids)]
    for half, cells in zip(halves, (used[::2], used[1::2]), strict=True):
        for start in range(0, len(cells), IMPUTE_CELLS):
            some = cells[start : start + IMPUTE_CELLS]
            size = torch.tensor([len(open_peaks[cell]) for cell in some]).to(model.device)
            of_cells = torch.from_numpy(embedding[some]).to(model.device)
            expected = head(of_cells).softmax(dim=-1) * size[:, None]
            ids = np.concatenate([open_peaks[cell] for cell in some]).astype(np.int64)
            rows = torch.arange(len(some)).to(model.device).repeat_interleave(size)
            half.add(expected, rows, torch.from_numpy(ids).to(model.device))
    return halves
