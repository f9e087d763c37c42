"""Names, scales and batches of predicted expression."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from .._validate import Data, get_modality, obs_column
from ..models import EpiFoundation
from ..nn import ExpressionHead, QueryHead

# What a predicted number means, by the objective of the model
SCALES = {
    "counts": "log1p of counts per 10,000",
    "binary": "probability of being expressed",
    "gaussian": "the scale of the training data",
    "values": "the scale of the training data",
}


MEASURED = "mean of log1p of counts per 10,000"  # where that scale is asked for


def scale_of(model: EpiFoundation) -> str:
    """What a predicted number means."""
    return SCALES["values" if model.config.values else model.config.objective]


def expression_head(model: EpiFoundation) -> ExpressionHead | QueryHead:
    """The head that predicts expression, or an error where there is none."""
    if model.network.expression is None:
        msg = (
            f"The model {model.name!r} predicts no expression: it learned from ATAC alone. Pretrain on paired data "
            "(`ep.tl.pretrain` with a MuData), or take another (`ep.models.available()`)."
        )
        raise ValueError(msg)
    return model.network.expression


def asked_genes(model: EpiFoundation, genes: str | Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Names that were asked for, each once, and their positions in the model; an error lists names like those that it does not know."""
    names = list(
        dict.fromkeys([genes] if isinstance(genes, str) else [str(name) for name in genes])
    )
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
            f"{len(unknown):,} of {len(names):,} genes are not among the {len(model.genes):,} of the model: "
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
    """Raise where batches are told and the model knows none."""
    if key is not None and not model.network.sizes.n_batches:
        msg = f"`batch_key={key!r}`: the model was trained without batches. Leave `batch_key` out, or train with one."
        raise ValueError(msg)


def known_batches(batch: pd.Series, model: EpiFoundation) -> tuple[np.ndarray, list[str]]:
    """Which of the model's batches each cell is of, -1 for none, and the names that it does not know."""
    names = batch.astype(str).where(batch.notna())
    codes = pd.Index(batches_of(model)).get_indexer(names)
    return codes.astype(np.int64), sorted(set(names[codes < 0].dropna()))


def warn_of_batches(
    n_foreign: int, n_cells: int, unseen: list[str], key: str, model: EpiFoundation, stacklevel: int
) -> None:
    """Tell of cells whose batch the model does not know."""
    msg = (
        f"{n_foreign:,} of {n_cells:,} cells are of no batch that the model was trained on "
        f"(`batch_key={key!r}` holds {unseen[:5]} besides; the model knows {batches_of(model)[:10]}): "
        "their expression is predicted for the mean batch."
    )
    warnings.warn(msg, UserWarning, stacklevel=stacklevel)


def batch_codes(data: Data, atac: AnnData, key: str, model: EpiFoundation) -> np.ndarray:
    """Which of the model's batches each cell of `data` is of, with a warning where it is none."""
    column = obs_column(data, atac, key, "batch_key")
    check_batches(model, key)
    codes, unseen = known_batches(column, model)
    if (codes < 0).any():
        warn_of_batches(int((codes < 0).sum()), len(codes), unseen, key, model, 4)
    return codes
