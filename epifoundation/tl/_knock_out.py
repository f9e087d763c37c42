"""``ep.tl.knock_out`` and ``ep.tl.scan_knock_outs``: predictions for cells without some peaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from tqdm import tqdm

from .._docs import documented
from .._keys import Keys
from .._option_types import checked
from .._settings import settings
from .._warn import warn
from ..cells.formats import opened
from ..cells.rows import LoadedRows, iter_rows
from ..cells.source import Located, Source
from ..cells.tokens import Tokens, iter_tokens
from ..inference.encode import tensors
from ..inference.expression import batch_codes, expression_head, find_genes, scale_of
from ..inference.knock_out import KnockOut, summarize
from ..inference.removals import iter_removals
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..nn import Known
from ..peaks.options import PeakMapping, takes_mapping
from ..peaks.select import select_peaks
from ..pp._map_peaks import map_source


class KnockOuts(NamedTuple):
    """Changes of genes if the peak ``var_names[peaks[i]]`` is closed in ``obs_names[cells[i]]``."""

    cells: np.ndarray
    peaks: np.ndarray
    change: np.ndarray


@documented
@takes_mapping
@checked
def knock_out(
    data: Located,
    model: EpiFoundation | str | Path | None = None,
    *,
    peaks: str | Sequence[str],
    genes: str | Sequence[str] | None = None,
    groupby: str | None = None,
    batch_key: str | None = None,
    modality: str = "atac",
    mapping: PeakMapping | None = None,
    device: str | torch.device = "auto",
) -> KnockOut:
    """Predict how expression and cell type probabilities change if peaks are closed in every cell.

    Equal to setting their columns to zero and predicting again; only cells in which one of them is
    open are computed. This is a prediction of the model, not the result of an experiment.

    Parameters
    ----------
    {data_or_file}
    {model}
    peaks
        Name of a peak; a region such as ``"chr1:1000-50000"``, for all peaks that overlap it; or
        several of either. They are closed together.
    genes
        Names of genes that the model knows; if None, all of them.
    groupby
        Column of ``obs`` with groups of cells, such as cell types, for ``summary``.
    {model_batch_key}
    {modality}
    {mapping}
    {device}

    Returns
    -------
    With ``expression`` (DataFrame, cells x genes: without the peaks minus with them, in the unit of
    the model), ``probabilities`` (DataFrame, cells x labels), ``n_removed`` (open peaks that were
    closed in each cell), ``peaks`` (their names), ``scale``, and with `groupby` ``summary``
    (DataFrame: mean change, standard error and quartiles by group, and in how many cells a peak is
    open), which :func:`epifoundation.pl.knock_out` draws.

    Raises
    ------
    ValueError
        A name that is neither a peak of the data nor a region, a region without peaks, peaks that
        the model does not know, unknown genes, genes with a model that predicts no expression, a
        column that does not exist or is missing for every cell.

    Examples
    --------
    >>> import epifoundation as ep
    >>> atac = ep.datasets.pbmc_multiome()["atac"][:100].copy()
    >>> change = ep.tl.knock_out(atac, peaks=atac.var_names[0], genes=["MS4A1"])
    >>> change.expression.shape, int(change.n_removed.max())
    ((100, 1), 1)
    """
    model = resolve_model(model, device)
    head = expression_head(model) if genes is not None or len(model.genes) else None
    names, positions = model.genes.names, np.arange(len(model.genes))
    if genes is not None:
        names, positions = find_genes(model, genes)
    with opened(data, modality, "the data") as source:
        groups = None if groupby is None else source.column(groupby, "groupby")
        if groups is not None and groups.isna().all():
            msg = f"`groupby={groupby!r}` is missing for every cell."
            raise ValueError(msg)
        closed, projection, batch = _prepare(source, model, mapping, peaks, batch_key)
        obs_names = source.names(0, source.n_obs)
        expression = np.zeros((source.n_obs, len(names)), dtype=np.float32)
        probabilities = np.zeros((source.n_obs, len(model.labels)), dtype=np.float32)
        n_removed = np.zeros(source.n_obs, dtype=np.int64)
        for rows, count, changed in _changes(model, source, projection, closed, positions, batch):
            n_removed[rows] = count
            expression[rows], probabilities[rows] = changed
    frames = {
        "expression": pd.DataFrame(expression, index=obs_names, columns=pd.Index(names)),
        "probability": pd.DataFrame(probabilities, index=obs_names, columns=pd.Index(model.labels)),
    }
    counts = pd.Series(n_removed, index=obs_names)
    return KnockOut(
        frames["expression"],
        frames["probability"],
        counts,
        list(source.var.index[closed]),
        scale_of(model) if head is not None else "",
        None if groups is None else summarize(frames, counts, groups),
    )


@documented
@takes_mapping
@checked
def scan_knock_outs(
    data: Located,
    model: EpiFoundation | str | Path | None = None,
    *,
    genes: str | Sequence[str],
    peaks: str | Sequence[str] | None = None,
    batch_key: str | None = None,
    modality: str = "atac",
    mapping: PeakMapping | None = None,
    device: str | torch.device = "auto",
) -> Iterator[KnockOuts]:
    """Predict how expression changes if each open peak of each cell is closed on its own.

    With a set encoder, the vector of a peak is subtracted from the sum of its cell, so a knock-out
    is cheap; a transformer encodes the cell again for each. Results come in pieces, as there may be
    millions of them.

    Parameters
    ----------
    {data_or_file}
    {model}
    genes
        Names of genes that the model knows.
    peaks
        Peaks or regions, as for :func:`knock_out`, to close one at a time; if None, all.
    {model_batch_key}
    {modality}
    {mapping}
    {device}

    Returns
    -------
    An iterator over pieces: ``cells`` and ``peaks``, rows and columns of the data, (n,), and
    ``change``, (n, n_genes) float32: without the peak minus with it, in the unit of the model.
    Knock-outs that change nothing are left out: the model does not know the peak, or another open
    peak overlaps the same peak of the model. NaN if no peak remains in a cell.

    Raises
    ------
    ValueError
        As :func:`knock_out`.

    Examples
    --------
    >>> import epifoundation as ep
    >>> atac = ep.datasets.pbmc_multiome()["atac"][:20].copy()
    >>> pieces = ep.tl.scan_knock_outs(atac, "pbmc-51loci", genes="MS4A1")
    >>> n = sum(len(piece.cells) for piece in pieces)
    >>> n == atac.X.nnz
    True
    """
    model = resolve_model(model, device)
    head = expression_head(model)
    _, positions = find_genes(model, genes)
    predict = head.predictor(torch.from_numpy(positions).to(model.device))
    with opened(data, modality, "the data") as source:  # so that errors are raised at the call
        closed, projection, batch = _prepare(source, model, mapping, peaks, batch_key)

    def pieces() -> Iterator[KnockOuts]:
        with opened(data, modality, "the data") as source:
            for part in iter_removals(model, source, projection, peaks=closed):
                before, after, row = part.predict(predict, batch)
                change = after - before[torch.from_numpy(row).to(model.device)]
                yield KnockOuts(part.cells, part.peaks, change.cpu().numpy())

    return pieces()


def _prepare(
    source: Source,
    model: EpiFoundation,
    mapping: PeakMapping | None,
    peaks: str | Sequence[str] | None,
    batch_key: str | None,
) -> tuple[np.ndarray, sp.csr_matrix | None, torch.Tensor | None]:
    """Peaks to close, boolean; the projection of the peaks; the batch of each cell."""
    projection = map_source(source, model, mapping, Keys()).projection
    closed = np.ones(len(source.var), bool)
    if peaks is not None:
        closed = select_peaks(source.var, peaks)
        _check_known(source.var.index, closed, projection, model)
    if batch_key is None:
        return closed, projection, None
    codes = batch_codes(source, batch_key, model)
    return closed, projection, torch.from_numpy(codes).to(model.device)


def _changes(
    model: EpiFoundation,
    source: Source,
    projection: sp.csr_matrix | None,
    closed: np.ndarray,
    genes: np.ndarray,
    batch: torch.Tensor | None,
) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
    """Rows in which a peak is closed, how many are, and changes of expression and probabilities."""
    network = model.network
    folded, label, expression = network.folded(), network.label, network.expression
    predict = None
    if expression is not None and len(genes):
        predict = expression.predictor(torch.from_numpy(genes).to(model.device))

    def tokens_of(rows: sp.csr_matrix) -> Tokens:
        names = pd.RangeIndex(rows.shape[0])  # values were checked before
        ((_, tokens),) = iter_tokens(LoadedRows(rows, names), projection, chunk=len(names))
        return tokens

    @torch.inference_mode()
    def read(tokens: Tokens, cells: np.ndarray, known: Known) -> list[np.ndarray]:
        embedding = folded.encode(*tensors(model, tokens), known)
        of_cells = None if batch is None else batch[cells]
        nothing = torch.zeros(len(cells), 0)
        found = nothing if predict is None else predict(embedding, of_cells)
        return [found.cpu().numpy(), (label(embedding) if label else nothing).cpu().numpy()]

    with tqdm(
        total=source.n_obs, desc="Knock-out", unit=" cells", disable=not settings.progress
    ) as bar:
        for at, rows in iter_rows(source, chunk=folded.chunk):
            bar.update(rows.shape[0])
            is_closed = (rows.data > 0) & closed[rows.indices]
            counted = sp.csr_matrix((is_closed, rows.indices, rows.indptr), shape=rows.shape)
            count = np.asarray(counted.sum(axis=1)).ravel()
            affected = np.flatnonzero(count)
            if not len(affected):
                continue
            before = rows[affected]
            after = before.copy()
            after.data[closed[after.indices]] = 0
            cells = at.start + affected
            old, new = tokens_of(before), tokens_of(after)
            known = model.known(old.ids, old.offsets)  # counted cells stay left out
            pairs = zip(read(old, cells, known), read(new, cells, known), strict=True)
            yield cells, count[affected], [changed - given for given, changed in pairs]


def _check_known(
    names: pd.Index, mask: np.ndarray, projection: sp.csr_matrix | None, model: EpiFoundation
) -> None:
    """Raise ValueError if the model knows none of the peaks; warn if it does not know some."""
    if projection is None:
        return
    unknown = mask & (np.diff(projection.indptr) == 0)
    msg = (
        f"{int(unknown.sum()):,} of the {int(mask.sum()):,} peaks are not known to the model "
        f"{model.name!r}"
    )
    if unknown.sum() == mask.sum():
        msg += f" ({list(names[unknown][:3])}): closing them changes nothing. "
        msg += "`ep.pp.map_peaks` writes which peaks it knows."
        raise ValueError(msg)
    if unknown.any():
        warn(f"{msg}; closing these changes nothing.")
