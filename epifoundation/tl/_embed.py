"""``ep.tl.embed``: cells in; embeddings, expression and annotations out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from .._keys import Keys
from .._validate import Data, integer, one_of
from ..inference.embedding import Embedding
from ..inference.expression import check_batches, expression_head
from ..inference.labels import Probabilities
from ..inference.plan import Matching
from ..inference.predicted import Expression
from ..inference.reader import DTYPES, Reader, Readout
from ..inference.runner import Cells, apply
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..pp._map_peaks import MIN_COVERAGE


def embed(
    data: Cells,
    model: EpiFoundation | str | Path | None = None,
    *,
    modality: str = "atac",
    rna_modality: str = "rna",
    key_added: str | None = None,
    expression: bool = True,
    annotation: bool = True,
    batch_key: str | None = None,
    min_overlap: float = 0.0,
    genome: str | None = None,
    liftover: str | Path | None = None,
    min_coverage: float = MIN_COVERAGE,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    output: str | Path | None = None,
    overwrite: bool = False,
    copy: bool = False,
) -> Data | Path | None:
    """Embed cells by their open peaks; predict their expression and annotate them.

    Peaks are matched to the model's by genomic overlap, so any peak set of the same genome build will do.
    A cell's result depends on its own open peaks alone: not on batch size, order, or the other cells.

    Parameters
    ----------
    data
        A MuData with the modality `modality`, or an AnnData of cells x peaks. A positive entry is an open
        peak; values are not used further. Dense, sparse or backed. Or the path of one (``.h5ad``, ``.h5mu``, zarr), a list of paths,
        or a mapping from names of samples to them: these are read by blocks, see `output`.
    model
        A model, its name or directory (see :func:`epifoundation.models.from_pretrained`); None is the
        bundled ``"pbmc-51loci"``.
    modality, rna_modality
        Names in the MuData.
    key_added
        Replaces ``epifoundation`` in all names that are written.
    expression
        Predict expression, when the model has genes.
    annotation
        Annotate cell types, when the model has labels.
    batch_key
        Column of ``obs`` with batches that the model was trained on: expression is predicted for the batch of each
        cell. None: for the mean over the batches. The embedding does not depend on it.
    min_overlap, genome, liftover, min_coverage
        How the data's peaks are matched to the model's, what is checked and what is refused: see
        :func:`epifoundation.pp.map_peaks`.
    batch_size
        Cells at a time; changes memory and speed, not results.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ... A model that is passed as an object is moved there.
    dtype
        What the encoder computes in; results are float32. ``"auto"``: bfloat16 for a transformer on a CUDA device that
        has it, else float32. A result is the same whatever else is embedded to 1e-5 in float32, in bfloat16 to its rounding.
    output
        File of results for cells that are read by blocks, ``.zarr`` or ``.h5ad``: an AnnData of the cells of all files, in their order,
        without their peaks; its ``var`` are the genes that are predicted, its ``layers["epifoundation"]`` their expression. Memory does
        not grow with the number of cells. Finished blocks are kept in ``<output>.partial`` until it is there, and the same call goes on
        from them after an interruption; started in several processes at once, these share the blocks. None: into `data` itself, which
        for a path means into the file.
    overwrite
        Replace what is at `output`, once the results are complete.
    copy
        Return a copy with the results and leave `data` as it is; for cells in memory.

    Returns
    -------
    None, or the copy; for cells that are read by blocks, the path of the results. Written into the ATAC modality:

    - ``obsm["X_epifoundation"]``: embedding, float32 (n_cells, d);
    - ``obs["epifoundation_cell_type"]``, ``obs["epifoundation_confidence"]``: most probable label and its
      calibrated probability;
    - ``obsm["epifoundation_probabilities"]``: DataFrame, one column a label;
    - ``obs["epifoundation_coverage"]``: fraction of the cell's open peaks that the model knows;
    - ``uns["epifoundation"]``: model, parameters, and the report of the peak mapping;
    - ``obsm["epifoundation_expression"]``: DataFrame, one column a gene, when there is no RNA modality.

    Into the RNA modality, where there is one: ``layers["epifoundation"]``, predicted expression, NaN for genes
    that the model does not know and for cells without ATAC. For a model trained on counts, ``log1p`` of counts
    per 10,000; ``uns["epifoundation"]["expression_scale"]`` says which scale.

    Cells without a known open peak get NaN, with a warning. A transformer with a limit (``config.max_peaks``) reads a cell that
    has more open peaks by a fixed choice of them, with a warning that counts such cells.

    Raises
    ------
    ValueError
        No such modality, model or batch, peak names that are no intervals, duplicate names, no overlap with the
        model's peaks, negative or NaN counts. `data` is then unchanged. Of files: names of cells that are in two of them, unfinished
        results of another run in the way.
    FileNotFoundError, FileExistsError, OSError
        A file is not there, `output` is and `overwrite` is False; one cannot be read or written, with the rows. Finished blocks are kept.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()
    >>> ep.tl.embed(mdata)
    >>> mdata["atac"].obsm["X_epifoundation"].shape[0] == mdata.n_obs
    True
    """
    keys = Keys.of(key_added)
    chunk = None if batch_size is None else integer(batch_size, "batch_size", least=1)
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
    readouts: list[Readout] = [Embedding(model, keys, parameters)]
    if annotation and model.labels:
        readouts.append(Probabilities(model, keys))
    if predicts:
        readouts.append(Expression(model, keys, expression_head(model), has_report=False))
    genes = model.genes.names if predicts else ()
    return apply(
        Reader(model, keys, readouts, genes, batch_key, chunk, dtype),
        data,
        modality=modality,
        rna_modality=rna_modality,
        matching=Matching(min_overlap, genome, liftover, min_coverage),
        output=output,
        overwrite=overwrite,
        copy=copy,
    )
