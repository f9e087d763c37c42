"""Effects of open peaks on the expression of genes, by the model and by measured expression."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from tqdm import tqdm

from ..inference.encode import encode_cells
from ..inference.removals import iter_removals, unroll
from ..models import EpiFoundation
from ..nn import ExpressionHead, QueryHead
from .cells import LinkCells, family_of
from .direct_effects import direct_effects
from .fine_mapping import fine_map, inflation_of
from .pairs import Pairs

N_STATES = 20  # principal components of the embedding, whose effects on a gene are free
CELLS_FOR_STATE = 20  # for each of them


class MeasuredCells(NamedTuple):
    """Cells with measured expression, and the prediction for them.

    Attributes
    ----------
    measured, predicted
        Expression of genes and its prediction on the link scale, (n_cells, n_genes).
    is_open
        Open peaks, (n_cells, n_peaks).
    state
        Log of the number of open peaks, and principal components of the embedding.
    family
        The likelihood of expression.
    """

    measured: np.ndarray
    predicted: np.ndarray
    is_open: sp.csc_matrix
    state: np.ndarray
    family: str


def model_effects(
    model: EpiFoundation,
    head: ExpressionHead | QueryHead,
    cells: LinkCells,
    genes: np.ndarray,
    pairs: Pairs,
    bar: tqdm,
) -> tuple[np.ndarray, np.ndarray]:
    """Effect of a peak on a gene through the embedding, (n_pairs,), on the link scale.

    The mean of the prediction with the peak minus the one without, over cells in which closing the
    peak changes the tokens; 0 if there are none. And the mean change of the embedding by each peak,
    (n_peaks, dim).
    """
    n_peaks = cells.matrix.shape[1]
    wanted = np.zeros(n_peaks, dtype=bool)
    wanted[pairs.peak] = True
    predict = head.predictor(torch.from_numpy(genes).to(model.device), link=True)
    # Pairs of peak p are `order[begin[p] : begin[p + 1]]`
    order = np.argsort(pairs.peak, kind="stable")
    begin = np.searchsorted(pairs.peak[order], np.arange(n_peaks + 1))
    total, count = np.zeros(len(order)), np.zeros(len(order))
    moved = np.zeros((n_peaks, model.network.dim))
    batch = cells.batch_on(model)
    for part in iter_removals(
        model, cells.source, cells.projection, peaks=wanted, folded=cells.folded, bar=bar
    ):
        *predicted, row = part.predict(predict, batch)
        before, after = (values.cpu().numpy() for values in predicted)
        step = (part.before - part.after).cpu().numpy()
        usable = np.isfinite(step).all(axis=1)
        entries = (usable.astype(float), (part.peaks, np.arange(len(usable))))
        to_peak = sp.csr_matrix(entries, shape=(n_peaks, len(usable)))
        moved += to_peak @ np.where(usable[:, None], step, 0)
        removal, within = unroll(np.diff(begin)[part.peaks])
        pair = order[begin[part.peaks][removal] + within]
        gene = pairs.gene[pair]
        change = before[row[removal], gene] - after[removal, gene]
        finite = np.isfinite(change)
        total += np.bincount(pair[finite], change[finite], minlength=len(total))
        count += np.bincount(pair[finite], minlength=len(count))
    return total / np.maximum(count, 1), moved / np.maximum(cells.n_open(), 1)[:, None]


def gene_directions(
    model: EpiFoundation, head: ExpressionHead | QueryHead, cells: LinkCells
) -> np.ndarray:
    """Directions of the embedding along which genes rise relative to others, unit length.

    By regression of all predicted genes on the embedding of some cells; (n_genes of the model,
    dim).
    """
    z, y = (part.astype(np.float64) for part in _predict(model, head, cells, None))
    known = np.isfinite(z).all(axis=1)
    z, y = z[known] - z[known].mean(axis=0), y[known] - y[known].mean(axis=0)
    inner = z.T @ z
    slope = np.linalg.solve(
        inner + 1e-4 * max(np.trace(inner) / len(inner), 1e-12) * np.eye(len(inner)), z.T @ y
    ).T
    slope -= slope.mean(axis=0)
    return slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-30)


def measured_cells(
    model: EpiFoundation, head: ExpressionHead | QueryHead, cells: LinkCells, genes: np.ndarray
) -> MeasuredCells:
    """The cells that have measured expression and a prediction."""
    embedding, predicted = _predict(model, head, cells, genes)
    measured, family = np.asarray(cells.measured), family_of(model)
    usable = ~np.isnan(predicted).any(axis=1) & ~np.isnan(measured).any(axis=1)
    usable &= np.isfinite(embedding).all(axis=1)
    if family == "counts":
        usable &= np.asarray(cells.total) > 0
        with np.errstate(divide="ignore"):
            predicted = predicted + np.log(np.asarray(cells.total, dtype=np.float64))[:, None]
    if family == "binary":
        measured = (measured > 0).astype(np.float64)
    pattern = sp.csc_matrix(cells.matrix[np.flatnonzero(usable)])
    pattern = sp.csc_matrix(
        (pattern.data > 0, pattern.indices, pattern.indptr), shape=pattern.shape
    )
    state = _states(embedding[usable].astype(np.float64), pattern)
    predicted = predicted[usable].astype(np.float64)
    return MeasuredCells(measured[usable], predicted, pattern, state, family)


def _states(embedding: np.ndarray, pattern: sp.csc_matrix) -> np.ndarray:
    """Log of the number of open peaks of cells, and scores of principal components, unit scale."""
    depth = np.log1p(np.asarray(pattern.sum(axis=1), np.float64))
    used = min(N_STATES, len(embedding) // CELLS_FOR_STATE)
    if not used:
        return depth
    left, scale, _ = np.linalg.svd(embedding - embedding.mean(axis=0), full_matrices=False)
    left = left[:, :used][:, scale[:used] > 1e-6 * scale[0]]
    return np.hstack([depth, left * np.sqrt(len(left))])


def measured_effects(cells: MeasuredCells, pairs: Pairs, bar: tqdm) -> np.ndarray:
    """Effects of open peaks on measured expression beyond the prediction of the model, (n_pairs,).

    Peaks of one locus are fitted together.
    """
    effect = np.zeros(len(pairs.gene))
    for locus in _loci(pairs):
        bar.update()
        gene = pairs.gene[locus[0]]
        is_open = np.asarray(cells.is_open[:, pairs.peak[locus]].todense(), dtype=np.float64)
        seen = is_open.any(axis=0)  # effects of other peaks stay at the prior, 0
        if not seen.any():
            continue
        y, offset, x = cells.measured[:, gene], cells.predicted[:, gene], is_open[:, seen]
        if cells.family == "counts":
            y, offset, x = _join_closed(y, offset, x)
        effect[locus[seen]] = direct_effects(y, offset, x, cells.family)
    return effect


def inclusion(cells: MeasuredCells, pairs: Pairs, min_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Inclusion probability and number of the credible set of each pair that is no control.

    Both (n_pairs,), NaN and 0 for peaks that are open in fewer than `min_cells` cells. The controls
    of a gene show by how much the evidence for peaks without an effect is inflated.
    """
    pip = np.full(len(pairs.gene), np.nan)
    credible_set = np.zeros(len(pairs.gene), dtype=np.int64)
    n_open = np.asarray(cells.is_open.sum(axis=0)).ravel()
    seen = n_open[pairs.peak] >= min_cells
    for locus in _loci(pairs):
        here = locus[seen[locus]]
        if pairs.is_control[locus[0]] or not len(here):
            continue
        gene = pairs.gene[here[0]]
        begin, end = np.searchsorted(pairs.gene, [gene, gene + 1])
        is_elsewhere = (pairs.is_control & seen)[begin:end]
        elsewhere = np.unique(pairs.peak[begin:end][is_elsewhere])
        y, offset = cells.measured[:, gene], cells.predicted[:, gene]
        inflation = inflation_of(
            y, offset, cells.is_open[:, elsewhere], cells.family, covariates=cells.state
        )
        pip[here], credible_set[here] = fine_map(
            y,
            offset,
            cells.is_open[:, pairs.peak[here]],
            cells.family,
            covariates=cells.state,
            inflation=inflation,
        )
    return pip, credible_set


def _loci(pairs: Pairs) -> list[np.ndarray]:
    """Positions of the pairs of each locus."""
    edges = np.flatnonzero(np.diff(pairs.locus, prepend=-1))
    return np.split(np.arange(len(pairs.gene)), edges[1:])


def _join_closed(
    measured: np.ndarray, predicted: np.ndarray, is_open: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join all cells without an open peak, which have one Poisson likelihood: that of their sum."""
    some = is_open.any(axis=1)
    if some.all():
        return measured, predicted, is_open
    rate = np.log(np.exp(predicted[~some]).sum())
    return (
        np.append(measured[some], measured[~some].sum()),
        np.append(predicted[some], rate),
        np.vstack([is_open[some], np.zeros(is_open.shape[1])]),
    )


def _predict(
    model: EpiFoundation,
    head: ExpressionHead | QueryHead,
    cells: LinkCells,
    genes: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Embedding and predicted genes (None: all) on the link scale, of all cells."""
    predict = head.predictor(
        None if genes is None else torch.from_numpy(genes).to(model.device), link=True
    )
    batch = cells.batch_on(model)
    embedded, predicted = [], []
    for rows, _, embedding in encode_cells(
        model, cells.source, cells.projection, show=False, folded=cells.folded
    ):
        with torch.inference_mode():
            embedded.append(embedding.cpu().numpy())
            predicted.append(
                predict(embedding, None if batch is None else batch[rows]).cpu().numpy()
            )
    return np.concatenate(embedded), np.concatenate(predicted)
