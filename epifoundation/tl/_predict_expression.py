"""``ep.tl.predict_expression``: expression of some genes, or on the scale of measured cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from .._docs import documented
from .._keys import Keys
from .._option_types import checked
from .._validate import Data, integer, one_of
from ..cells.source import Inputs
from ..inference.expression import check_batches, expression_head, find_genes
from ..inference.predicted import AnyExpressionHead, ExpressionReadout
from ..inference.reader import Reader
from ..inference.runner import apply
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..nn import LinearMeasuredHead, MeasuredHead
from ..peaks.options import PeakMapping, takes_mapping


@documented
@takes_mapping
@checked
def predict_expression(
    data: Inputs,
    model: EpiFoundation | str | Path | None = None,
    *,
    genes: str | Sequence[str] | None = None,
    scale: Literal["mean", "measured"] = "mean",
    batch_key: str | None = None,
    modality: str = "atac",
    rna_modality: str = "rna",
    key_added: str | None = None,
    mapping: PeakMapping | None = None,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    output: str | Path | None = None,
    overwrite: bool = False,
    copy: bool = False,
) -> Data | Path | None:
    """Predict the expression of genes from open peaks.

    The same values as those of :func:`epifoundation.tl.embed`, for the requested genes and without
    the embedding; or on the measured scale.

    Parameters
    ----------
    {data_or_files}
    {model}
    genes
        Names or identifiers of genes that the model knows; if None, all of them.
    scale
        ``"mean"``: ``log1p`` of the mean counts per 10,000 of a cell, as
        :func:`epifoundation.tl.embed` gives. ``"measured"``: the mean of ``log1p`` of counts per
        10,000 in cells as deep as those of the training data. Compare measured cells, and means of
        them, with this one: in shallow cells, the two differ.
    {model_batch_key}
    {modalities}
    {key_added}
    {mapping}
    {batch_size}
    {device}
    {output}
    {copy}

    Returns
    -------
    None, or the copy; for cells that are read in blocks, the path of the results. If there is an
    RNA modality with all requested genes, and with some of the cells, matched by name,
    ``layers["epifoundation"]`` is written there, float32, NaN for other genes and for cells without
    ATAC. Unless it has all of the cells, ``obsm["epifoundation_expression"]`` of the ATAC modality
    is written, a DataFrame of all cells with one column per gene.
    ``uns["epifoundation_expression"]`` of the ATAC modality has model, scale, genes and options.
    Earlier predictions of the same name are removed. :func:`epifoundation.get.expression` returns
    the prediction as an AnnData.

    Unless `scale` is ``"measured"``, the unit is ``log1p`` of counts per 10,000 for a model that
    was trained on counts, the probability of being expressed for ``"binary"``, the scale of the
    training data for ``"gaussian"``. Cells without a known open peak are NaN, with a warning.

    Raises
    ------
    ValueError
        A gene that the model does not know (with similar names); a model without expression, or
        without the scale; what :func:`epifoundation.tl.embed` raises. `data` is then unchanged.

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
    chunk = None if batch_size is None else integer(batch_size, "batch_size", minimum=1)
    model = resolve_model(model, device)
    is_measured = scale == "measured"
    head: AnyExpressionHead = (
        _measured_head(model, batch_key) if is_measured else expression_head(model)
    )
    check_batches(model, batch_key)
    names, positions = ([], None) if genes is None else find_genes(model, genes)
    readout = ExpressionReadout(model, keys, head, scale, names, positions, batch_key)
    known = model.genes.names
    predicted = known if positions is None else [known[i] for i in positions]
    return apply(
        Reader(model, keys, [readout], predicted, batch_key, chunk),
        data,
        modality=modality,
        rna_modality=rna_modality,
        mapping=mapping,
        output=output,
        overwrite=overwrite,
        copy=copy,
    )


def _measured_head(
    model: EpiFoundation, batch_key: str | None
) -> LinearMeasuredHead | MeasuredHead:
    """The head for the measured scale; ValueError if there is none, or if batches are given."""
    if model.network.measured is None:
        msg = (
            f"The model {model.name!r} does not support `scale='measured'`; only models trained on "
            "counts with this version do (`ep.tl.pretrain`, or `ep.tl.finetune(rank=None)`). Pass "
            "`scale='mean'`."
        )
        raise ValueError(msg)
    if batch_key is not None:
        msg = (
            "`scale='measured'` predicts the mean over batches: leave out `batch_key`, or pass "
            "`scale='mean'`."
        )
        raise ValueError(msg)
    return model.network.measured
