"""Heads in closed form: how each is fitted to the embedding of a fitted encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from ..nn import ModelConfig
from .components import same_bits
from .data import TrainingData
from .expression import expression_weights, measured_weights
from .label_head import fit_label_head
from .statistics import Statistics

MAX_OFFSET_CELLS = 1_000  # from which batch offsets of expression are estimated


@dataclass
class HeadData:
    """Data to which heads are fitted.

    Parameters
    ----------
    data
        All cells, of which `rows` are in the sample.
    config
        Architecture of the network.
    rows, is_held
        Rows of the sampled cells, and which of them are validation cells.
    encode
        Computes the embedding of the sampled cells, (n_cells, dim): ``config.width`` columns of the
        encoder, then the label columns if there are any.
    rng
        Random number generator.
    labels
        Codes of the labels of the sampled cells, -1 for none; None without labels.
    first
        Their embedding from an encoder fitted to the training cells only; None if the encoder was
        not fitted to validation cells.
    statistics
        Sums over all cells; None if the encoder is not fitted here in closed form.
    """

    data: TrainingData
    config: ModelConfig
    rows: np.ndarray
    is_held: np.ndarray
    encode: Callable[[], np.ndarray]
    rng: np.random.Generator
    labels: np.ndarray | None = None
    first: np.ndarray | None = None
    statistics: Statistics | None = None

    @cached_property
    def embedding(self) -> np.ndarray:
        """Embedding of the sampled cells, computed for the first head that needs it."""
        return self.encode()


# Tensors of a head by their name in it, and sizes for :meth:`.nn.Sizes.updated`
HeadWeights: TypeAlias = tuple[Mapping[str, Tensor], dict[str, Any]]
HeadFit: TypeAlias = Callable[[HeadData], HeadWeights | None]  # None: nothing to fit the head to


def fit_heads(
    cells: HeadData, fits: Mapping[str, HeadFit]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of all heads by their names in a network, and sizes."""
    tensors: dict[str, Tensor] = {}
    sizes: dict[str, Any] = {}
    for name, fit in fits.items():
        found = fit(cells)
        if found is not None:
            tensors |= {f"{name}.{key}": tensor for key, tensor in found[0].items()}
            sizes |= found[1]
    return tensors, sizes


def _expression(cells: HeadData) -> HeadWeights | None:
    data = cells.data
    if data.target is None or cells.statistics is None:
        return None
    some = np.sort(cells.rng.permutation(len(cells.rows))[:MAX_OFFSET_CELLS])
    rows = cells.rows[some]
    codes = None if data.batch_codes is None else data.batch_codes[rows]
    with same_bits():
        tensors = expression_weights(
            cells.statistics,
            cells.config,
            cells.embedding[some],
            data.target[rows],
            codes,
            len(data.batches),
        )
    return tensors, {"n_genes": len(data.genes), "n_batches": len(data.batches)}


def _measured(cells: HeadData) -> HeadWeights | None:
    if cells.statistics is None or "measured" not in cells.statistics.profiles:
        return None
    return measured_weights(cells.statistics), {"has_measured": True}


def _label(cells: HeadData) -> HeadWeights | None:
    """Fitted to all cells; penalty and calibration are those of a head for training cells."""
    if cells.labels is None:
        return None
    known, embedding = cells.labels >= 0, cells.embedding
    first = embedding if cells.first is None else cells.first
    parts = [(first, known & ~cells.is_held), (first, known & cells.is_held)]
    if cells.first is not None:
        parts.append((embedding, known))
    head, _ = fit_label_head(*((each[rows], cells.labels[rows]) for each, rows in parts))
    return head.state_dict(), head.sizes


HEAD_FITS: dict[str, HeadFit] = {"expression": _expression, "measured": _measured, "label": _label}
