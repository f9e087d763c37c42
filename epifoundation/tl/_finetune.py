"""``ep.tl.finetune``: a model fitted to labels, to batches, or to both."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mudata import MuData

from .._validate import RNG, Data, get_atac, integer, obs_column
from .._version import __version__
from ..models import EpiFoundation
from ..models._adapter import adapted
from ..models._registry import resolve_device, resolve_model
from ..nn import ModelConfig, TrainingConfig
from ..peaks.mapping import PeakMap, map_onto
from ..pp._map_peaks import MIN_COVERAGE
from ..training.batches import without_batches
from ..training.data import DataKeys, prepare
from ..training.engine import Engine
from ..training.labels import with_labels, without_labels
from ..training.split import parse_validation

RANK = 8


def finetune(
    data: Data,
    model: EpiFoundation | str | Path | None = None,
    *,
    label_key: str | None = None,
    batch_key: str | None = None,
    validation: float | Sequence[str] | None = None,
    training: TrainingConfig | str | None = None,
    rank: int | None = RANK,
    expression: bool = True,
    layer: str | None = None,
    modality: str = "atac",
    rna_modality: str = "rna",
    min_overlap: float = 0.0,
    genome: str | None = None,
    liftover: str | Path | None = None,
    min_coverage: float = MIN_COVERAGE,
    engine: Engine | None = None,
    device: str | torch.device = "auto",
    rng: RNG = 0,
) -> EpiFoundation:
    """Fit a model to the labels or the batches of data, or to both.

    Of a set encoder nothing is trained. Labels: columns for them are measured on the data, beside those of the encoder,
    and a calibrated label head is fitted on both. Batches: directions along which similar cells of different batches
    differ are projected out of the encoder, and what batches change in expression enters the decoder.

    A transformer is trained by gradient to distinguish the labels beside what it was pretrained for, and its decoder learns
    what batches change. No batch is needed to embed a cell afterwards.

    Parameters
    ----------
    data
        A MuData or AnnData with any peaks of the model's build. A transformer goes on to learn from its RNA, if there are
        RNA and a model that predicts expression; otherwise from held-out peaks, if the model has a head for them, and
        predicted expression falls behind. Not changed.
    model
        A model, its name or directory; None is the bundled one. Not changed.
    label_key
        Column of ``obs`` with labels; cells with a missing one are ignored.
    batch_key
        Column of ``obs`` with batches.
    validation
        Fraction of the cells, drawn at random, or names of whole batches (needs `batch_key`) that are held out to choose
        penalties, or the epoch of a transformer, and to calibrate on; None is 0.1. Held-out batches are the honest choice.
    training
        A :class:`~epifoundation.TrainingConfig` or the name of a preset. Default: its defaults for a set encoder,
        ``"finetune"`` for a transformer.
    rank
        Transformer: rank of the update of each matrix. None: all weights are learned. The whole update, if it is of low
        rank or that of a set encoder, is a small file, see :meth:`~epifoundation.EpiFoundation.save_adapter`.
    expression
        Learn from the RNA of a MuData; False leaves it aside.
    layer
        Layer of the RNA modality that holds the target; default ``X``.
    modality, rna_modality
        Names in the MuData.
    min_overlap, genome, liftover, min_coverage
        How the data's peaks are matched to the model's: see :func:`epifoundation.pp.map_peaks`.
    engine
        How a transformer is trained: processes, precision, state to go on from, logs. See :class:`~epifoundation.Engine`.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    rng
        Seed or generator.

    Returns
    -------
    A model with the peaks and genes of the one it was made from. With `label_key` it annotates
    (:func:`epifoundation.tl.annotate`) with these labels, without it has no labels. A transformer that is interrupted
    (Ctrl-C) after the first epoch gives the best model so far, with a warning.

    Raises
    ------
    ValueError
        Neither labels nor batches to learn from; fewer than two labels; options that have no meaning for the encoder; what
        :func:`epifoundation.tl.pretrain` raises.
    KeyboardInterrupt
        Interrupted before there was a model.

    Notes
    -----
    The loss of labels of a transformer is cross-entropy with label smoothing, in which rare labels count more
    (:class:`~epifoundation.TrainingConfig`); low-rank updates: Hu et al. 2021.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()[:600].copy()
    >>> model = ep.tl.finetune(mdata["atac"], label_key="cell_type")
    >>> ep.tl.annotate(mdata, model)
    """
    if label_key is None and batch_key is None:
        msg = "Fine-tuning is for labels or batches: pass `label_key=`, `batch_key=` or both. To go on with pretraining, use `ep.tl.pretrain(data, init=model)`."
        raise ValueError(msg)
    rank = None if rank is None else integer(rank, "rank", least=1)
    device = resolve_device(device)
    base = resolve_model(model, None)
    by_gradient = base.config.is_trained
    if training is None:
        training = "finetune" if by_gradient else "default"
    training = TrainingConfig.preset(training) if isinstance(training, str) else training
    fitted_as = (
        base.config if by_gradient else ModelConfig()
    )  # one of format 1 is fitted as a set encoder is
    training.check(fitted_as)
    if not by_gradient:
        (engine or Engine()).check_measured()
        if engine is not None and engine.state is not None:
            msg = f"`Engine(state={str(engine.state)!r})` has no meaning here: a set encoder is fine-tuned in seconds. Leave it out."
            raise ValueError(msg)
        if rank not in (None, RANK):
            msg = f"`rank={rank}` has no meaning for a set encoder, of which no matrix is trained: leave it out."
            raise ValueError(msg)
    atac = get_atac(data, modality)
    labels = None if label_key is None else obs_column(data, atac, label_key, "label_key")
    if batch_key is not None:
        batch_key = _check_batches(
            obs_column(data, atac, batch_key, "batch_key"), batch_key, labels, validation
        )
    learns_expression = (
        expression and isinstance(data, MuData) and len(base.genes) > 0 and rna_modality in data.mod
    )
    learns_expression = learns_expression and (
        by_gradient or (base.config.is_measured and batch_key is not None)
    )
    if by_gradient:
        _check_transformer(base, training, labels, learns_expression=learns_expression)
    rng = np.random.default_rng(rng)
    held = parse_validation(validation)

    def mapped(var: pd.DataFrame) -> PeakMap:
        mapping = map_onto(
            base.peaks, var, min_overlap=min_overlap, genome=genome, liftover=liftover
        )
        mapping.check(min_coverage)
        return mapping

    prepared = prepare(
        data,
        base.config.objective if learns_expression else "peaks",
        DataKeys(modality, rna_modality, layer, batch_key, label_key),
        validation=held,
        init=base,
        map_peaks=mapped,
        by_gradient=by_gradient,
        rng=rng,
    )
    summary: dict[str, Any] = {
        "package_version": __version__,
        "finetuned_from": {"model": base.name, "revision": base.revision},
        "objective": base.config.objective if learns_expression else "peaks",
        "rank": rank if by_gradient else None,
        "cells": len(prepared.train),
        "validation_cells": len(prepared.held),
        "validation": held,
        "batches": prepared.batches,
        "options": training.options(fitted_as),
    }
    if labels is not None:
        summary["unlabelled_cells"] = int(labels.isna().sum())
    if by_gradient:
        # Imported here: Lightning takes seconds.
        from ..paper.train import finetune_model

        return finetune_model(
            prepared, base, training, summary, rank=rank, rng=rng, engine=engine, device=device
        )
    tuned = replace(base, adapter=None).to(device)
    if batch_key is not None:
        tuned = without_batches(tuned, prepared, training, rng)
    else:
        summary["batches"] = base.training.get("batches", [])
    if labels is not None:
        tuned, _ = with_labels(tuned, prepared, training, rng)
    elif tuned.labels:
        tuned = without_labels(tuned)
    tuned = replace(tuned, training=summary, name="unsaved", card="")
    return (tuned if rank is None else adapted(base, tuned, {})).to(device)


def _check_transformer(
    base: EpiFoundation,
    training: TrainingConfig,
    labels: pd.Series | None,
    *,
    learns_expression: bool,
) -> None:
    if labels is None and not learns_expression and not base.config.predicts_peaks:
        msg = (
            f"The model {base.name!r} has no head for held-out peaks, and there is no RNA to learn from: batches alone cannot be learned. "
            "Pass a MuData with RNA, or `label_key=`."
        )
        raise ValueError(msg)
    if training.balanced_genes is not None and (
        not learns_expression or base.config.objective != "binary"
    ):
        msg = "`balanced_genes` is for models of the objective 'binary' and data with RNA; leave it out of `training`."
        raise ValueError(msg)


def _check_batches(
    batch: pd.Series, key: str, labels: pd.Series | None, validation: float | Sequence[str] | None
) -> str | None:
    """The column, or None if it holds one batch."""
    names = sorted(set(batch.dropna().astype(str)))
    if (
        len(names) > 1 or batch.isna().any()
    ):  # an error about missing ones comes where batches are read
        return key
    if labels is None or isinstance(parse_validation(validation), list):
        msg = f"`batch_key={key!r}` holds one batch, {names}: there is nothing to compare or to hold out. Name another column, or leave it out."
        raise ValueError(msg)
    msg = f"`batch_key={key!r}` holds one batch, {names}; it is left out."
    warnings.warn(msg, UserWarning, stacklevel=3)
    return None
