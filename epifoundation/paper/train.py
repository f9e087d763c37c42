"""Pretraining and fine-tuning of a transformer by gradient descent, and heads fitted afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..models import EpiFoundation
from ..models._adapter import adapted
from ..nn import ModelConfig, Network, TrainingConfig, adapt, blend, merge
from ..training.batch_effects import batch_directions, batch_means, project_out
from ..training.data import TrainingData
from ..training.engine import Engine
from ..training.features import embedding_of
from ..training.heads import HEAD_FITS, HeadData, HeadFit, fit_heads
from ..training.label_head import fit_label_head
from ..training.processes import World
from .cells import Loaded, load
from .fit import fit
from .measured_head import fit_measured_head
from .peak_head import fit_peak_head

# Fractions of the update that are tried; halves, so that factors in half precision stay exact
SHARES = (0.0, 0.25, 0.5, 1.0)
MARGIN = 0.01  # relative difference of losses that is ignored
MAX_BATCH_EFFECT_CELLS = 20_000  # from which batch effects are estimated


def train_model(
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
) -> EpiFoundation:
    """A pretrained transformer; see :func:`epifoundation.tl.pretrain`."""
    min_cells = 0 if init is not None else min_cells
    loaded = load(data, config.objective, training, min_cells=min_cells, rng=rng)
    labels, codes = loaded.label_codes()
    if training.balanced_genes is not None:
        _check_balance(loaded.target, loaded.train, loaded.held)
    summary = summary | {"cells": loaded.n_train, "validation_cells": len(loaded.held)}
    is_first = World.from_environment().rank == 0  # of the processes that train together

    def save(best: Network, epoch: int) -> None:
        if checkpoint is not None and is_first:
            done = summary | {"epochs": epoch + 1}
            so_far = EpiFoundation(copy.deepcopy(best), loaded.peaks, loaded.genes, training=done)
            so_far.save_pretrained(checkpoint, overwrite=True)

    fitted = fit(
        loaded,
        config,
        training,
        init,
        device=device,
        rng=rng,
        engine=engine,
        on_better=save,
        options={"checkpoint": str(checkpoint), "min_cells": min_cells},
    )
    summary |= {"history": fitted.history, "interrupted": fitted.interrupted}
    model = EpiFoundation(fitted.network, loaded.peaks, loaded.genes, training=summary).to(device)
    if loaded.batch_codes is not None:
        model = without_batch_effects(model, loaded, rng, codes)
    fits = HEAD_FITS | {"measured": fit_measured_head}
    if loaded.target is not None and config.predicts_peaks and not training.peak_weight:
        fits["peaks"] = partial(fit_peak_head, model)
    return with_heads(model, loaded, fits, rng, labels=labels, codes=codes)


def finetune_model(
    data: TrainingData,
    base: EpiFoundation,
    training: TrainingConfig,
    summary: dict[str, Any],
    *,
    rank: int | None,
    rng: np.random.Generator,
    engine: Engine | None,
    device: torch.device,
) -> EpiFoundation:
    """A fine-tuned transformer; see :func:`epifoundation.tl.finetune`."""
    loaded = load(data, summary["objective"], training, min_cells=0, rng=rng)
    summary = summary | {"cells": len(loaded.train), "validation_cells": len(loaded.held)}
    labels, codes = loaded.label_codes()
    start: list[Network] = []

    def begin(network: Network) -> None:
        start.append(copy.deepcopy(network))  # with this data's batches, to go back to
        if rank is not None:
            adapt(network, rank)

    fitted = fit(
        loaded,
        # A decoder of values is not trained here: it would not fit the new encoder
        replace(base.config, values=False),
        training,
        base,
        device=device,
        rng=rng,
        engine=engine,
        labels=codes,
        prepare_network=begin,
        options={"rank": rank},
    )
    # On the CPU, as when an adapter is read: other devices round products differently
    factors = {} if rank is None else merge(fitted.network.cpu())
    seed = int(rng.integers(2**31))

    def finish(model: EpiFoundation) -> EpiFoundation:
        if loaded.batch_codes is None:
            return model
        return without_batch_effects(model, loaded, np.random.default_rng(seed), codes)

    summary |= {"history": fitted.history, "interrupted": fitted.interrupted}
    tuned = EpiFoundation(fitted.network, base.peaks, base.genes, training=summary).to(device)
    if codes is None:
        tuned = finish(tuned)
    else:
        tuned = _with_labels(start[0], tuned, loaded, finish, labels, codes)
        fraction = tuned.training["share"]
        factors = {name: (left * fraction, right) for name, (left, right) in factors.items()}
    # The head for the measured scale is large: an adapter has none
    fits = HEAD_FITS | ({"measured": fit_measured_head} if rank is None else {})
    tuned = with_heads(tuned, loaded, fits, rng)
    return tuned if rank is None else adapted(base, tuned, factors).to(device)


def _with_labels(
    start: Network,
    tuned: EpiFoundation,
    data: Loaded,
    finish: Callable[[EpiFoundation], EpiFoundation],
    labels: list[str],
    codes: np.ndarray,
) -> EpiFoundation:
    """A model between `start` and `tuned`, with the label head of the least validation loss.

    What improves the training cells may harm others, and interpolating weights is a way back
    (Wortsman et al. 2022). Of fractions that are equally good, the smallest is taken.
    """
    train, held = (rows[codes[rows] >= 0] for rows in (data.train, data.held))
    found = []
    for fraction in SHARES:
        model = tuned
        if fraction < 1:
            model = replace(tuned, network=blend(start, tuned.network, fraction))
        model = finish(model)
        embedding = embedding_of(model, data.pattern)
        head, loss = fit_label_head(*((embedding[rows], codes[rows]) for rows in (train, held)))
        found.append((fraction, loss, model, head))
    enough = (1 + MARGIN) * min(loss for _, loss, _, _ in found)
    fraction, _, model, head = next(each for each in found if each[1] <= enough)
    model.training["share"] = fraction
    tensors = {f"label.{name}": tensor for name, tensor in head.state_dict().items()}
    network = model.network.with_sizes(model.network.sizes.updated(head.sizes), tensors)
    return replace(model, network=network, labels=labels).to(model.device)


def with_heads(
    model: EpiFoundation,
    data: Loaded,
    fits: Mapping[str, HeadFit],
    rng: np.random.Generator,
    *,
    labels: list[str] | None = None,
    codes: np.ndarray | None = None,
) -> EpiFoundation:
    """`model` with heads fitted to the embedding of the cells in memory.

    With the codes of `labels`, of which the model has none, also a label head.
    """
    rows = np.concatenate([data.train, data.held])
    cells = HeadData(
        data,
        model.config,
        rows,
        np.arange(len(rows)) >= len(data.train),
        lambda: embedding_of(model, data.pattern)[rows],
        rng,
        labels=None if codes is None else codes[rows],
    )
    tensors, sizes = fit_heads(cells, fits)
    if not tensors:
        return model
    network = model.network.with_sizes(model.network.sizes.updated(sizes), tensors)
    return replace(model, network=network, labels=labels or model.labels).to(model.device)


def without_batch_effects(
    model: EpiFoundation, data: Loaded, rng: np.random.Generator, groups: np.ndarray | None = None
) -> EpiFoundation:
    """`model` with batch effects of similar training cells projected out, if there are any."""
    rows = np.sort(rng.permutation(data.train)[:MAX_BATCH_EFFECT_CELLS])
    embedding = embedding_of(model, data.pattern[rows]).astype(np.float64)
    codes = np.asarray(data.batch_codes)[rows]
    read, along = batch_directions(embedding, codes, rng, None if groups is None else groups[rows])
    if not len(read):
        return model
    means = batch_means(embedding, codes, model.network.sizes.n_batches)
    return replace(model, network=project_out(model.network, read, along, means).to(model.device))


def _check_balance(expression: Any, train: np.ndarray, held: np.ndarray) -> None:
    """Raise ValueError if no cell has genes of both kinds: the loss would be zero."""
    for name, rows in (("training", train), ("validation", held)):
        target = expression[rows]
        n_expressed = np.asarray((target > 0).sum(axis=1)).ravel()
        if not ((n_expressed > 0) & (n_expressed < target.shape[1])).any():
            msg = "`balanced_genes` needs cells with expressed and silent genes; none of the "
            msg += f"{len(rows):,} {name} cells has both among {target.shape[1]:,} genes. "
            msg += "Leave it out, or pass more genes."
            raise ValueError(msg)
