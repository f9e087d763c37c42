"""``ep.tl.predict_expression``: the expression of chosen genes from open peaks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from .._compat import copy_of
from .._keys import Keys
from .._validate import Data, check_writable, get_atac, get_matrix, integer, one_of
from .._version import __version__
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..nn import ExpressionHead, MeasuredHead, QueryHead
from ..pp._map_peaks import MIN_COVERAGE
from ..pp._mapping import map_onto
from ..vocabulary import GeneVocabulary
from ._encode import encode_cells
from ._expression import MEASURED, PredictedExpression, asked_genes, batch_codes, expression_head, rna_of, scale_of


def predict_expression(
    data: Data,
    model: EpiFoundation | str | Path | None = None,
    *,
    genes: str | Sequence[str] | None = None,
    scale: Literal["mean", "measured"] = "mean",
    batch_key: str | None = None,
    modality: str = "atac",
    rna_modality: str = "rna",
    key_added: str | None = None,
    min_overlap: float = 0.0,
    genome: str | None = None,
    liftover: str | Path | None = None,
    min_coverage: float = MIN_COVERAGE,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    copy: bool = False,
) -> Data | None:
    """Predict the expression of genes in cells of which there is ATAC alone.

    The same numbers as those of :func:`epifoundation.tl.embed`, for the genes that are asked for, and without the embedding; or the scale of
    measured cells.

    Parameters
    ----------
    data
        A MuData with the modality `modality`, or an AnnData of cells x peaks.
    model
        A model, its name or directory; None is the bundled one.
    genes
        Names or identifiers of genes that the model knows; None for all of them.
    scale
        ``"mean"``: ``log1p`` of the counts per 10,000 that a cell has on average, as :func:`epifoundation.tl.embed` gives. ``"measured"``: the average of
        ``log1p`` of counts per 10,000 in cells as deep as those that the model learned from, which is what measured cells, and means of
        them, are to be compared with; in shallow cells it is another number, and nearer to theirs.
    batch_key
        Column of ``obs`` with batches that the model was trained on: expression is predicted for the batch of each cell. None: for the mean
        over the batches.
    modality, rna_modality
        Names in the MuData.
    key_added
        Replaces ``epifoundation`` in all names that are written.
    min_overlap, genome, liftover, min_coverage
        How the data's peaks are matched to the model's: see :func:`epifoundation.pp.map_peaks`.
    batch_size
        Cells at a time; changes memory and speed, not results.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    copy
        Return a copy with the results and leave `data` as it is.

    Returns
    -------
    None, or the copy. Where there is an RNA modality that has all the genes that were asked for, ``layers["epifoundation"]`` is written
    there, float32, NaN for other genes and for cells without ATAC. Else ``obsm["epifoundation_expression"]`` of the ATAC modality, a
    DataFrame with one column a gene. ``uns["epifoundation_expression"]`` of the ATAC modality tells model, scale and options.

    Unless `scale` says otherwise, the scale is ``log1p`` of counts per 10,000 for a model that was trained on counts, the probability of being
    expressed for ``"binary"``, the scale of the training data for ``"gaussian"``. Cells without a known open peak get NaN, with a warning.

    Raises
    ------
    ValueError
        A gene that the model does not know, with names like it; a model without expression, or without the scale; what
        :func:`epifoundation.tl.embed` raises. `data` is then unchanged.

    Examples
    --------
    >>> import epifoundation as ep
    >>> atac = ep.datasets.pbmc_multiome()["atac"][:100].copy()
    >>> ep.tl.predict_expression(atac, genes=["CD79A", "MS4A1"])
    >>> atac.obsm["epifoundation_expression"].shape
    (100, 2)
    """
    keys = Keys.of(key_added)
    one_of(scale, ("mean", "measured"), "scale")
    chunk = None if batch_size is None else integer(batch_size, "batch_size", least=1)
    atac = get_atac(data, modality)
    check_writable(data, atac, copy=copy)
    model = resolve_model(model, device)
    head: ExpressionHead | QueryHead | MeasuredHead = expression_head(model)
    if scale == "measured":
        head = _measured_head(model, batch_key)
    names, asked = ([], None) if genes is None else asked_genes(model, genes)
    rna = rna_of(data, rna_modality)
    if (
        rna is not None
        and asked is not None
        and not set(asked) <= set(model.genes.match(GeneVocabulary.from_var(rna.var)))
    ):
        rna = None
    mapping = map_onto(model.peaks, atac.var, min_overlap=min_overlap, genome=genome, liftover=liftover)
    mapping.check(min_coverage)
    batches, unseen = (None, []) if batch_key is None else batch_codes(data, atac, batch_key, model)
    predicted = PredictedExpression(model, head, atac, rna, batches, asked)
    n_empty, n_open, n_known = 0, 0, 0
    total = matched = 0.0
    for rows, tokens, embedding in encode_cells(
        model, get_matrix(atac, None), mapping.projection, atac.obs_names, chunk=chunk
    ):
        predicted.take(rows, embedding)
        n_empty += int((tokens.n_known == 0).sum())
        n_open, n_known = n_open + int(tokens.n_open.sum()), n_known + int(tokens.n_known.sum())
        total, matched = total + tokens.total, matched + tokens.matched
    if n_empty:
        msg = f"{n_empty:,} of {atac.n_obs:,} cells have no open peak that the model knows; their expression is NaN."
        warnings.warn(msg, UserWarning, stacklevel=2)
    mapping.count(n_open, n_known, total, matched)
    mapping.tell()
    target = copy_of(data) if copy else data
    predicted.write(target, keys, modality, rna_modality)
    get_atac(target, modality).uns[keys.expression] = {
        "model": model.name,
        "revision": model.revision,
        "package_version": __version__,
        "scale": MEASURED if scale == "measured" else scale_of(model),
        "genes": names or "all",
        "batch_key": batch_key or "",
        "unseen_batches": unseen,
        "peaks": mapping.report,
    }
    return target if copy else None


def _measured_head(model: EpiFoundation, batch_key: str | None) -> MeasuredHead:
    """The head that is fitted when a model is trained, for the mean over batches; or an error."""
    if model.network.measured is None:
        msg = (
            f"The model {model.name!r} has no `scale='measured'`: models have it that were trained on counts (`ep.tl.pretrain`, or `ep.tl.finetune` of all "
            "weights) by this version or a later one. Use `scale='mean'`."
        )
        raise ValueError(msg)
    if batch_key is not None:
        msg = "`scale='measured'` is for the mean over batches: leave out `batch_key`, or use `scale='mean'`."
        raise ValueError(msg)
    return model.network.measured
