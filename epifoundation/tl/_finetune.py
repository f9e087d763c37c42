"""``ep.tl.finetune``: a model fitted to labels, to batches, or to both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch

from .._docs import documented
from .._keys import Keys
from .._option_types import checked
from .._validate import RNG, generator_of, integer
from .._version import __version__
from .._warn import warn
from ..cells.formats import opened
from ..cells.source import Inputs, Source, as_sources
from ..models import EpiFoundation
from ..models._adapter import adapted
from ..models._registry import resolve_device, resolve_model
from ..nn import ModelConfig, TrainingConfig
from ..peaks.mapping import PeakMap
from ..peaks.options import PeakMapping, takes_mapping
from ..pp._map_peaks import map_source
from ..training.batches import without_batches
from ..training.data import DataKeys, prepare
from ..training.engine import Engine
from ..training.labels import with_labels, without_labels
from ..training.split import parse_validation

RANK = 8


@documented
@takes_mapping
@checked
def finetune(
    data: Inputs,
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
    mapping: PeakMapping | None = None,
    engine: Engine | None = None,
    device: str | torch.device = "auto",
    rng: RNG = 0,
) -> EpiFoundation:
    """Fine-tune a model to labels, batches, or both.

    For a set encoder, this is fitted in closed form. Labels: label columns are added to those of
    the encoder, and a calibrated label head is fitted to both. Batches: directions along which
    similar cells of different batches differ are projected out of the encoder, and batch effects
    on expression are added to the decoder.

    A transformer is trained by gradient descent to predict the labels in addition to its
    pretraining task, and its decoder learns effects of batches. Cells can be embedded afterwards
    without knowing their batch.

    Parameters
    ----------
    {data_or_files}
        Any peaks of the model's build. A transformer also learns from the RNA, if the model
        predicts expression; otherwise from held-out peaks, if the model has a head for them, and
        its predicted expression gets worse. Not changed.
    {model}
        Not changed.
    label_key
        Column of ``obs`` with labels; cells without a label are ignored.
    batch_key
        Column of ``obs`` with batches.
    validation
        Fraction of the cells, drawn at random, or names of whole batches (needs `batch_key`), used
        to choose penalties, or the epoch of a transformer, and to calibrate; if None, 0.1. Hold out
        batches for an unbiased choice. Keep test donors out of `data`.
    training
        A :class:`~epifoundation.TrainingConfig` or the name of a preset. Default: its defaults for
        a set encoder, ``"finetune"`` for a transformer.
    rank
        Transformer: rank of the update of each matrix. If None, all weights are trained. An update
        of low rank, or of a set encoder, can be saved as a small file, see
        :meth:`~epifoundation.EpiFoundation.save_adapter`.
    expression
        Learn from the RNA of a MuData, and from the cells that have it only. False ignores the RNA,
        and all cells with ATAC are used.
    layer
        Layer of the RNA modality with the target; if None, ``X``.
    {modalities}
    {mapping}
    engine
        How a transformer is trained: processes, precision, state to resume from, logs. See
        :class:`~epifoundation.Engine`.
    {device}
    rng
        Seed or generator.

    Returns
    -------
    A model with the peaks and genes of `model`. With `label_key` it annotates
    (:func:`epifoundation.tl.annotate`) with these labels, without it has none. A transformer that
    is interrupted (Ctrl-C) after the first epoch returns the best model so far, with a warning.

    Raises
    ------
    ValueError
        Neither labels nor batches; fewer than two labels; options that do not apply to the encoder;
        what :func:`epifoundation.tl.pretrain` raises.
    KeyboardInterrupt
        Interrupted before there was a model.

    Notes
    -----
    The label loss of a transformer is cross-entropy with label smoothing and class weights
    (:class:`~epifoundation.TrainingConfig`); low-rank updates: Hu et al. 2021.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()[:600].copy()
    >>> model = ep.tl.finetune(mdata["atac"], "pbmc-51loci", label_key="cell_type")
    >>> ep.tl.annotate(mdata, model)
    """
    if label_key is None and batch_key is None:
        msg = (
            "Fine-tuning is for labels or batches: pass `label_key=`, `batch_key=` or both. To "
            "continue pretraining, use `ep.tl.pretrain(data, init=model)`."
        )
        raise ValueError(msg)
    rank = None if rank is None else integer(rank, "rank", minimum=1)
    device = resolve_device(device)
    base = resolve_model(model, None)
    by_gradient = base.config.is_trained
    if training is None:
        training = "finetune" if by_gradient else "default"
    training = TrainingConfig.preset(training) if isinstance(training, str) else training
    # A set encoder of format 1 is fitted like any set encoder
    fitted_as = base.config if by_gradient else ModelConfig()
    training.check(fitted_as)
    if not by_gradient:
        (engine or Engine()).check_measured()
        if engine is not None and engine.state is not None:
            msg = (
                f"`Engine(state={str(engine.state)!r})` does not apply to a set encoder, which is "
                "fine-tuned in seconds. Leave it out."
            )
            raise ValueError(msg)
        if rank not in (None, RANK):
            msg = (
                f"`rank={rank}` does not apply to a set encoder, which has no trained matrices: "
                "leave it out."
            )
            raise ValueError(msg)
    held = parse_validation(validation)
    has_rna, labels, batches = _read_obs(data, modality, rna_modality, label_key, batch_key)
    if batches is not None:
        batch_key = _check_batches(batches, str(batch_key), labels, held)
    learns_expression = (
        expression
        and has_rna
        and len(base.genes) > 0
        and (by_gradient or (base.config.is_measured and batch_key is not None))
    )
    if by_gradient:
        _check_transformer(base, training, labels, learns_expression=learns_expression)
    rng = generator_of(rng)

    def mapped(source: Source) -> PeakMap:
        return map_source(source, base, mapping, Keys())

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
        summary["unlabelled_cells"] = int(cast("pd.Series", prepared.labels).isna().sum())
    if by_gradient:
        # Imported here, as Lightning takes seconds
        from ..paper.train import finetune_model

        return finetune_model(
            prepared, base, training, summary, rank=rank, rng=rng, engine=engine, device=device
        )
    tuned = replace(base, adapter=None).to(device)
    if batch_key is not None:
        tuned = without_batches(tuned, prepared, training, rng)
    if batch_key is None or (prepared.target is None and base.network.sizes.n_batches):
        # Offsets of expression are still those of the batches of the base
        summary["batches"] = base.training.get("batches", [])
    if labels is not None:
        tuned, _ = with_labels(tuned, prepared, training, rng)
    elif tuned.labels:
        tuned = without_labels(tuned)
    tuned = replace(tuned, training=summary, name="unsaved", card="")
    return (tuned if rank is None else adapted(base, tuned, {})).to(device)


def _read_obs(
    data: Inputs, modality: str, rna_modality: str, label_key: str | None, batch_key: str | None
) -> tuple[bool, pd.Series | None, pd.Series | None]:
    """Whether all sources have RNA, and labels and batches of all cells."""
    has_rna, labels, batches = [], [], []
    for name, place in as_sources(data).items():
        with opened(place, modality, name) as source:
            has_rna.append(source.other(rna_modality) is not None)
            if label_key is not None:
                labels.append(source.column(label_key, "label_key"))
            if batch_key is not None:
                batches.append(source.column(batch_key, "batch_key"))
    return (
        all(has_rna),
        pd.concat(labels, ignore_index=True) if labels else None,
        pd.concat(batches, ignore_index=True) if batches else None,
    )


def _check_transformer(
    base: EpiFoundation,
    training: TrainingConfig,
    labels: pd.Series | None,
    *,
    learns_expression: bool,
) -> None:
    if labels is None and not learns_expression and not base.config.predicts_peaks:
        msg = (
            f"The model {base.name!r} has no head for held-out peaks, and there is no RNA to learn "
            "from: batches alone cannot be learned. Pass a MuData with RNA, or `label_key=`."
        )
        raise ValueError(msg)
    if training.balanced_genes is not None and (
        not learns_expression or base.config.objective != "binary"
    ):
        msg = (
            "`balanced_genes` is for models of the objective 'binary' and data with RNA; leave it "
            "out of `training`."
        )
        raise ValueError(msg)


def _check_batches(
    batch: pd.Series, key: str, labels: pd.Series | None, held: float | list[str]
) -> str | None:
    """The column, or None with a warning if it has a single batch."""
    names = sorted(set(batch.dropna().astype(str)))
    if len(names) > 1 or batch.isna().any():  # missing batches are an error later
        return key
    if labels is None or isinstance(held, list):
        msg = (
            f"`batch_key={key!r}` has a single batch, {names}: there is nothing to compare or to "
            "hold out. Pass another column, or leave it out."
        )
        raise ValueError(msg)
    warn(f"`batch_key={key!r}` has a single batch, {names}; it is ignored.")
    return None
