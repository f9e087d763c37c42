"""Names, scales and batches of predicted expression."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from .._validate import Data, get_modality, names_of
from .._warn import warn
from ..cells.source import Source
from ..models import EpiFoundation
from ..nn import ExpressionHead, QueryHead

# Unit of predicted expression, by the objective of the model
SCALES = {
    "counts": "log1p of counts per 10,000",
    "binary": "probability of being expressed",
    "gaussian": "the scale of the training data",
    "values": "the scale of the training data",
}
MEASURED_SCALE = "mean of log1p of counts per 10,000"  # of ``scale="measured"``


def scale_of(model: EpiFoundation) -> str:
    """Unit of predicted expression."""
    return SCALES["values" if model.config.values else model.config.objective]


def expression_head(model: EpiFoundation) -> ExpressionHead | QueryHead:
    """The head that predicts expression; ValueError if the model has none."""
    if model.network.expression is None:
        msg = (
            f"The model {model.name!r} predicts no expression: it learned from ATAC alone. "
            "Pretrain on paired data (`ep.tl.pretrain` with a MuData), or use another "
            "(`ep.models.available()`)."
        )
        raise ValueError(msg)
    return model.network.expression


def find_genes(model: EpiFoundation, genes: str | Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Requested names without repeats, and their positions in the model."""
    names = list(dict.fromkeys(names_of(genes, "genes")))
    if not names:
        msg = "`genes` is empty: name at least one, or leave it out for all that the model knows."
        raise ValueError(msg)
    found = model.genes.positions(names)
    unknown = [name for name, position in zip(names, found, strict=True) if position < 0]
    if unknown:
        lower = {name.lower(): name for name in model.genes.names}
        close = {
            name: [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3)]
            for name in unknown[:5]
        }
        msg = (
            f"{len(unknown):,} of {len(names):,} genes are not among the {len(model.genes):,} of "
            "the model: "
            + "; ".join(
                f"{name!r}, close to {matches or 'none'}" for name, matches in close.items()
            )
            + ". `model.genes.names` lists them."
        )
        raise ValueError(msg)
    first = np.unique(found, return_index=True)[1]  # a symbol and its identifier are one gene
    kept = np.sort(first)
    return [names[i] for i in kept], found[kept]


def rna_of(data: Data, rna_modality: str) -> AnnData | None:
    """The RNA modality; only the default name may be absent."""
    if not isinstance(data, MuData) or (rna_modality == "rna" and "rna" not in data.mod):
        return None
    return get_modality(data, rna_modality, option="rna_modality")


def batches_of(model: EpiFoundation) -> list[str]:
    """Names of the batches that a model was trained on."""
    return [str(name) for name in model.training.get("batches", [])]


def check_batches(model: EpiFoundation, key: str | None) -> None:
    """Raise ValueError if `key` is given and the model was trained without batches."""
    if key is not None and not model.network.sizes.n_batches:
        msg = (
            f"`batch_key={key!r}`: the model was trained without batches. Leave `batch_key` out, "
            "or train with one."
        )
        raise ValueError(msg)


def known_batches(batch: pd.Series, model: EpiFoundation) -> tuple[np.ndarray, list[str]]:
    """Code of the batch of each cell, -1 if the model does not know it, and unknown names."""
    names = batch.astype(str).where(batch.notna())
    codes = pd.Index(batches_of(model)).get_indexer(names)
    return codes.astype(np.int64), sorted(set(names[codes < 0].dropna()))


def warn_of_batches(
    n_foreign: int, n_cells: int, unseen: list[str], key: str, model: EpiFoundation
) -> None:
    """Warn about cells whose batch is missing, or that the model does not know."""
    why = "are from batches that the model was not trained on" if unseen else "have no batch"
    found = f"also contains {unseen[:5]}" if unseen else "is missing for them"
    msg = (
        f"{n_foreign:,} of {n_cells:,} cells {why} (`batch_key={key!r}` {found}; the model knows "
        f"{batches_of(model)[:10]}): their expression is predicted for the mean batch."
    )
    warn(msg)


def batch_codes(source: Source, key: str, model: EpiFoundation) -> np.ndarray:
    """Code of the batch of each cell, with a warning about batches that the model does not know."""
    column = source.column(key, "batch_key")
    check_batches(model, key)
    codes, unseen = known_batches(column, model)
    if (codes < 0).any():
        warn_of_batches(int((codes < 0).sum()), len(codes), unseen, key, model)
    return codes
