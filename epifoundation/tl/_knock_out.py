"""``ep.tl.knock_out``: what a cell's expression and label would be without some of its open peaks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from tqdm import tqdm

from .._settings import settings
from .._validate import Data, get_atac, get_matrix
from ..cells.tokens import Tokens, iter_tokens, read_rows, row_reader
from ..genome import overlaps, parse_intervals, read_intervals
from ..inference.encode import tensors
from ..inference.expression import asked_genes, batch_codes, expression_head, scale_of
from ..inference.removals import iter_removals
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..nn import Known
from ..peaks.mapping import map_onto
from ..pp._map_peaks import MIN_COVERAGE


@dataclass(frozen=True)
class KnockOut:
    """What is left of cells when peaks are closed, less what there was.

    Parameters
    ----------
    expression
        Change of the predicted expression, cells x genes, on the model's scale (`scale`).
    probabilities
        Change of the calibrated probability of each label, cells x labels.
    n_removed
        How many of the peaks were open in each cell. Where none was, changes are 0; where nothing is left that the model knows, NaN.
    peaks
        Names of the peaks that were closed.
    scale
        What a number of `expression` means.
    """

    expression: pd.DataFrame
    probabilities: pd.DataFrame
    n_removed: pd.Series
    peaks: list[str]
    scale: str


class KnockOuts(NamedTuple):
    """Some single knock-outs: of the cell ``obs_names[cells[i]]`` and the peak ``var_names[peaks[i]]``, the change of each gene."""

    cells: np.ndarray
    peaks: np.ndarray
    change: np.ndarray


def knock_out(
    data: Data,
    model: EpiFoundation | str | Path | None = None,
    *,
    peaks: str | Sequence[str],
    genes: str | Sequence[str] | None = None,
    batch_key: str | None = None,
    modality: str = "atac",
    min_overlap: float = 0.0,
    genome: str | None = None,
    liftover: str | Path | None = None,
    min_coverage: float = MIN_COVERAGE,
    device: str | torch.device = "auto",
) -> KnockOut:
    """Close peaks in every cell, and tell how predicted expression and annotation change.

    The same as setting their columns to zero and predicting again; only cells in which one of them is open are computed. That is what the
    model makes of the cell without the peak: a prediction, no experiment.

    Parameters
    ----------
    data
        A MuData with the modality `modality`, or an AnnData of cells x peaks. Not changed.
    model
        A model, its name or directory; None is the bundled one.
    peaks
        Name of a peak; a region such as ``"chr1:1000-50000"``, for all peaks that overlap it; or several of either. They are closed together.
    genes
        Names of genes that the model knows; None for all of them.
    batch_key
        Column of ``obs`` with batches that the model was trained on, to predict expression for; None: for the mean batch.
    modality
        Name in the MuData.
    min_overlap, genome, liftover, min_coverage
        How the data's peaks are matched to the model's: see :func:`epifoundation.pp.map_peaks`.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Returns
    -------
    With ``expression`` (DataFrame, cells x genes: after less before, on the model's scale), ``probabilities`` (DataFrame, cells x labels),
    ``n_removed`` (open peaks that were closed in each cell), ``peaks`` (their names) and ``scale``.

    Raises
    ------
    ValueError
        A name that is no peak of the data and no region, a region without peaks, peaks that the model does not know, unknown genes, genes from a
        model that predicts no expression.

    Examples
    --------
    >>> import epifoundation as ep
    >>> atac = ep.datasets.pbmc_multiome()["atac"][:100].copy()
    >>> change = ep.tl.knock_out(atac, peaks=atac.var_names[0], genes=["MS4A1"])
    >>> change.expression.shape, int(change.n_removed.max())
    ((100, 1), 1)
    """
    atac = get_atac(data, modality)
    model = resolve_model(model, device)
    head = expression_head(model) if genes is not None or len(model.genes) else None
    names, asked = (
        (model.genes.names, np.arange(len(model.genes)))
        if genes is None
        else asked_genes(model, genes)
    )
    mapping = map_onto(
        model.peaks, atac.var, min_overlap=min_overlap, genome=genome, liftover=liftover
    )
    mapping.check(min_coverage)
    closed = peak_columns(atac, peaks)
    _check_known(atac, closed, mapping.projection, model)
    codes = None if batch_key is None else batch_codes(data, atac, batch_key, model)
    predict = (
        None
        if head is None
        else head.predictor(torch.from_numpy(np.asarray(asked)).to(model.device))
    )
    expression = np.zeros((atac.n_obs, len(names)), dtype=np.float32)
    probabilities = np.zeros((atac.n_obs, len(model.labels)), dtype=np.float32)
    n_removed = np.zeros(atac.n_obs, dtype=np.int64)
    folded = model.network.folded()

    def tokens_of(rows: sp.csr_matrix, cells: np.ndarray) -> Tokens:
        ((_, tokens),) = iter_tokens(
            rows, mapping.projection, atac.obs_names[cells], chunk=len(cells)
        )
        return tokens

    @torch.inference_mode()
    def read(tokens: Tokens, cells: np.ndarray, known: Known) -> list[np.ndarray]:
        embedding = folded.encode(*tensors(model, tokens), known)
        batch = None if codes is None else torch.from_numpy(codes[cells]).to(model.device)
        label = model.network.label
        found = [
            torch.zeros(len(cells), 0) if predict is None else predict(embedding, batch),
            torch.zeros(len(cells), 0) if label is None else label(embedding),
        ]
        return [part.cpu().numpy() for part in found]

    matrix = row_reader(get_matrix(atac, None))
    with tqdm(
        total=atac.n_obs, desc="Knock-out", unit=" cells", disable=not settings.progress
    ) as bar:
        for start in range(0, atac.n_obs, folded.chunk):
            rows = read_rows(matrix, start, min(start + folded.chunk, atac.n_obs))
            bar.update(rows.shape[0])
            positive = sp.csr_matrix(
                ((rows.data > 0) & closed[rows.indices], rows.indices, rows.indptr),
                shape=rows.shape,
            )
            count = np.asarray(positive.sum(axis=1)).ravel()
            affected = np.flatnonzero(count)
            if not len(affected):
                continue
            before = rows[affected]
            after = before.copy()
            after.data[closed[after.indices]] = 0
            cells = start + affected
            n_removed[cells] = count[affected]
            old_tokens, new_tokens = tokens_of(before, cells), tokens_of(after, cells)
            known = model.known(
                old_tokens.ids, old_tokens.offsets
            )  # a cell that was counted stays left out
            both = read(old_tokens, cells, known), read(new_tokens, cells, known)
            for into, old, new in zip((expression, probabilities), *both, strict=True):
                into[cells] = new - old
    return KnockOut(
        pd.DataFrame(expression, index=atac.obs_names, columns=pd.Index(names)),
        pd.DataFrame(probabilities, index=atac.obs_names, columns=pd.Index(model.labels)),
        pd.Series(n_removed, index=atac.obs_names),
        list(atac.var_names[closed]),
        scale_of(model) if head is not None else "",
    )


def scan_knock_outs(
    data: Data,
    model: EpiFoundation | str | Path | None = None,
    *,
    genes: str | Sequence[str],
    peaks: str | Sequence[str] | None = None,
    batch_key: str | None = None,
    modality: str = "atac",
    min_overlap: float = 0.0,
    genome: str | None = None,
    liftover: str | Path | None = None,
    min_coverage: float = MIN_COVERAGE,
    device: str | torch.device = "auto",
) -> Iterator[KnockOuts]:
    """Close each open peak of each cell by itself, and tell how predicted expression changes.

    With a set encoder, a peak is subtracted from the sum that a cell is, so that a knock-out costs next to nothing; a transformer reads the cell
    again for each of them. Results come in pieces, lest millions of them be held at once.

    Parameters
    ----------
    data
        A MuData with the modality `modality`, or an AnnData of cells x peaks. Not changed.
    model
        A model, its name or directory; None is the bundled one.
    genes
        Names of genes that the model knows.
    peaks
        Peaks or regions, as for :func:`knock_out`, to close one after the other; None for all.
    batch_key
        Column of ``obs`` with batches that the model was trained on; None: for the mean batch.
    modality
        Name in the MuData.
    min_overlap, genome, liftover, min_coverage
        How the data's peaks are matched to the model's: see :func:`epifoundation.pp.map_peaks`.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Returns
    -------
    An iterator over pieces: ``cells`` and ``peaks``, rows and columns of the data, (n,), and ``change``, (n, n_genes) float32: after less before, on the
    model's scale. Knock-outs that take nothing away from what the model reads, because it does not know the peak or another open peak stands for
    the same one of the model, are left out: they change nothing. Where nothing is left of a cell, NaN.

    Raises
    ------
    ValueError
        As :func:`knock_out`.

    Examples
    --------
    >>> import epifoundation as ep
    >>> atac = ep.datasets.pbmc_multiome()["atac"][:20].copy()
    >>> n = sum(len(piece.cells) for piece in ep.tl.scan_knock_outs(atac, genes="MS4A1"))
    >>> n == atac.X.nnz
    True
    """
    atac = get_atac(data, modality)
    model = resolve_model(model, device)
    head = expression_head(model)
    _, asked = asked_genes(model, genes)
    mapping = map_onto(
        model.peaks, atac.var, min_overlap=min_overlap, genome=genome, liftover=liftover
    )
    mapping.check(min_coverage)
    wanted = None if peaks is None else peak_columns(atac, peaks)
    if wanted is not None:
        _check_known(atac, wanted, mapping.projection, model)
    codes = None if batch_key is None else batch_codes(data, atac, batch_key, model)
    batch = None if codes is None else torch.from_numpy(codes).to(model.device)
    predict = head.predictor(torch.from_numpy(asked).to(model.device))

    def pieces() -> Iterator[
        KnockOuts
    ]:  # a function of its own, so that bad input is refused at the call
        for part in iter_removals(
            model, get_matrix(atac, None), mapping.projection, atac.obs_names, peaks=wanted
        ):
            before, after, row = part.predict(predict, batch)
            change = after - before[torch.from_numpy(row).to(model.device)]
            yield KnockOuts(part.cells, part.peaks, change.cpu().numpy())

    return pieces()


def peak_columns(atac: AnnData, peaks: str | Sequence[str]) -> np.ndarray:
    """Which columns are asked for, by name or by region, boolean (n_peaks,)."""
    asked = [peaks] if isinstance(peaks, str) else [str(name) for name in peaks]
    if not asked:
        msg = "`peaks` is empty: name at least one peak or region."
        raise ValueError(msg)
    mask = np.zeros(atac.n_vars, dtype=bool)
    position = atac.var_names.get_indexer(asked)
    mask[position[position >= 0]] = True
    others = [name for name, found in zip(asked, position, strict=True) if found < 0]
    if not others:
        return mask
    try:
        regions = parse_intervals(others)
    except ValueError as error:
        msg = (
            f"`peaks` holds what is neither a peak of the data nor a region: {others[:3]}. Peaks are called as {atac.var_names[0]!r}; "
            "a region is written as chr1:1000-50000."
        )
        raise ValueError(msg) from error
    own = read_intervals(atac.var)
    pairs = overlaps(regions, own)
    empty = np.setdiff1d(np.arange(len(regions)), pairs[:, 0])
    if len(empty):
        msg = f"No peak of the data overlaps {others[empty[0]]!r} ({len(empty):,} such regions); {_nearest(regions.iloc[empty[0]], own)}."
        raise ValueError(msg)
    mask[pairs[:, 1]] = True
    return mask


def _nearest(region: pd.Series, own: pd.DataFrame) -> str:
    here = own[own["chrom"] == region["chrom"]]
    if not len(here):
        return f"the data have no peak on {region['chrom']}, they have {sorted(own['chrom'].unique())[:5]}"
    gap = np.maximum(here["start"] - region["end"], region["start"] - here["end"]).clip(lower=0)
    nearest = here.loc[gap.idxmin()]
    return f"the nearest, {nearest['chrom']}:{nearest['start']}-{nearest['end']}, is {int(gap.min()):,} bases away"


def _check_known(
    atac: AnnData, mask: np.ndarray, projection: sp.csr_matrix | None, model: EpiFoundation
) -> None:
    if projection is None:
        return
    unknown = mask & (np.diff(projection.indptr) == 0)
    told = f"{int(unknown.sum()):,} of the {int(mask.sum()):,} peaks are not known to the model {model.name!r}"
    if unknown.sum() == mask.sum():
        msg = f"{told} ({list(atac.var_names[unknown][:3])}): closing them changes nothing. `ep.pp.map_peaks` tells which peaks it knows."
        raise ValueError(msg)
    if unknown.any():
        msg = f"{told}; closing these changes nothing."
        warnings.warn(msg, UserWarning, stacklevel=3)
