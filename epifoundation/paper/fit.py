"""Training of a transformer by gradient descent, from loaded data to the best network."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import scipy.sparse as sp
import torch

from .._settings import settings
from .._version import __version__
from .._warn import warn
from ..models import EpiFoundation
from ..nn import ENCODER, ModelConfig, Network, TrainingConfig, has_bfloat16
from ..training.components import N_COMPONENTS, expression_components, scored_expression
from ..training.engine import Engine
from ..training.processes import World, naming_lost_processes
from .callbacks import KeepBest, KeepState
from .cells import Loaded
from .initial_network import build
from .minibatches import Loader, MinibatchCells, from_files, in_order, shuffled
from .pretraining import Pretraining
from .trainer import make_trainer, quiet


@dataclass(frozen=True)
class Fitted:
    """Result of :func:`fit`: the best network, losses by epoch, whether it was interrupted."""

    network: Network
    history: list[dict[str, float]]
    interrupted: bool


@torch.inference_mode(False)  # the caller may be in it
def fit(
    data: Loaded,
    config: ModelConfig,
    training: TrainingConfig,
    init: EpiFoundation | None,
    *,
    device: torch.device,
    rng: np.random.Generator,
    engine: Engine | None = None,
    labels: np.ndarray | None = None,
    prepare_network: Callable[[Network], None] = lambda network: None,
    on_better: Callable[[Network, int], None] = lambda network, epoch: None,
    options: Mapping[str, Any] | None = None,
) -> Fitted:
    """Build a network, train it, and return its best state on the validation cells.

    The random state of the caller does not change. An interruption (Ctrl-C) after the first epoch
    ends training with the best network so far and a warning; before that it is raised.

    Parameters
    ----------
    data, config, training, init
        Cells, architecture, options, and the model to begin with or None.
    device, rng, engine
        Device, seed, and engine.
    labels
        Codes of labels to learn, -1 for none, or None.
    prepare_network
        Called with the initial network.
    on_better
        Called with network and number of each epoch that is the best so far.
    options
        What else identifies the run, for its state: plain types.
    """
    seed = int(rng.integers(2**31))
    if data.stored is not None:  # neighbours of a cell may be in the files
        training = replace(training, n_neighbors=1)
    pooling = _pooling(data, config, training, rng)
    network = build(data, config, training, init, seed, rng)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        prepare_network(network)
    engine, world = engine or Engine(), World.from_environment()
    _check_processes(training, world, data)
    keep = KeepBest(copy.deepcopy(network).cpu(), training.patience, on_better)
    callbacks: list[Any] = [keep]
    state = None if engine.state is None else Path(engine.state)
    if state is not None:
        run = {**(options or {}), **_identity(data, config, training, init, seed)}
        run |= {"processes": world.size, "strategy": engine.strategy}
        keep_state = KeepState(state, engine.minutes, run)
        keep_state.check()
        callbacks.append(keep_state)
    loaders = _loaders(data, training, pooling, labels, seed, world)
    counts = None
    if labels is not None:
        known = labels[data.train]
        counts = np.bincount(known[known >= 0])
    n_epochs = training.epochs(data.n_train)
    with quiet(), torch.random.fork_rng(), torch.enable_grad(), naming_lost_processes(engine):
        torch.manual_seed(seed + world.rank)
        network.train()
        if engine.compile:
            network.get_submodule(ENCODER).compile()
        trainer = make_trainer(
            engine,
            world,
            device,
            in_bfloat16=has_bfloat16(device),
            callbacks=callbacks,
            max_epochs=n_epochs,
            accumulate_grad_batches=training.accumulate,
            gradient_clip_val=1.0,
            enable_progress_bar=settings.progress and world.rank == 0,
        )
        module = Pretraining(network, training, data.gene_positions, counts)
        # Lightning would count them before the position of the loader is restored
        module.steps = max(ceil(len(loaders[0]) / training.accumulate) * n_epochs, 2)
        start = state if state is not None and state.exists() else None
        interrupted = _run(trainer, module, loaders, start)
    if keep.best is None:
        raise KeyboardInterrupt
    if interrupted:
        msg = f"Training was interrupted after {len(keep.history)} epochs; "
        msg += "this is the best model so far."
        warn(msg, RuntimeWarning)
    return Fitted(keep.network.eval().requires_grad_(False), keep.history, interrupted)


def _loaders(
    data: Loaded,
    training: TrainingConfig,
    pooling: sp.csr_matrix | None,
    labels: np.ndarray | None,
    seed: int,
    world: World,
) -> tuple[Loader, Loader]:
    """Loaders of training cells and of validation cells."""
    cells = MinibatchCells(data.pattern, data.target, data.batch_codes, labels)
    held = in_order(replace(cells.take(data.held), batch=None), training.batch_size, world)
    if data.stored is None:
        learned = replace(cells.take(data.train), pooling=pooling)
        return shuffled(learned, training.batch_size, seed, world), held
    files = data.stored
    every = MinibatchCells(files.pattern, files.target, files.batch_codes)
    return from_files(every, files.train, training.buffer, training.batch_size, seed, world), held


def _pooling(
    data: Loaded, config: ModelConfig, training: TrainingConfig, rng: np.random.Generator
) -> sp.csr_matrix | None:
    """Row-stochastic weights that pool the RNA of each training cell with its neighbours."""
    from sklearn.neighbors import NearestNeighbors

    if data.target is None or training.n_neighbors == 1:
        return None
    expression = scored_expression(data.target[data.train], config.objective)
    components = expression_components(expression, N_COMPONENTS, rng, torch.device("cpu"))
    scores = components.scores(expression)
    n_neighbors = min(training.n_neighbors, len(scores))
    graph = NearestNeighbors(n_neighbors=n_neighbors).fit(scores).kneighbors_graph(scores)
    return (graph / n_neighbors).tocsr().astype(np.float32)


def _identity(
    data: Loaded,
    config: ModelConfig,
    training: TrainingConfig,
    init: EpiFoundation | None,
    seed: int,
) -> dict[str, Any]:
    """Identity of a run, for its state: plain types."""
    return {
        "package_version": __version__,
        "seed": seed,
        "config": config.to_dict(),
        "training": asdict(training),
        "init": None if init is None else init.revision,
        "content": data.content,
    } | data.identity


def _check_processes(training: TrainingConfig, world: World, data: Loaded) -> None:
    """Raise ValueError if there are more processes than cells."""
    for what, n in (
        ("cells of a batch (`batch_size`)", training.batch_size),
        ("training cells", data.n_train),
        ("validation cells", len(data.held)),
    ):
        if world.size > n:
            msg = f"There are {world.size:,} processes and {n:,} {what}: start fewer."
            raise ValueError(msg)


def _run(
    trainer: pl.Trainer, module: Pretraining, loaders: tuple[Loader, Loader], state: Path | None
) -> bool:
    """Fit; return whether it was interrupted.

    Lightning turns Ctrl-C into SystemExit and ignores another one. Here the session continues.
    """
    from lightning.pytorch.trainer.states import TrainerStatus
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    try:
        handler = signal.getsignal(signal.SIGINT)
        trainer.fit(module, *loaders, ckpt_path=state)
    except SIGTERMException as error:  # would end the process without an error
        raise SystemExit(128 + signal.SIGTERM) from error
    except SystemExit:
        if trainer.state.status != TrainerStatus.INTERRUPTED:
            raise
        signal.signal(signal.SIGINT, handler)
        return True
    return False
