"""``ep.tl.pretrain``: a model from paired ATAC and RNA, or from ATAC alone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from .._settings import settings
from .._validate import RNG, Data, get_atac, integer, obs_column, one_of
from .._version import __version__
from ..models import EpiFoundation
from ..models._directory import check_target
from ..models._registry import resolve_device, resolve_model
from ..nn import ExpressionHead, ModelConfig, Network, QueryHead, Sizes, TrainingConfig, TransformerEncoder
from ..nn.config import OBJECTIVES
from ..nn.transformer_encoder import N_SPECIAL, UNKNOWN
from ..warm_start import idf, log_normalise, neighbor_weights, peak_vectors, rna_scores
from ._label_head import check_labels, fit_label_head
from ._training_data import TrainingData, held_out, prepare

N_COMPONENTS = 100  # of RNA, for the warm start
N_NEIGHBOR_COMPONENTS = 30  # of RNA, for the neighbours that are pooled


def pretrain(
    data: Data,
    *,
    config: ModelConfig | str | None = None,
    training: TrainingConfig | str | None = None,
    objective: Literal["counts", "binary", "gaussian", "peaks"] | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    label_key: str | None = None,
    validation: float | Sequence[str] | None = None,
    init: EpiFoundation | str | Path | None = None,
    genome: str = "unknown",
    modality: str = "atac",
    rna_modality: str = "rna",
    min_cells: int = 1,
    checkpoint: str | Path | None = None,
    device: str | torch.device = "auto",
    rng: RNG = 0,
) -> EpiFoundation:
    """Pretrain a model to predict a cell's expression from the set of its open peaks.

    Parameters
    ----------
    data
        A MuData with paired `modality` and `rna_modality`, or an AnnData (ATAC) with ``objective="peaks"``.
        A positive entry of the ATAC matrix is an open peak. Not changed.
    config
        Architecture, or the name of a preset: ``"paper"`` is the transformer of Wu et al. 2025, with the paper's `training`
        unless another is given. Default: ``ModelConfig()``.
    training
        A :class:`~epifoundation.TrainingConfig` or the name of a preset; default: its defaults.
    objective
        Replaces that of `config`; None keeps it (``ModelConfig()`` has ``"counts"``). ``"counts"``: raw RNA counts, multinomial over genes. ``"binary"``: expressed or not (the paper's).
        ``"gaussian"``: normalised values. ``"peaks"``: no RNA, held-out peaks are predicted from the others.
    layer
        Layer of the RNA modality that holds the target; default ``X``.
    batch_key
        Column of ``obs`` with batches: an offset for each gene and batch enters the decoder.
    label_key
        Column of ``obs`` with cell types: a linear label head is fitted on the embedding afterwards and its
        temperature on the validation cells. Cells with a missing label are left out of that.
    validation
        Fraction of the cells, drawn at random, or names of whole batches (needs `batch_key`) that are held
        out to choose the epoch; None is 0.1. Held-out batches are the honest choice.
    init
        A model, name or path to go on from: its vocabulary, genes and architecture are kept.
    genome
        Build of the peaks (``"hg38"``, ``"mm10"``).
    modality, rna_modality
        Names in the MuData.
    min_cells
        Peaks open in fewer training cells are left out of the vocabulary.
    checkpoint
        A new or empty directory that gets the model whenever it improves, in the format of
        :meth:`~epifoundation.EpiFoundation.save_pretrained`.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    rng
        Seed or generator.

    Returns
    -------
    The model of the best epoch. Interrupted (Ctrl-C) after the first epoch, the best model so far, with a
    warning.

    Raises
    ------
    ValueError
        No such modality, layer or column; unpaired cells; peak names that are no intervals; negative, NaN or
        infinite values; nothing to train on.
    FileExistsError
        `checkpoint` holds something.
    KeyboardInterrupt
        Interrupted before the first epoch was done.

    Notes
    -----
    Writes nothing into `data`. Encoder and recipe: EpiFoundation (Wu et al. 2025, bioRxiv
    10.1101/2025.02.05.636688) for the supervision by expression and the reading of non-zero peaks alone.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.simulate_multiome(200, 300, 20)
    >>> model = ep.tl.pretrain(
    ...     mdata,
    ...     config=ep.ModelConfig(dim=16, n_heads=2),
    ...     training=ep.TrainingConfig(max_epochs=1),
    ... )
    >>> model.config.dim, len(model.genes)
    (16, 20)
    """
    min_cells = integer(min_cells, "min_cells", least=1)
    if training is None:
        training = config if isinstance(config, str) else "default"
    training = TrainingConfig.preset(training) if isinstance(training, str) else training
    config = ModelConfig.preset(config) if isinstance(config, str) else config
    device = resolve_device(device)
    if init is not None and not isinstance(init, EpiFoundation):
        init = resolve_model(init, "cpu")
    likelihood = objective or (config or (init.config if init is not None else ModelConfig())).objective
    one_of(likelihood, OBJECTIVES, "objective")
    config = _architecture(config, init, likelihood)
    if training.balanced_genes is not None and likelihood != "binary":
        msg = f"`balanced_genes` is for the objective 'binary', not {likelihood!r}; leave it out or pass `training='default'`."
        raise ValueError(msg)
    if checkpoint is not None:
        check_target(Path(checkpoint), overwrite=False)
    rng = np.random.default_rng(rng)
    held = held_out(validation)
    labels = None
    if label_key is not None:
        labels = obs_column(data, get_atac(data, modality), label_key, "label_key")
    prepared = prepare(
        data,
        likelihood,
        modality=modality,
        rna_modality=rna_modality,
        layer=layer,
        batch_key=batch_key,
        validation=held,
        init=init,
        genome=genome,
        min_cells=min_cells,
        rng=rng,
    )
    if labels is not None:
        check_labels(labels, prepared.train, prepared.held)
    summary: dict[str, Any] = {
        "package_version": __version__,
        "objective": likelihood,
        "cells": len(prepared.train),
        "validation_cells": len(prepared.held),
        "validation": held,
        "batches": prepared.batches,
        "options": asdict(training),
    }
    with torch.inference_mode(False):  # the caller may be in it
        network, history, interrupted = _train(prepared, config, training, init, summary, checkpoint, device, rng)
    if interrupted:
        msg = f"Training was interrupted after {len(history)} epochs; this is the best model so far."
        warnings.warn(msg, RuntimeWarning, stacklevel=2)
    summary |= {"history": history, "interrupted": interrupted}
    model = EpiFoundation(network, prepared.peaks, prepared.genes, training=summary)
    if labels is not None:
        model = fit_label_head(model, prepared.pattern, labels, prepared.train, prepared.held)
    if checkpoint is not None:
        model.save_pretrained(checkpoint, overwrite=True)
    return model.to(device)


def _architecture(config: ModelConfig | None, init: EpiFoundation | None, objective: str) -> ModelConfig:
    if init is None:
        return replace(config or ModelConfig(), objective=objective)
    if config is not None:
        msg = "`config` and `init` exclude each other: the architecture is that of `init`."
        raise ValueError(msg)
    if objective not in (init.config.objective, "peaks"):
        msg = f"`init` was trained with objective {init.config.objective!r}, not {objective!r}; pass `objective={init.config.objective!r}`."
        raise ValueError(msg)
    if objective == "peaks" and not init.config.predicts_peaks:
        msg = "`init` has no head for held-out peaks (its decoder is the paper's), so it cannot go on with `objective='peaks'`."
        raise ValueError(msg)
    return replace(init.config, values=False)  # a decoder that is not trained here would fall behind the encoder


def _train(
    data: TrainingData,
    config: ModelConfig,
    training: TrainingConfig,
    init: EpiFoundation | None,
    summary: dict[str, Any],
    checkpoint: str | Path | None,
    device: torch.device,
    rng: np.random.Generator,
) -> tuple[Network, list[dict[str, float]], bool]:
    from ..training import Cells, fit

    seed = int(rng.integers(2**31))
    scores = None
    if data.target is not None and (training.warm_start or training.n_neighbors > 1):
        expression = sp.csr_matrix(data.target[data.train])
        expression = log_normalise(expression) if config.objective == "counts" else expression
        scores = rna_scores(expression, N_COMPONENTS, rng)
    network = _build(data, config, training, init, scores, seed, rng)
    pooling = None
    if scores is not None and training.n_neighbors > 1:
        pooling = neighbor_weights(scores[:, :N_NEIGHBOR_COMPONENTS], training.n_neighbors)

    def save(best: Network, epoch: int) -> None:
        if checkpoint is not None:
            so_far = EpiFoundation(
                copy.deepcopy(best), data.peaks, data.genes, training=summary | {"epochs": epoch + 1}
            )
            so_far.save_pretrained(checkpoint, overwrite=True)

    def cells(rows: np.ndarray, pooling: sp.csr_matrix | None, codes: np.ndarray | None) -> Cells:
        target = None if data.target is None else data.target[rows]
        return Cells(data.pattern[rows], target, pooling, None if codes is None else codes[rows])

    fitted = fit(
        network,
        cells(data.train, pooling, data.batch_codes),
        cells(data.held, None, None),
        training,
        seed=seed,
        device=device,
        progress=settings.progress,
        genes=data.gene_positions,
        on_better=save,
    )
    return fitted.network, fitted.history, fitted.interrupted


def _build(
    data: TrainingData,
    config: ModelConfig,
    training: TrainingConfig,
    init: EpiFoundation | None,
    scores: np.ndarray | None,
    seed: int,
    rng: np.random.Generator,
) -> Network:
    """A network with warm peak vectors and the heads' base rates, or with the weights of `init`."""
    sizes = Sizes(len(data.peaks), len(data.genes), 0, len(data.batches))
    if init is not None:
        theirs = init.network.sizes  # the labels and batches of `init` are not those of the data
        sizes = replace(sizes, n_chromosomes=theirs.n_chromosomes, n_bins=theirs.n_bins)
    elif config.encoder == "transformer" or config.decoder == "query":
        sizes = replace(sizes, n_chromosomes=data.peaks.intervals["chrom"].nunique())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(config, sizes)
    if init is not None:
        _go_on(network, init.network)
        return network
    pattern = data.pattern[data.train]
    with torch.no_grad():
        _set_chromosomes(network, data)
        if training.warm_start:
            rarity = idf(pattern)
            vectors = torch.from_numpy(peak_vectors(pattern, scores, config.dim, rng))
            prior = torch.from_numpy(0.2 * (rarity - rarity.mean()) / (rarity.std() + 1e-6))
            network.encoder.start_from(vectors, prior)
        if network.peaks is not None:
            network.peaks.linear.bias.copy_(_log_frequency(pattern))
        if isinstance(network.expression, ExpressionHead) and data.target is not None:
            _set_base_rate(network.expression, data.target[data.train])
        elif network.expression is not None and config.objective == "gaussian" and data.target is not None:
            _set_scale(network.expression, data.target[data.train])
    return network


def _go_on(network: Network, init: Network) -> None:
    """Take over what `init` has learned, but for its labels and batches."""
    network.encoder.load_state_dict(init.encoder.state_dict())
    if network.peaks is not None and init.peaks is not None:
        network.peaks.load_state_dict(init.peaks.state_dict())
    if network.expression is not None and init.expression is not None:
        network.expression.start_from(init.expression)  # type: ignore[arg-type] # of the same configuration


def _set_chromosomes(network: Network, data: TrainingData) -> None:
    """Tell the token tables of peaks and genes where their tokens lie."""
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


def _log_frequency(counts: sp.csr_matrix | np.ndarray) -> torch.Tensor:
    total = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel() + 1
    return torch.from_numpy(np.log(total / total.sum()).astype(np.float32))


def _set_base_rate(head: ExpressionHead, target: sp.csr_matrix | np.ndarray) -> None:
    """Let a head of zero weights predict the mean cell."""
    if head.objective == "counts":
        head.linear.bias.copy_(_log_frequency(target))
    elif head.objective == "binary":
        rate = (np.asarray(target.sum(axis=0)).ravel() + 1) / (target.shape[0] + 2)
        head.linear.bias.copy_(torch.from_numpy(np.log(rate / (1 - rate)).astype(np.float32)))
    else:
        _set_scale(head, target)


def _set_scale(head: ExpressionHead | QueryHead, target: sp.csr_matrix | np.ndarray) -> None:
    deviation = target.std(axis=0)
    head.mean.copy_(torch.from_numpy(target.mean(axis=0)))
    head.deviation.copy_(torch.from_numpy(np.where(deviation > 0, deviation, 1)))
