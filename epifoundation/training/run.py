"""A run that fits a set encoder: its processes, and its state for resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from .._version import __version__
from ..models import EpiFoundation
from ..nn import ModelConfig, TrainingConfig
from ..peaks.vocabulary import GeneVocabulary
from .data import TrainingData
from .engine import Engine
from .measure import measure
from .processes import World, connected
from .state import State


def measure_model(
    data: TrainingData,
    config: ModelConfig,
    training: TrainingConfig,
    init: EpiFoundation | None,
    summary: dict[str, Any],
    *,
    min_cells: int,
    rng: np.random.Generator,
    engine: Engine,
    device: torch.device,
) -> EpiFoundation:
    """A model with a set encoder; see :func:`epifoundation.tl.pretrain`."""
    world = World.from_environment()
    if data.target is None:
        data.genes = GeneVocabulary([])  # those of `init` cannot be fitted
    elif init is not None and data.gene_positions is not None:
        data.genes = init.genes.take(data.gene_positions)
    path = None if engine.state is None else Path(engine.state)
    if path is not None and world.size > 1:
        path = path.with_name(f"{path.name}.{world.rank}")
    run = {
        "package_version": __version__,
        "config": config.to_dict(),
        "processes": world.size,
        "min_cells": min_cells,
        "random": str(rng.bit_generator.state),
        "cells": [piece.n_cells for piece in data.pattern.pieces],
        "peaks": [
            len(data.peaks),
            int(pd.util.hash_pandas_object(data.peaks.intervals, index=False).sum()),
        ],
        "genes": len(data.genes),
    } | {name: summary[name] for name in ("objective", "validation", "batches", "options")}
    state = State(path, engine.minutes, run)
    state.check()
    with connected(engine, world) as processes:
        return measure(
            data,
            config,
            training,
            summary,
            min_cells=0 if init is not None else min_cells,
            rng=rng,
            processes=processes,
            state=state,
            device=device,
        )
