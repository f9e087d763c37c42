"""``ep.tl.embed``: cells in; embeddings, expression and annotations out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from .._keys import UNKNOWN, Keys
from .._validate import Data, integer, one_of
from .._version import __version__
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..nn import FoldedSums, FoldedTransformer, has_bfloat16
from ..pp._map_peaks import MIN_COVERAGE, was_written_by
from ..pp._mapping import PeakMap
from ._cells import Block, Matching, Tally
from ._encode import encode_cells
from ._expression import PredictedExpression, check_batches, expression_head, known_batches, scale_of
from ._stream import Cells, apply

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
    tool = Embedder(
        model,
        keys,
        expression=expression,
        annotation=annotation,
        batch_key=batch_key,
        modality=modality,
        dtype=dtype,
        chunk=chunk,
    )
    matching = Matching(min_overlap, genome, liftover, min_coverage)
    return apply(
        tool,
        data,
        modality=modality,
        rna_modality=rna_modality,
        matching=matching,
        output=output,
        overwrite=overwrite,
        copy=copy,
    )


def _compute_dtype(dtype: str, model: EpiFoundation) -> torch.dtype:
    if dtype != "auto":
        return DTYPES[dtype]
    return torch.bfloat16 if model.config.encoder == "transformer" and has_bfloat16(model.device) else torch.float32


@dataclass
class Embedded:
    """What is computed for some cells."""

    embedding: np.ndarray
    probabilities: np.ndarray | None
    expression: PredictedExpression | None
    coverage: np.ndarray
    tally: Tally


@dataclass(frozen=True)
class Embedder:
    """:func:`embed` with its options checked; see :class:`._cells.Tool`."""

    model: EpiFoundation
    keys: Keys
    expression: bool = True
    annotation: bool = True
    batch_key: str | None = None
    modality: str = "atac"
    dtype: str = "auto"
    chunk: int | None = None

    @cached_property
    def folded(self) -> FoldedSums | FoldedTransformer:
        """The encoder, made ready once for all blocks."""
        return self.model.network.folded(_compute_dtype(self.dtype, self.model))

    @property
    def predicts(self) -> bool:
        """Whether expression is written."""
        return self.expression and len(self.model.genes) > 0

    @property
    def genes(self) -> Sequence[str]:
        """Genes that are predicted where there is no RNA."""
        return self.model.genes.names if self.predicts else []

    @property
    def options(self) -> dict[str, Any]:
        """What the results depend on."""
        names = ("expression", "annotation", "batch_key", "dtype")
        return {"tool": "embed"} | {name: getattr(self, name) for name in names}

    def compute(self, block: Block, mapping: PeakMap) -> Embedded:
        """Embedding, and what is read off it."""
        model, n_cells, tally = self.model, len(block.names), Tally()
        codes = None
        if block.batch is not None:
            codes, tally.unseen = known_batches(block.batch, model)
            tally.foreign = int((codes < 0).sum())
        predicted = None
        if self.predicts:
            predicted = PredictedExpression(model, expression_head(model), block.names, block.rna, codes)
        head = model.network.label if self.annotation and model.labels else None
        embedding = np.empty((n_cells, model.network.dim), dtype=np.float32)
        probabilities = None if head is None else np.empty((n_cells, len(model.labels)), np.float32)
        counts = np.zeros((2, n_cells), dtype=np.int64)
        for rows, tokens, part in encode_cells(
            model,
            block.matrix,
            mapping.projection,
            block.names,
            chunk=self.chunk,
            show=block.show,
            folded=self.folded,
        ):
            embedding[rows] = part.cpu().numpy()
            if head is not None and probabilities is not None:
                with torch.inference_mode():
                    probabilities[rows] = head(part).cpu().numpy()
            if predicted is not None:
                predicted.take(rows, part)
            counts[:, rows] = tokens.n_open, tokens.n_known
            tally.count(tokens, model.config.max_peaks)
        coverage = np.where(counts[0] > 0, counts[1] / np.maximum(counts[0], 1), np.nan)
        return Embedded(embedding, probabilities, predicted, coverage, tally)

    def write(self, found: Embedded, atac: AnnData, rna: AnnData | None) -> None:
        """Put the results in their places."""
        keys = self.keys
        atac.obsm[keys.embedding] = found.embedding
        atac.obs[keys.coverage] = found.coverage
        if found.probabilities is not None:
            write_labels(atac, keys, self.model.labels, found.probabilities)
        if found.expression is not None:
            found.expression.write(atac, rna, keys)

    def stale(self, uns: Mapping[str, Any]) -> list[str]:
        """What an earlier model left under the same key, but for what `predict_expression` wrote with this one."""
        keys, report = self.keys, uns.get(self.keys.uns)
        names = (keys.cell_type, keys.confidence, keys.prediction_set, keys.novelty)
        places = [f"obs/{name}" for name in names] + [f"obsm/{keys.probabilities}", f"uns/{keys.annotation}"]
        mapped = dict(report.get("peaks", {})) if isinstance(report, Mapping) else {}
        if not was_written_by(self.model, report) or mapped.get("vocabulary") != len(self.model.peaks):
            places += [f"obsm/{keys.peaks}", f"var/{keys.matched}"]  # of `pp.map_peaks` with another model
        if self.predicts or dict(uns.get(keys.expression, {})).get("revision") != self.model.revision:
            places += [f"uns/{keys.expression}", f"obsm/{keys.expression}", f"rna/layers/{keys.layer}"]
        return places

    def uns(self, peaks: dict[str, Any], tally: Tally) -> dict[str, Any]:
        """What is told of the run."""
        report: dict[str, Any] = {
            "model": self.model.name,
            "revision": self.model.revision,
            "package_version": __version__,
            "peaks": peaks | {"cells_above_limit": tally.limited},
        }
        report["parameters"] = {
            "modality": self.modality,
            "expression": self.expression,
            "annotation": self.annotation,
            "batch_key": self.batch_key or "",
            "unseen_batches": tally.unseen,
            "dtype": self.dtype,
        }
        if self.predicts:
            report["expression_scale"] = scale_of(self.model)
        return {self.keys.uns: report}


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
    cell_type = pd.Categorical.from_codes(codes, categories=names)
    atac.obs[keys.cell_type] = pd.Series(cell_type, index=atac.obs_names)
    atac.obs[keys.confidence] = probabilities.max(axis=1)
    atac.obsm[keys.probabilities] = pd.DataFrame(probabilities, index=atac.obs_names, columns=labels)
