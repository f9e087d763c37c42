"""``ep.tl.embed``: cells in; embeddings, expression and annotations out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from .._compat import copy_of
from .._keys import UNKNOWN, Keys
from .._validate import (
    Data,
    check_writable,
    get_atac,
    get_matrix,
    integer,
    one_of,
)
from .._version import __version__
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..nn import has_bfloat16
from ..pp._map_peaks import MIN_COVERAGE, is_of
from ..pp._mapping import map_onto
from ._encode import encode_cells
from ._expression import PredictedExpression, batch_codes, expression_head, rna_of, scale_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def embed(
    data: Data,
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
    copy: bool = False,
) -> Data | None:
    """Embed cells by their open peaks; predict their expression and annotate them.

    Peaks are matched to the model's by genomic overlap, so any peak set of the same genome build will do.
    A cell's result depends on its own open peaks alone: not on batch size, order, or the other cells.

    Parameters
    ----------
    data
        A MuData with the modality `modality`, or an AnnData of cells x peaks. A positive entry is an open
        peak; values are not used further. Dense, sparse or backed.
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
    copy
        Return a copy with the results and leave `data` as it is.

    Returns
    -------
    None, or the copy. Written into the ATAC modality:

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
        model's peaks, negative or NaN counts. `data` is then unchanged.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()
    >>> ep.tl.embed(mdata)
    >>> mdata["atac"].obsm["X_epifoundation"].shape[1]
    64
    """
    keys = Keys.of(key_added)
    chunk = None if batch_size is None else integer(batch_size, "batch_size", least=1)
    one_of(dtype, ("auto", *DTYPES), "dtype")
    atac = get_atac(data, modality)
    check_writable(data, atac, copy=copy)
    model = resolve_model(model, device)
    mapping = map_onto(model.peaks, atac.var, min_overlap=min_overlap, genome=genome, liftover=liftover)
    mapping.check(min_coverage)
    rna = rna_of(data, rna_modality)
    batches, unseen = (None, []) if batch_key is None else batch_codes(data, atac, batch_key, model)
    predicted = None
    if expression and len(model.genes):
        predicted = PredictedExpression(model, expression_head(model), atac, rna, batches)
    output = _Output(model, atac.n_obs, predicted, annotation=annotation)

    counts = np.zeros((2, atac.n_obs), dtype=np.int64)
    n_limited, total, matched = 0, 0.0, 0.0
    for rows, tokens, embedding in encode_cells(
        model,
        get_matrix(atac, None),
        mapping.projection,
        atac.obs_names,
        chunk=chunk,
        dtype=_compute_dtype(dtype, model),
    ):
        output.take(rows, embedding)
        counts[:, rows] = tokens.n_open, tokens.n_known
        total, matched = total + tokens.total, matched + tokens.matched
        n_limited += int((np.diff(tokens.offsets) > (model.config.max_peaks or np.inf)).sum())

    empty = counts[1] == 0
    if empty.any():
        msg = f"{int(empty.sum()):,} of {len(empty):,} cells have no open peak that the model knows; their results are NaN."
        warnings.warn(msg, UserWarning, stacklevel=2)
    if n_limited:
        msg = (
            f"{n_limited:,} of {len(empty):,} cells have more than the {model.config.max_peaks:,} open peaks that the model reads "
            "(`config.max_peaks`); each is read by a fixed choice of so many."
        )
        warnings.warn(msg, UserWarning, stacklevel=2)
    target = copy_of(data) if copy else data
    mapping.count(int(counts[0].sum()), int(counts[1].sum()), total, matched)
    mapping.tell()
    report = {
        "model": model.name,
        "revision": model.revision,
        "package_version": __version__,
        "peaks": mapping.report | {"cells_above_limit": n_limited},
    }
    parameters = {
        "modality": modality,
        "expression": expression,
        "annotation": annotation,
        "batch_key": batch_key or "",
        "unseen_batches": unseen,
        "dtype": dtype,
    }
    _write(target, output, counts, report | {"parameters": parameters}, keys, modality, rna_modality)
    return target if copy else None


def _compute_dtype(dtype: str, model: EpiFoundation) -> torch.dtype:
    if dtype != "auto":
        return DTYPES[dtype]
    return torch.bfloat16 if model.config.encoder == "transformer" and has_bfloat16(model.device) else torch.float32


class _Output:
    """Arrays that are filled chunk by chunk, and written only when all went well."""

    def __init__(
        self, model: EpiFoundation, n_cells: int, expression: PredictedExpression | None, *, annotation: bool
    ) -> None:
        self.model, self.expression = model, expression
        self.embedding = np.empty((n_cells, model.config.dim), dtype=np.float32)
        self.probabilities = np.empty((n_cells, len(model.labels)), np.float32) if annotation and model.labels else None

    @torch.inference_mode()
    def take(self, rows: slice, embedding: torch.Tensor) -> None:
        """Compute and keep what is read off the embedding of the cells `rows`."""
        network = self.model.network
        self.embedding[rows] = embedding.cpu().numpy()
        if self.probabilities is not None and network.label is not None:
            self.probabilities[rows] = network.label(embedding).cpu().numpy()
        if self.expression is not None:
            self.expression.take(rows, embedding)


def _write(
    data: Data,
    output: _Output,
    counts: np.ndarray,
    report: dict[str, Any],
    keys: Keys,
    modality: str,
    rna_modality: str,
) -> None:
    atac = get_atac(data, modality)
    model = output.model
    if keys.peaks in atac.obsm and not (
        is_of(model, atac.uns.get(keys.uns)) and atac.obsm[keys.peaks].shape[1] == len(model.peaks)
    ):
        del atac.obsm[keys.peaks]  # of `pp.map_peaks` with another model
        atac.var = atac.var.drop(columns=keys.matched, errors="ignore")
    atac.obsm[keys.embedding] = output.embedding
    atac.uns.pop(keys.annotation, None)
    # What an earlier model left under the same key
    for name in (keys.cell_type, keys.confidence, keys.prediction_set, keys.novelty):
        if name in atac.obs:
            del atac.obs[name]
    # But for what `predict_expression` wrote with this one
    keeps = output.expression is None and dict(atac.uns.get(keys.expression, {})).get("revision") == model.revision
    if not keeps:
        atac.uns.pop(keys.expression, None)
    for name in (keys.probabilities, *([] if keeps else [keys.expression])):
        if name in atac.obsm:
            del atac.obsm[name]
    atac.obs[keys.coverage] = np.where(counts[0] > 0, counts[1] / np.maximum(counts[0], 1), np.nan)
    if output.probabilities is not None:
        write_labels(atac, keys, output.model.labels, output.probabilities)
    if not keeps and rna_modality in getattr(data, "mod", {}) and keys.layer in data.mod[rna_modality].layers:
        del data.mod[rna_modality].layers[keys.layer]
    if output.expression is not None:
        report["expression_scale"] = scale_of(output.model)
        output.expression.write(data, keys, modality, rna_modality)
    atac.uns[keys.uns] = report


def write_labels(
    atac: AnnData, keys: Keys, labels: list[str], probabilities: np.ndarray, is_unknown: np.ndarray | None = None
) -> None:
    """Write the most probable label of each cell and its probability; none where there are no probabilities."""
    known = ~np.isnan(probabilities[:, 0])
    codes = np.where(known, np.argmax(probabilities, axis=1), -1)
    names = list(labels)
    if is_unknown is not None:
        names = list(dict.fromkeys([*labels, UNKNOWN]))  # a reference may have that label itself
        codes = np.where(is_unknown, names.index(UNKNOWN), codes)
    cell_type = pd.Categorical.from_codes(codes, categories=names).remove_unused_categories()
    atac.obs[keys.cell_type] = pd.Series(cell_type, index=atac.obs_names)
    atac.obs[keys.confidence] = probabilities.max(axis=1)
    atac.obsm[keys.probabilities] = pd.DataFrame(probabilities, index=atac.obs_names, columns=labels)
