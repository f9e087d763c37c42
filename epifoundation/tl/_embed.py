"""``ep.tl.embed``: embedding, predicted expression and cell types from open peaks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from .._docs import documented
from .._keys import Keys
from .._option_types import checked
from .._validate import Data, integer, one_of
from ..cells.source import Inputs
from ..inference.embedding import EmbeddingReadout
from ..inference.expression import check_batches, expression_head
from ..inference.labels import LabelReadout
from ..inference.predicted import ExpressionReadout
from ..inference.reader import DTYPES, Reader, Readout
from ..inference.runner import apply
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..peaks.options import PeakMapping, takes_mapping


@documented
@takes_mapping
@checked
def embed(
    data: Inputs,
    model: EpiFoundation | str | Path | None = None,
    *,
    modality: str = "atac",
    rna_modality: str = "rna",
    key_added: str | None = None,
    expression: bool = True,
    annotation: bool = True,
    batch_key: str | None = None,
    mapping: PeakMapping | None = None,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    output: str | Path | None = None,
    overwrite: bool = False,
    copy: bool = False,
) -> Data | Path | None:
    """Embed cells by their open peaks; predict their expression and annotate them.

    Peaks are mapped onto those of the model by genomic overlap, so any peaks of the same genome
    build can be used. The result of a cell depends on its open peaks only, not on batch size, order
    or other cells.

    Parameters
    ----------
    {data_or_files}
        A positive entry is an open peak; values are not used further. Dense, sparse or backed.
    {model}
    {modalities}
    {key_added}
    expression
        Predict expression, if the model has genes.
    annotation
        Annotate cell types, if the model has labels.
    {model_batch_key}
        The embedding does not depend on it.
    {mapping}
    {batch_size}
    {device}
        A model passed as an object is moved there.
    dtype
        Precision of the encoder; results are float32. ``"auto"``: bfloat16 for a transformer on a
        CUDA device that supports it, else float32. Results of a cell do not change with the other
        cells by more than 1e-5 in float32, and by rounding in bfloat16.
    {output}
    {copy}

    Returns
    -------
    None, or the copy; for cells that are read in blocks, the path of the file with the results.
    Written into the ATAC modality:

    - ``obsm["X_epifoundation"]``: embedding, float32 (n_cells, d);
    - ``obs["epifoundation_cell_type"]``, ``obs["epifoundation_confidence"]``: most probable label
      and its calibrated probability;
    - ``obsm["epifoundation_probabilities"]``: DataFrame, one column per label (read it with
      :func:`epifoundation.get.probabilities`: files do not accept all labels as keys);
    - ``obs["epifoundation_in_training"]``, ``obs["epifoundation_in_reference"]``: whether the
      encoder, and the labels, were learned from the cell, if the model recognizes its cells;
    - ``obs["epifoundation_coverage"]``: fraction of a cell's open peaks that the model knows;
    - ``uns["epifoundation"]``: model, parameters, names of labels and genes, and the report of the
      peak mapping;
    - ``obsm["epifoundation_expression"]``: DataFrame, predicted expression of all cells, one column
      per gene, unless all cells are in an RNA modality (:func:`epifoundation.get.expression` makes
      an AnnData of it);
    - for several files ``obs["epifoundation_file"]``, the file of each cell, and
      ``uns["epifoundation_files"]``, a DataFrame with the peak mapping of each; in an `output` file
      ``uns["epifoundation_run"]``, which identifies the call.

    Into the RNA modality, if it has some of the cells (by name): ``layers["epifoundation"]``,
    predicted expression, NaN for genes that the model does not know and for cells without ATAC. For
    a model trained on counts it is ``log1p`` of counts per 10,000;
    ``uns["epifoundation"]["expression_scale"]`` has the unit.

    Cells without a known open peak are NaN, with a warning. A transformer with a limit
    (``config.max_peaks``) reads a fixed subset of the open peaks of cells with more, with a
    warning.

    Raises
    ------
    ValueError
        Unknown modality, model or batch, peak names that are not intervals, duplicate names, too
        little overlap with the model's peaks, negative or NaN counts. `data` is then unchanged. For
        files: duplicate names of cells, unfinished results of another run.
    FileNotFoundError, FileExistsError, OSError
        A file does not exist; `output` exists and `overwrite` is False; a file cannot be read or
        written. Finished blocks are kept.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()
    >>> ep.tl.embed(mdata)
    >>> mdata["atac"].obsm["X_epifoundation"].shape[0] == mdata.n_obs
    True
    """
    keys = Keys.of(key_added)
    chunk = None if batch_size is None else integer(batch_size, "batch_size", minimum=1)
    one_of(dtype, ("auto", *DTYPES), "dtype")
    model = resolve_model(model, device)
    check_batches(model, batch_key)
    predicts = expression and len(model.genes) > 0
    parameters = {
        "modality": modality,
        "expression": expression,
        "annotation": annotation,
        "batch_key": batch_key or "",
        "dtype": dtype,
    }
    readouts: list[Readout] = [EmbeddingReadout(model, keys, parameters)]
    if annotation and model.labels:
        readouts.append(LabelReadout(model, keys))
    if predicts:
        readouts.append(ExpressionReadout(model, keys, expression_head(model), has_report=False))
    genes = model.genes.names if predicts else ()
    return apply(
        Reader(model, keys, readouts, genes, batch_key, chunk, dtype),
        data,
        modality=modality,
        rna_modality=rna_modality,
        mapping=mapping,
        output=output,
        overwrite=overwrite,
        copy=copy,
    )
