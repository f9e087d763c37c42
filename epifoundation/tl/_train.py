"""From data that are ready to a network that has learned: what pretraining and fine-tuning share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from .._settings import settings
from .._version import __version__
from ..engine import Engine
from ..models import EpiFoundation
from ..nn import ModelConfig, Network, TrainingConfig
from ..warm_start import log_normalise, neighbor_weights, rna_scores
from ._build_network import build
from ._training_data import TrainingData

if TYPE_CHECKING:
    from ..training import Fitted, Pretraining

N_COMPONENTS = 30  # of RNA, by which cells are clustered and neighbours found


def train(
    data: TrainingData,
    config: ModelConfig,
    training: TrainingConfig,
    init: EpiFoundation | None,
    *,
    device: torch.device,
    rng: np.random.Generator,
    engine: Engine | None = None,
    label_codes: np.ndarray | None = None,
    prepare_network: Callable[[Network], None] = lambda network: None,
    module: Callable[..., Pretraining] | None = None,
    on_better: Callable[[Network, int], None] = lambda network, epoch: None,
) -> Fitted:
    """Build a network and train it by a `module`; with a warning where it was interrupted."""
    from ..batches import Cells
    from ..training import Pretraining, fit

    seed = int(rng.integers(2**31))
    scores = pooling = None
    if data.stored is not None:  # the neighbours of a cell may be anywhere
        training = replace(training, n_neighbors=1)
    if data.target is not None and (training.warm_start or training.n_neighbors > 1):
        expression = sp.csr_matrix(data.target[data.train])
        expression = log_normalise(expression) if config.objective == "counts" else expression
        scores = rna_scores(expression, N_COMPONENTS, rng)
        if training.n_neighbors > 1:
            pooling = neighbor_weights(scores, training.n_neighbors)

    def cells(
        rows: np.ndarray,
        pooling: sp.csr_matrix | None = None,
        batch_codes: np.ndarray | None = None,
        own: np.ndarray | None = None,
    ) -> Cells:
        target = None if data.target is None else data.target[rows]
        parts = (None if array is None else array[rows] for array in (batch_codes, label_codes, own))
        return Cells(data.pattern[rows], target, pooling, *parts)

    with torch.inference_mode(False):  # the caller may be in it
        network, own = build(data, config, training, init, scores, seed, rng)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            prepare_network(network)
        fitted = fit(
            network,
            cells(data.train, pooling, data.batch_codes, own)
            if data.stored is None
            else replace(data.stored, own=own).loader,
            cells(data.held),
            training,
            n_cells=data.n_train,
            seed=seed,
            device=device,
            progress=settings.progress,
            of=_told(data, config, training, seed),
            engine=engine,
            genes=data.gene_positions,
            module=module or Pretraining,
            on_better=on_better,
        )
    if fitted.interrupted:
        msg = f"Training was interrupted after {len(fitted.history)} epochs; this is the best model so far."
        warnings.warn(msg, RuntimeWarning, stacklevel=3)
    return replace(fitted, own=own)


def _told(data: TrainingData, config: ModelConfig, training: TrainingConfig, seed: int) -> dict[str, Any]:
    """What a run is of, for its state: plain types."""
    peaks = pd.util.hash_pandas_object(data.peaks.intervals, index=False).sum()
    return {
        "package_version": __version__,
        "seed": seed,
        "config": config.to_dict(),
        "training": asdict(training),
        "peaks": [len(data.peaks), f"{peaks:x}"],
        "genes": len(data.genes),
        "cells": [data.n_train, len(data.held)],
        "batches": data.batches,
    }
