"""``ep.tl.impute_accessibility``: how likely peaks are open, by what the model makes of the cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from .._keys import Keys
from .._memory import copy_of
from .._validate import Data, check_writable, get_atac, get_matrix, obs_column
from ..inference.encode import encode_cells
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..nn import MeasuredPeakHead, PeakHead
from ..peaks.mapping import map_onto
from ..pp._map_peaks import MIN_COVERAGE
from ._knock_out import peak_columns

CELLS = 64  # whose peaks are held at once: cells x vocabulary


def impute_accessibility(
    data: Data,
    model: EpiFoundation | str | Path | None = None,
    *,
    peaks: str | Sequence[str] | None = None,
    groupby: str | None = None,
    depth: float | None = None,
    modality: str = "atac",
    key_added: str | None = None,
    min_overlap: float = 0.0,
    genome: str | None = None,
    liftover: str | Path | None = None,
    min_coverage: float = MIN_COVERAGE,
    device: str | torch.device = "auto",
    copy: bool = False,
) -> Data | None:
    r"""Predict how likely peaks are open, free of the noise and the depth of single cells.

    The model's head for held-out peaks gives each cell a distribution over peaks, :math:`\pi`. In a cell with :math:`n` open peaks, a peak is open
    with probability :math:`1 - e^{-n \pi}`; :math:`n` is the same for all cells, so that they can be compared. All peaks of all cells are
    never held: ask for some peaks of each cell, or for the mean of groups of cells.

    Parameters
    ----------
    data
        A MuData with the modality `modality`, or an AnnData of cells x peaks.
    model
        A model, its name or directory; None is the bundled one.
    peaks
        Names of peaks of the data, or regions such as ``"chr1:1000-50000"``. None: all, which needs `groupby`.
    groupby
        Column of ``obs``: means over the cells of each group. None: each cell by itself, which needs `peaks`.
    depth
        Number of open peaks, of those that the model knows, to predict for; None: the median over the cells.
    modality
        Name in the MuData.
    key_added
        Replaces ``epifoundation`` in all names that are written.
    min_overlap, genome, liftover, min_coverage
        How the data's peaks are matched to the model's: see :func:`epifoundation.pp.map_peaks`.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    copy
        Return a copy with the results and leave `data` as it is.

    Returns
    -------
    None, or the copy. Written into the ATAC modality: without `groupby`, ``obsm["epifoundation_accessibility"]``, a DataFrame of cells x `peaks`; with
    it, ``varm["epifoundation_accessibility"]``, a DataFrame of peaks x groups. Probabilities, float32; NaN for peaks that the model does not know or
    that were not asked for, and for cells without a known open peak. A peak that overlaps several of the model's is open when one of them is.

    Raises
    ------
    ValueError
        Neither `peaks` nor `groupby`; a model without a head for peaks; peaks that are not in the data.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()[:200].copy()
    >>> ep.tl.impute_accessibility(mdata, groupby="cell_type")
    >>> mdata["atac"].varm["epifoundation_accessibility"].shape[0] == mdata["atac"].n_vars
    True
    """
    keys = Keys.of(key_added)
    atac = get_atac(data, modality)
    check_writable(data, atac, copy=copy)
    if peaks is None and groupby is None:
        msg = f"All {atac.n_vars:,} peaks of {atac.n_obs:,} cells are too many: name some with `peaks=`, or pass `groupby=` for the mean of groups."
        raise ValueError(msg)
    if depth is not None and (
        isinstance(depth, bool) or not isinstance(depth, int | float | np.number) or not depth > 0
    ):
        msg = f"`depth` must be a positive number of open peaks or None, got {depth!r}."
        raise ValueError(msg)
    model = resolve_model(model, device)
    head = model.network.peaks
    if head is None:
        msg = f"The model {model.name!r} has no head for peaks: its decoder is the paper's. Pretrain with `decoder='linear'` or `objective='peaks'`."
        raise ValueError(msg)
    mapping = map_onto(
        model.peaks, atac.var, min_overlap=min_overlap, genome=genome, liftover=liftover
    )
    mapping.check(min_coverage)
    asked = np.ones(atac.n_vars, dtype=bool) if peaks is None else peak_columns(atac, peaks)
    projection = (
        sp.identity(atac.n_vars, np.float32, "csr")
        if mapping.projection is None
        else mapping.projection
    )
    columns = np.flatnonzero(asked & (np.diff(projection.indptr) > 0))
    to_data = projection[columns].T.tocsr()  # vocabulary x asked peaks
    groups = (
        None if groupby is None else obs_column(data, atac, groupby, "groupby").astype("category")
    )
    codes = None if groups is None else groups.cat.codes.to_numpy()

    embedding = np.full((atac.n_obs, model.network.dim), np.nan, dtype=np.float32)
    n_known = np.zeros(atac.n_obs)
    for rows, tokens, part in encode_cells(
        model, get_matrix(atac, None), mapping.projection, atac.obs_names
    ):
        embedding[rows], n_known[rows] = part.cpu().numpy(), np.diff(tokens.offsets)
    seen = np.flatnonzero(n_known > 0)
    n_open = float(depth or (np.median(n_known[seen]) if len(seen) else 1))
    n_groups = 0 if groups is None else len(groups.cat.categories)
    values = np.full(
        (atac.n_obs if groups is None else n_groups, len(columns)),
        np.nan if groups is None else 0.0,
        np.float32,
    )
    for start in range(0, len(seen), CELLS):
        cells = seen[start : start + CELLS]
        open_now = _open(head, torch.from_numpy(embedding[cells]).to(model.device), n_open, to_data)
        if codes is None:
            values[cells] = open_now
        else:
            of = codes[cells]
            to_group = sp.csr_matrix(
                (np.ones((of >= 0).sum()), (of[of >= 0], np.flatnonzero(of >= 0))),
                shape=(n_groups, len(cells)),
            )
            values += to_group @ open_now
    target = copy_of(data) if copy else data
    there = get_atac(target, modality)
    if groups is None:
        among = np.flatnonzero(asked)
        filled = np.full((atac.n_obs, len(among)), np.nan, dtype=np.float32)
        filled[:, np.searchsorted(among, columns)] = values
        there.obsm[keys.accessibility] = pd.DataFrame(
            filled, index=atac.obs_names, columns=atac.var_names[among]
        )
    else:
        size = np.bincount(codes[seen][codes[seen] >= 0], minlength=n_groups)  # type: ignore[index]
        filled = np.full((atac.n_vars, n_groups), np.nan, dtype=np.float32)
        with np.errstate(invalid="ignore"):  # a group without cells
            filled[columns] = (values / size[:, None]).T
        names = [str(name) for name in groups.cat.categories]
        there.varm[keys.accessibility] = pd.DataFrame(
            filled, index=atac.var_names, columns=pd.Index(names)
        )
    return target if copy else None


@torch.inference_mode()
def _open(
    head: PeakHead | MeasuredPeakHead,
    embedding: torch.Tensor,
    n_open: float,
    to_data: sp.csr_matrix,
) -> np.ndarray:
    """Probability that each asked peak of the data is open, (n_cells, n_asked): that one of the model's that it overlaps is."""
    expected = head(embedding).softmax(dim=-1).mul_(n_open).cpu().numpy()
    return -np.expm1(-np.asarray(to_data.T @ expected.T).T)
