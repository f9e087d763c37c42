"""Pretraining and fine-tuning of a transformer by gradient, and what is fitted to its embedding afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..models import EpiFoundation
from ..models._adapter import Adapter
from ..nn import ModelConfig, Network, TrainingConfig, adapt, blend, merge
from ..training.batch_effects import batch_directions, batch_means, project_out
from ..training.data import TrainingData
from ..training.engine import Engine
from ..training.features import embedding_of
from ..training.label_head import check_labels, fit_label_head
from ..training.processes import World
from .cells import Loaded, load
from .fit import fit
from .measured_head import has_counts, with_measured_head
from .peak_head import with_peak_head

SHARES = (
    0.0,
    0.25,
    0.5,
    1.0,
)  # of what was learned; halves, so that factors in half precision stay exact
MARGIN = 0.01  # of a loss, by which shares are equally good
MAX_CELLS = 20_000  # that directions of batches are found with


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
    """A transformer, pretrained; see :func:`epifoundation.tl.pretrain`."""
    loaded = load(
        data,
        config.objective,
        training,
        min_cells=min_cells,
        keep_vocabulary=init is not None,
        rng=rng,
    )
    codes = (
        None if loaded.labels is None else check_labels(loaded.labels, loaded.train, loaded.held)[1]
    )
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
        loaded, config, training, init, device=device, rng=rng, engine=engine, on_better=save
    )
    summary |= {"history": fitted.history, "interrupted": fitted.interrupted}
    model = EpiFoundation(fitted.network, loaded.peaks, loaded.genes, training=summary).to(device)
    if loaded.batch_codes is not None:
        model = without_batches(model, loaded, rng, codes)
    needs_peaks = (
        loaded.target is not None and model.config.predicts_peaks and not training.peak_weight
    )
    if needs_peaks or loaded.labels is not None or has_counts(model, loaded):
        embedding = embedding_of(model, loaded.pattern)
        model = with_measured_head(model, loaded, embedding, rng)
        if needs_peaks:
            model = with_peak_head(model, loaded, embedding)
        if loaded.labels is not None:
            model, _ = with_label_head(model, embedding, loaded.labels, loaded.train, loaded.held)
    return model


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
    """A transformer, fine-tuned; see :func:`epifoundation.tl.finetune`."""
    loaded = load(data, summary["objective"], training, min_cells=1, keep_vocabulary=True, rng=rng)
    summary = summary | {"cells": len(loaded.train), "validation_cells": len(loaded.held)}
    codes = (
        None if loaded.labels is None else check_labels(loaded.labels, loaded.train, loaded.held)[1]
    )
    start: list[Network] = []

    def begin(network: Network) -> None:
        start.append(
            copy.deepcopy(network)
        )  # with this data's batches, so that one can go back to it
        if rank is not None:
            adapt(network, rank)

    fitted = fit(
        loaded,
        replace(
            base.config, values=False
        ),  # a decoder that is not trained here would fall behind the encoder
        training,
        base,
        device=device,
        rng=rng,
        engine=engine,
        labels=codes,
        prepare_network=begin,
    )
    # On the CPU, where loading an adapter adds its factors too: other devices round products differently
    factors = {} if rank is None else merge(fitted.network.cpu())
    seed = int(rng.integers(2**31))

    def finish(model: EpiFoundation) -> EpiFoundation:
        return (
            model
            if loaded.batch_codes is None
            else without_batches(model, loaded, np.random.default_rng(seed), codes)
        )

    summary |= {"history": fitted.history, "interrupted": fitted.interrupted}
    tuned = EpiFoundation(fitted.network, base.peaks, base.genes, training=summary).to(device)
    if loaded.labels is not None:
        tuned = _with_labels(start[0], tuned, loaded, finish)
        factors = {
            name: (left * tuned.training["share"], right) for name, (left, right) in factors.items()
        }
    else:
        tuned = finish(tuned)
    if rank is None:
        if not has_counts(tuned, loaded):
            return tuned
        return with_measured_head(tuned, loaded, embedding_of(tuned, loaded.pattern), rng)
    adapter = Adapter.between(base, tuned.network, factors)
    # What is returned is what will be read, to the last bit.
    network = adapter.apply(base.network, tuned.config, tuned.network.sizes)
    return replace(tuned, network=network, adapter=adapter).to(device)


def _with_labels(
    start: Network,
    tuned: EpiFoundation,
    data: Loaded,
    finish: Callable[[EpiFoundation], EpiFoundation],
) -> EpiFoundation:
    """A model with a label head, between what there was and what was learned: where held-out cells are classified best.

    What is gained on the training cells may be lost on others, and the way back is a straight line (Wortsman et al. 2022).
    Of shares that are equally good, it is the least.
    """
    found = []
    for share in SHARES:
        blended = (
            tuned if share == 1 else replace(tuned, network=blend(start, tuned.network, share))
        )
        blended = finish(blended)
        embedding = embedding_of(blended, data.pattern)
        candidate, loss = with_label_head(blended, embedding, data.labels, data.train, data.held)
        found.append((share, loss, candidate))
    enough = (1 + MARGIN) * min(loss for _, loss, _ in found)
    share, _, model = next(each for each in found if each[1] <= enough)
    model.training["share"] = share
    return model


def with_label_head(
    model: EpiFoundation,
    embedding: np.ndarray,
    labels: pd.Series | None,
    train: np.ndarray,
    held: np.ndarray,
) -> tuple[EpiFoundation, float]:
    """`model` with a head for `labels`, fitted on the cells `train` of an embedding, and its loss on the cells `held`."""
    names, codes, train, held = check_labels(labels, train, held)
    head, loss = fit_label_head((embedding[train], codes[train]), (embedding[held], codes[held]))
    sizes = replace(
        model.network.sizes,
        n_labels=len(names),
        n_calibration=len(head.conformal),
        n_reference=len(head.reference),
    )
    network = model.network.with_head("label", head, sizes)
    return replace(model, network=network, labels=names).to(model.device), loss


def without_batches(
    model: EpiFoundation, data: Loaded, rng: np.random.Generator, groups: np.ndarray | None = None
) -> EpiFoundation:
    """`model` with directions along which batches of similar training cells differ projected out, if there are any."""
    rows = np.sort(rng.permutation(data.train)[:MAX_CELLS])
    embedding = embedding_of(model, data.pattern[rows]).astype(np.float64)
    codes = np.asarray(data.batch_codes)[rows]
    read, along = batch_directions(embedding, codes, rng, None if groups is None else groups[rows])
    if not len(read):
        return model
    means = batch_means(embedding, codes, model.network.sizes.n_batches)
    return replace(model, network=project_out(model.network, read, along, means).to(model.device))


def _check_balance(expression: Any, train: np.ndarray, held: np.ndarray) -> None:
    """Raise if no cell has a gene of either kind: the loss would be zero."""
    for name, rows in (("training", train), ("validation", held)):
        target = expression[rows]
        n_expressed = np.asarray((target > 0).sum(axis=1)).ravel()
        if not ((n_expressed > 0) & (n_expressed < target.shape[1])).any():
            msg = (
                f"`balanced_genes` needs cells with expressed and with silent genes; none of the {len(rows):,} {name} cells has "
                f"both among {target.shape[1]:,} genes. Leave it out, or pass more genes."
            )
            raise ValueError(msg)
