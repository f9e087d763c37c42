"""``ep.tl.pretrain``: a model from paired ATAC and RNA, or from ATAC alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import torch

from .._validate import RNG, Data, get_atac, integer, obs_column, one_of
from .._version import __version__
from ..engine import Engine, World
from ..models import EpiFoundation
from ..models._directory import check_target
from ..models._registry import resolve_device, resolve_model
from ..nn import ModelConfig, Network, TrainingConfig
from ..nn.config import OBJECTIVES
from ..vocabulary import PeakVocabulary
from ._batches import take_out_batches
from ._encode import embedding_of
from ._label_head import check_labels, head_on
from ._measured_head import has_counts, with_measured_head
from ._peak_head import with_peak_head
from ._stored_data import is_stored, prepare_stored
from ._stream import Cells
from ._train import train
from ._training_data import TrainingData, held_out, prepare


def pretrain(
    data: Cells,
    *,
    peaks: PeakVocabulary | None = None,
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
    engine: Engine | None = None,
    device: str | torch.device = "auto",
    rng: RNG = 0,
) -> EpiFoundation:
    """Pretrain a model to predict a cell's expression from the set of its open peaks.

    Parameters
    ----------
    data
        A MuData with paired `modality` and `rna_modality`, or an AnnData (ATAC) with ``objective="peaks"``.
        A positive entry of the ATAC matrix is an open peak. Not changed. For a query decoder, a column ``chrom``,
        ``chromosome`` or ``interval`` (10x) of the RNA modality's ``var`` tells the chromosomes of genes.
        Or paths of such (``.h5ad``, ``.h5mu``, zarr), one or several, with any peaks: their cells are read while training runs, see Notes.
    peaks
        For cells in files: the peaks that the model is to read, such as of :func:`epifoundation.pp.consensus_peaks`. Default: those of the
        file, or the consensus of all files' peaks.
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
        Column of ``obs`` with batches: what they change enters the decoder, and directions of the embedding along which they differ,
        among like cells, by more than 0.3 of the variance of cells of one kind and batch are taken out of it.
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
    engine
        How training is run: processes, precision, state to go on from, logs. See :class:`~epifoundation.Engine`.
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

    Cells in files are read in runs, in random order, and shuffled within a buffer (:class:`~epifoundation.TrainingConfig`); this needs
    ``pip install 'epifoundation[atlas]'``. RNA is then not pooled over neighbours (``n_neighbors`` counts as 1), and what is fitted
    before and after training (vectors of peaks, directions of batches, heads for the measured scale, peaks and labels) is fitted on a sample of the cells. The genes are
    those that all files have.

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
    if init is not None:
        init = resolve_model(init, None)
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
    if is_stored(data):
        prepared = prepare_stored(
            data,
            likelihood,
            peaks=peaks,
            modality=modality,
            rna_modality=rna_modality,
            layer=layer,
            batch_key=batch_key,
            label_key=label_key,
            validation=held,
            init=init,
            genome=genome,
            min_cells=min_cells,
            buffer=training.buffer,
            rng=rng,
        )
        labels = prepared.labels
    else:
        if peaks is not None:
            msg = "`peaks` is for cells in files. Those of cells in memory are the columns of the data; to go on with the peaks of a model, pass `init`."
            raise ValueError(msg)
        in_memory = cast("Data", data)
        labels = None
        if label_key is not None:
            labels = obs_column(in_memory, get_atac(in_memory, modality), label_key, "label_key")
        prepared = prepare(
            in_memory,
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
    codes = None if labels is None else check_labels(labels, prepared.train, prepared.held)[1]
    if training.balanced_genes is not None:
        _check_balance(prepared)
    summary: dict[str, Any] = {
        "package_version": __version__,
        "objective": likelihood,
        "cells": prepared.n_train,
        "validation_cells": len(prepared.held),
        "validation": held,
        "batches": prepared.batches,
        "options": asdict(training),
    }

    is_first = World.told().rank == 0  # of the processes that train together

    def save(best: Network, epoch: int) -> None:
        if checkpoint is not None and is_first:
            done = summary | {"epochs": epoch + 1}
            so_far = EpiFoundation(copy.deepcopy(best), prepared.peaks, prepared.genes, training=done)
            so_far.save_pretrained(checkpoint, overwrite=True)

    fitted = train(prepared, config, training, init, device=device, rng=rng, engine=engine, on_better=save)
    if prepared.stored is not None:
        prepared.stored.close()
    summary |= {"history": fitted.history, "interrupted": fitted.interrupted}
    model = EpiFoundation(fitted.network, prepared.peaks, prepared.genes, training=summary).to(device)
    if prepared.batch_codes is not None:
        model = take_out_batches(model, prepared.pattern, prepared.train, prepared.batch_codes, rng, codes, fitted.own)
    needs_peaks = prepared.target is not None and model.config.predicts_peaks and not training.peak_weight
    if needs_peaks or labels is not None or has_counts(model, prepared):
        names = pd.RangeIndex(prepared.pattern.shape[0])
        embedding = embedding_of(model, prepared.pattern, None, names, show=False, own=fitted.own)
        model = with_measured_head(model, prepared, embedding, rng)
        if needs_peaks:
            model = with_peak_head(model, prepared, embedding)
        if labels is not None:
            model, _ = head_on(model, embedding, labels, prepared.train, prepared.held)
    if checkpoint is not None and is_first:
        model.save_pretrained(checkpoint, overwrite=True)
    return model.to(device)


def _architecture(config: ModelConfig | None, init: EpiFoundation | None, objective: str) -> ModelConfig:
    if config is not None and config.values:
        msg = "`config.values` is for models that were converted: nothing here trains that decoder. Leave it out."
        raise ValueError(msg)
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


def _check_balance(data: TrainingData) -> None:
    """Raise where no cell has a gene of either kind: the loss would be zero."""
    for name, rows in (("training", data.train), ("validation", data.held)):
        target = data.target[rows]  # type: ignore[index] # the objective is "binary"
        n_expressed = np.asarray((target > 0).sum(axis=1)).ravel()
        if not ((n_expressed > 0) & (n_expressed < target.shape[1])).any():
            msg = (
                f"`balanced_genes` needs cells with expressed and with silent genes; none of the {len(rows):,} {name} cells has "
                f"both among {target.shape[1]:,} genes. Leave it out, or pass more genes."
            )
            raise ValueError(msg)
