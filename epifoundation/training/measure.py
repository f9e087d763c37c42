"""Fits a set encoder and its heads in closed form."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from .._warn import warn
from ..cells.content import hash_of
from ..models import EpiFoundation
from ..nn import ENCODERS, ModelConfig, Network, SetEncoder, Sizes, TrainingConfig
from ..peaks.vocabulary import PeakVocabulary
from .clusters import Clusters, find_clusters
from .components import (
    N_COMPONENTS,
    Components,
    expression_components,
    scored_expression,
    semantic_components,
)
from .counting import count_cells, counted_cells, drop_rare_peaks
from .data import TrainingData
from .heads import HEAD_FITS, HeadData, fit_heads
from .kernel_ridge import MIN_HELD
from .prior import Prior
from .processes import Processes
from .sample import PILOT, Sample, draw_sample
from .split import check_split, draw, mask_of, warn_unusable
from .stages import Fit
from .state import State

CELLS_PER_CLUSTER = {"rna": 20, "atac": 200}
MIN_DIM, MAX_DIM = 16, 128
MAX_COMPONENT_ENTRIES = 6_000_000  # nonzero values from which components are computed


def measure(
    data: TrainingData,
    config: ModelConfig,
    training: TrainingConfig,
    summary: dict[str, Any],
    *,
    min_cells: int,
    rng: np.random.Generator,
    processes: Processes,
    state: State,
    device: torch.device,
    atlas: EpiFoundation | None = None,
) -> EpiFoundation:
    """A model with a set encoder, fitted to `data`.

    Parameters
    ----------
    data
        Cells, in memory or in files, read once by blocks.
    config, training
        Architecture and options.
    summary
        Training summary of the model, to which numbers of cells are added.
    min_cells
        Peaks open in fewer cells are left out of the vocabulary; 0 keeps all peaks.
    rng
        Random number generator.
    processes
        Processes among which the blocks are divided.
    state
        File of sums, to resume from after an interruption.
    device
        Device for sums and readouts.
    atlas
        Prior of the vectors of peaks.
    """
    seed = int(rng.integers(2**31))
    names, labels = data.label_codes()
    if min_cells > 1:
        drop_rare_peaks(data, min_cells, processes)
    sample = draw_sample(data, labels, training, np.random.default_rng([seed, 0]))
    state.run["sampled cells"] = hash_of(sample.rows, sample.pattern)
    components, clusters = _clusters(
        data, sample.train, config, training, np.random.default_rng([seed, 1]), state, device
    )
    config = replace(config, dim=len(clusters.centers))
    n_labels = len(names)
    statistics = count_cells(
        data, sample, config, components, clusters, labels, n_labels, processes, state, device
    )
    warn_unusable(statistics.usable)
    sample = sample.keep(statistics.usable[sample.rows])
    n_held = int(sample.is_held.sum())
    if n_held < MIN_HELD:
        msg = f"There are {n_held} validation cells, too few to choose widths and penalties: "
        msg += "defaults are used."
        warn(msg)
    prior = None if atlas is None else Prior.of(atlas, data.peaks)
    is_kept = torch.from_numpy(statistics.is_open())
    if prior is not None:
        is_kept |= prior.is_known
    kept = None if not min_cells else is_kept.nonzero()[:, 0]
    fit = Fit(
        statistics,
        sample,
        training,
        seed,
        device,
        labels=labels,
        batches=data.batch_codes,
        encoder=cast("type[SetEncoder]", ENCODERS[config.encoder]),
        prior=prior,
    )
    first, final = fit.fit()
    tensors, peaks = final.tensors(), data.peaks
    if kept is not None and len(kept) < len(peaks):  # drop peaks of which nothing is known
        intervals = peaks.intervals.iloc[kept.numpy()].reset_index(drop=True)
        peaks = PeakVocabulary(intervals, peaks.genome)
        for name in [n for n in tensors if n.endswith(("vectors.weight", "vectors.count"))]:
            tensors[name] = tensors[name].cpu()[kept]
    cells = HeadData(
        data,
        config,
        sample.rows,
        sample.is_held,
        lambda: final.embedding,
        np.random.default_rng([seed, 5]),
        labels=None if labels is None else labels[sample.rows],
        first=first,
        statistics=statistics,
    )
    of_heads, head_sizes = fit_heads(cells, HEAD_FITS)
    tensors = {name: tensor.cpu() for name, tensor in (tensors | of_heads).items()}
    with torch.random.fork_rng():
        network = Network(config, Sizes(len(peaks)).updated(final.sizes() | head_sizes))
    network.load_state_dict(processes.same(tensors))
    network.eval().requires_grad_(False)
    is_train = mask_of(data.train, len(statistics.usable))
    summary = summary | {
        "cells": int((is_train & statistics.usable).sum()),
        "validation_cells": int((~is_train & statistics.usable).sum()),
        "sampled_cells": len(sample.rows),
        "readouts": {name: list(map(float, each)) for name, each in fit.chosen.items()},
    }
    if prior is not None:
        of_prior = {
            "model": prior.name,
            "revision": prior.revision,
            "peaks": int(prior.is_known.sum()),
        }
        summary["prior"] = of_prior | {"pseudocounts": fit.pseudocounts}
    counted = counted_cells(statistics, labels)
    return EpiFoundation(network, peaks, data.genes, names, training=summary, cells=counted)


def _clusters(
    data: TrainingData,
    cells: Sample,
    config: ModelConfig,
    training: TrainingConfig,
    rng: np.random.Generator,
    state: State,
    device: torch.device,
) -> tuple[Components, Clusters]:
    """Components of RNA, or of open peaks, and clusters of training cells by these."""
    if data.target is None:
        scored = cells.pattern
        some = slice(None, None, max(-(-scored.nnz // MAX_COMPONENT_ENTRIES), 1))
        components = semantic_components(scored[some], N_COMPONENTS, rng, device)
    else:
        depth = data.target.mean_entries(draw(cells.rows, PILOT, rng))
        step = max(-(-int(depth * len(cells.rows)) // MAX_COMPONENT_ENTRIES), 1)
        scored = data.target[cells.rows[::step]]
        state.run["sampled expression"] = hash_of(scored)
        if config.objective == "counts":
            scored = scored[np.asarray(scored.sum(axis=1)).ravel() > 0]
        scored = scored_expression(scored, config.objective)
        check_split(np.arange(scored.shape[0]), data.held, data.pattern.shape[0])
        components = expression_components(scored, N_COMPONENTS, rng, device)
    scores = components.scores(scored)
    wanted = config.dim or default_dim(len(cells.rows), with_rna=data.target is not None)
    clusters = find_clusters(scores, wanted, training.softness, rng)
    if config.dim is not None and len(clusters.centers) < config.width:
        msg = f"`dim={config.dim}` asks for more clusters than {len(scores):,} training cells "
        msg += f"fill: the model has {len(clusters.centers)} columns."
        warn(msg)
    return components, clusters


def default_dim(n_cells: int, *, with_rna: bool) -> int:
    """Number of clusters for a number of cells."""
    per_cluster = CELLS_PER_CLUSTER["rna" if with_rna else "atac"]
    return int(np.clip(n_cells // per_cluster, MIN_DIM, MAX_DIM))
