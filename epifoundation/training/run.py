"""A run that fits a set encoder: its processes, and its state for resuming."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
    checkpoint: Path | None,
    rng: np.random.Generator,
    engine: Engine,
    device: torch.device,
    atlas: EpiFoundation | None = None,
) -> tuple[EpiFoundation, Callable[[], None]]:
    """A model with a set encoder, and a function that deletes the state when the model is saved.

    See :func:`epifoundation.tl.pretrain`.
    """
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
        "init": None if init is None else init.revision,
        "checkpoint": str(checkpoint),
        "prior": None if atlas is None else atlas.revision,
    }
    run |= {name: summary[name] for name in ("objective", "validation", "options")}
    before = data.signatures
    state = State(path, engine.minutes, run | data.identity, before)
    state.check()
    with connected(engine, world) as processes:
        model = measure(
            data,
            config,
            training,
            summary,
            min_cells=0 if init is not None else min_cells,
            rng=rng,
            processes=processes,
            state=state,
            device=device,
            atlas=atlas,
        )
    if data.signatures != before:
        msg = "The files were changed while cells were read from them, so that the model would be "
        msg += "of neither the old nor the new cells. Call again."
        raise OSError(msg)
    return model, state.finish
