"""The initial network of training."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from ..models import EpiFoundation
from ..nn import (
    ENCODER,
    ExpressionHead,
    ModelConfig,
    Network,
    PeakHead,
    QueryHead,
    Sizes,
    TrainingConfig,
    TransformerEncoder,
)
from ..nn.transformer_encoder import N_SPECIAL, UNKNOWN
from ..peaks.counted import dense
from ..training.clusters import find_clusters
from ..training.components import (
    N_COMPONENTS,
    expression_components,
    scored_expression,
    semantic_components,
)
from .cells import Loaded

PSEUDOCOUNT = 15.0  # of cells, that initial peak vectors are shrunk by


def build(
    data: Loaded,
    config: ModelConfig,
    training: TrainingConfig,
    init: EpiFoundation | None,
    seed: int,
    rng: np.random.Generator,
) -> Network:
    """A network with the peak vectors of a set encoder and base rates, or weights of `init`."""
    # With RNA, batch effects are terms of the expression head
    by_batch = data.target is None
    sizes = Sizes(len(data.peaks), len(data.genes), 0, len(data.batches), peaks_by_batch=by_batch)
    if init is not None:
        old = init.network.sizes  # the labels and batches of `init` are not those of the data
        kept = {name: getattr(old, name) for name in ("n_chromosomes", "n_bins", "n_removed")}
        sizes = replace(sizes, **kept)
    else:
        sizes = replace(sizes, n_chromosomes=data.peaks.intervals["chrom"].nunique())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(config, sizes)
    if init is not None:
        _copy_weights(network, init.network)
        return network
    pattern = data.pattern[data.train]
    with torch.no_grad():
        _set_chromosomes(network, data)
        if training.warm_start:
            encoder = cast("TransformerEncoder", network.encoder)
            encoder.start_from(torch.from_numpy(_vectors(data, config, rng)))
        if isinstance(network.peaks, PeakHead):
            network.peaks.linear.bias.copy_(log_frequency(pattern))
            if data.target is not None and not training.peak_weight:
                network.peaks.linear.weight.zero_()  # base rates, until the head is fitted
        if network.expression is not None and data.target is not None:
            _set_base_rate(network.expression, data.target[data.train], config.objective)
    return network


def _vectors(data: Loaded, config: ModelConfig, rng: np.random.Generator) -> np.ndarray:
    """Shrunken mean memberships of the cells in which each peak is open, float32 (n_peaks, dim).

    Small data have fewer clusters than columns: the others are noise.
    """
    pattern, cpu = data.pattern[data.train], torch.device("cpu")
    if data.target is None:
        scored, components = pattern, semantic_components(pattern, N_COMPONENTS, rng, cpu)
    else:
        scored = scored_expression(data.target[data.train], config.objective)
        components = expression_components(scored, N_COMPONENTS, rng, cpu)
    scores = components.scores(scored)
    clusters = find_clusters(scores, config.width, 1.0, rng)
    known = dense(*clusters.memberships(scores), len(clusters.centers))
    noise = rng.standard_normal((len(known), config.width - known.shape[1])).astype(np.float32)
    known = np.concatenate([known - known.mean(axis=0), noise], axis=1)
    sums = pattern.astype(np.float32).T @ known
    vectors = sums / (pattern.getnnz(axis=0) + PSEUDOCOUNT)[:, None]
    return (vectors / (vectors.std(axis=0) + 1e-12)).astype(np.float32)


def _copy_weights(network: Network, init: Network) -> None:
    """Copy the weights of `init`, except for labels and batches."""
    network.get_submodule(ENCODER).load_state_dict(init.get_submodule(ENCODER).state_dict())
    if isinstance(network.peaks, PeakHead) and isinstance(init.peaks, PeakHead):
        network.peaks.start_from(init.peaks)
    if network.expression is not None and init.expression is not None:
        network.expression.start_from(init.expression)  # type: ignore[arg-type] # of the same class


def _set_chromosomes(network: Network, data: Loaded) -> None:
    """Set the chromosomes of peaks and genes in their token tables."""
    if not network.sizes.n_chromosomes:
        return
    names = pd.Index(sorted(data.peaks.intervals["chrom"].unique()))

    def rows(chromosomes: pd.Series) -> torch.Tensor:
        codes = names.get_indexer(chromosomes)
        return torch.from_numpy(np.where(codes >= 0, codes + N_SPECIAL, UNKNOWN))

    if isinstance(network.encoder, TransformerEncoder):
        network.encoder.tokens.chromosome_of[:-1] = rows(data.peaks.intervals["chrom"])
    if isinstance(network.expression, QueryHead) and data.gene_chromosomes is not None:
        network.expression.genes.chromosome_of.copy_(rows(data.gene_chromosomes))


def log_frequency(counts: sp.csr_matrix) -> torch.Tensor:
    """Logarithm of the fraction of each column in all counts."""
    total = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel() + 1
    return torch.from_numpy(np.log(total / total.sum()).astype(np.float32))


def _set_base_rate(head: ExpressionHead | QueryHead, target: sp.csr_matrix, objective: str) -> None:
    """Set the bias of a linear head to the mean cell; for values, mean and deviation."""
    if objective == "gaussian":
        values = target.toarray()
        deviation = values.std(axis=0)
        head.mean.copy_(torch.from_numpy(values.mean(axis=0)))
        head.deviation.copy_(torch.from_numpy(np.where(deviation > 0, deviation, 1)))
    elif isinstance(head, ExpressionHead) and objective == "counts":
        head.linear.bias.copy_(log_frequency(target))
    elif isinstance(head, ExpressionHead):
        rate = (np.asarray(target.sum(axis=0)).ravel() + 1) / (target.shape[0] + 2)
        head.linear.bias.copy_(torch.from_numpy(np.log(rate / (1 - rate)).astype(np.float32)))
