"""``ep.tl.predict_expression``: the expression of chosen genes from open peaks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from .._keys import Keys
from .._validate import Data, integer, one_of
from ..inference.expression import asked_genes, check_batches, expression_head
from ..inference.plan import Matching
from ..inference.predicted import Expression, Head
from ..inference.reader import Reader
from ..inference.runner import Cells, apply
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..nn import LinearMeasuredHead, MeasuredHead
from ..pp._map_peaks import MIN_COVERAGE


def predict_expression(
    data: Cells,
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
    output: str | Path | None = None,
    overwrite: bool = False,
    copy: bool = False,
) -> Data | Path | None:
    """Predict the expression of genes in cells of which there is ATAC alone.

    The same numbers as those of :func:`epifoundation.tl.embed`, for the genes that are asked for, and without the embedding; or the scale of
    measured cells.

    Parameters
    ----------
    data
        A MuData with the modality `modality`, or an AnnData of cells x peaks; or paths of such, which are read by blocks.
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
    output, overwrite
        File of results for cells that are read by blocks, as in :func:`epifoundation.tl.embed`; ``layers["epifoundation"]`` is the expression.
    copy
        Return a copy with the results and leave `data` as it is; for cells in memory.

    Returns
    -------
    None, or the copy; for cells that are read by blocks, the path of the results. Where there is an RNA modality that has all the genes that were asked for, ``layers["epifoundation"]`` is written
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
    model = resolve_model(model, device)
    head: Head = _measured_head(model, batch_key) if scale == "measured" else expression_head(model)
    check_batches(model, batch_key)
    names, asked = ([], None) if genes is None else asked_genes(model, genes)
    readout = Expression(model, keys, head, scale, names, asked, batch_key)
    known = model.genes.names
    predicted = known if asked is None else [known[i] for i in asked]
    return apply(
        Reader(model, keys, [readout], predicted, batch_key, chunk),
        data,
        modality=modality,
        rna_modality=rna_modality,
        matching=Matching(min_overlap, genome, liftover, min_coverage),
        output=output,
        overwrite=overwrite,
        copy=copy,
    )


def _measured_head(
    model: EpiFoundation, batch_key: str | None
) -> LinearMeasuredHead | MeasuredHead:
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
