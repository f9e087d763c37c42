"""``ep.tl.finetune``: a model fitted to labels, to batches, or to both."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mudata import MuData

from .._validate import RNG, Data, get_atac, integer, obs_column
from .._version import __version__
from ..engine import Engine
from ..models import EpiFoundation
from ..models._adapter import Adapter
from ..models._registry import resolve_device, resolve_model
from ..nn import Network, TrainingConfig, adapt, blend, merge
from ..pp._map_peaks import MIN_COVERAGE
from ..pp._mapping import map_onto
from ._batches import take_out_batches
from ._encode import embedding_of
from ._label_head import check_labels, head_on
from ._measured_head import has_counts, with_measured_head
from ._train import train
from ._training_data import TrainingData, held_out, prepare

SHARES = (0.0, 0.25, 0.5, 1.0)  # of what was learned; halves, so that factors in half precision stay exact

MARGIN = 0.01  # of a loss, by which shares are as good


def finetune(
    data: Data,
    model: EpiFoundation | str | Path | None = None,
    *,
    label_key: str | None = None,
    batch_key: str | None = None,
    validation: float | Sequence[str] | None = None,
    training: TrainingConfig | str | None = None,
    rank: int | None = 8,
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

    Labels: the embedding learns to tell them apart, beside what it was pretrained for, and the model gets a calibrated label head.
    Batches: what they change in expression (without RNA, in the held-out peaks) is learned by the decoder, so that the embedding need
    not carry it; with ``TrainingConfig.adversarial`` it is also held against the encoder. No batch is needed to embed a cell afterwards.

    Parameters
    ----------
    data
        A MuData or AnnData with any peaks of the model's build. Where there are RNA and a model that predicts expression, that goes on
        being learned; otherwise held-out peaks are, if the model has a head for them, and predicted expression falls behind. Not changed.
    model
        A model, its name or directory; None is the bundled one. Not changed.
    label_key
        Column of ``obs`` with labels; cells with a missing one are learned from without it.
    batch_key
        Column of ``obs`` with batches.
    validation
        Fraction of the cells, drawn at random, or names of whole batches (needs `batch_key`) that are held out to choose the epoch and to
        calibrate on; None is 0.1. Held-out batches are the honest choice.
    training
        A :class:`~epifoundation.TrainingConfig` or the name of a preset; default ``"finetune"``. Against an adversary it is the last epoch
        that is kept, and all of what was learned.
    rank
        Rank of the update of each matrix. The whole update is then a small file, see
        :meth:`~epifoundation.EpiFoundation.save_adapter`. None: all weights are learned.
    expression
        Learn from the RNA of a MuData; False leaves it aside.
    layer
        Layer of the RNA modality that holds the target; default ``X``.
    modality, rna_modality
        Names in the MuData.
    min_overlap, genome, liftover, min_coverage
        How the data's peaks are matched to the model's: see :func:`epifoundation.pp.map_peaks`.
    engine
        How training is run: processes, precision, state to go on from, logs. See :class:`~epifoundation.Engine`.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    rng
        Seed or generator.

    Returns
    -------
    A model with the peaks and genes of the one it was made from. With `label_key` it annotates
    (:func:`epifoundation.tl.annotate`), without it has no labels. Interrupted (Ctrl-C) after the first epoch, the best model so far,
    with a warning.

    Raises
    ------
    ValueError
        Neither labels nor batches to learn from; fewer than two labels; one batch for an adversary; what
        :func:`epifoundation.tl.pretrain` raises.
    KeyboardInterrupt
        Interrupted before the first epoch was done.

    Notes
    -----
    The loss of labels is cross-entropy with label smoothing, in which rare labels count more
    (:class:`~epifoundation.TrainingConfig`). The head of the model is fitted afterwards on the embedding, as in
    :func:`epifoundation.tl.annotate`. Low-rank updates: Hu et al. 2021. Adversary: Ganin et al. 2016.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()[:600].copy()
    >>> training = ep.TrainingConfig(max_epochs=1, n_neighbors=1)
    >>> model = ep.tl.finetune(mdata["atac"], label_key="cell_type", training=training)
    >>> ep.tl.annotate(mdata, model)
    """
    if label_key is None and batch_key is None:
        msg = "Fine-tuning is for labels or batches: pass `label_key=`, `batch_key=` or both. To go on with pretraining, use `ep.tl.pretrain(data, init=model)`."
        raise ValueError(msg)
    rank = None if rank is None else integer(rank, "rank", least=1)
    training = "finetune" if training is None else training
    training = TrainingConfig.preset(training) if isinstance(training, str) else training
    device = resolve_device(device)
    base = resolve_model(model, None)
    atac = get_atac(data, modality)
    labels = None if label_key is None else obs_column(data, atac, label_key, "label_key")
    if batch_key is not None:
        batch_key = _check_batches(
            obs_column(data, atac, batch_key, "batch_key"), batch_key, labels, training, validation
        )
    learns_expression = expression and isinstance(data, MuData) and len(base.genes) > 0 and rna_modality in data.mod
    if labels is None and not learns_expression and not base.config.predicts_peaks:
        msg = (
            f"The model {base.name!r} has no head for held-out peaks, and there is no RNA to learn from: batches alone cannot be learned. "
            "Pass a MuData with RNA, or `label_key=`."
        )
        raise ValueError(msg)
    if training.balanced_genes is not None and (not learns_expression or base.config.objective != "binary"):
        msg = "`balanced_genes` is for models of the objective 'binary' and data with RNA; leave it out of `training`."
        raise ValueError(msg)
    mapping = map_onto(base.peaks, atac.var, min_overlap=min_overlap, genome=genome, liftover=liftover)
    mapping.check(min_coverage)
    rng = np.random.default_rng(rng)
    held = held_out(validation)
    prepared = prepare(
        data,
        base.config.objective if learns_expression else "peaks",
        modality=modality,
        rna_modality=rna_modality,
        layer=layer,
        batch_key=batch_key,
        validation=held,
        init=base,
        mapping=mapping,
        rng=rng,
    )
    if training.adversarial and len(prepared.batches) < 2:
        msg = (
            f"An adversary (`adversarial={training.adversarial}`) tells batches apart, and the training cells are of {prepared.batches}: "
            "pass `batch_key=` with two or more of them."
        )
        raise ValueError(msg)
    summary: dict[str, Any] = {
        "package_version": __version__,
        "finetuned_from": {"model": base.name, "revision": base.revision},
        "objective": base.config.objective if learns_expression else "peaks",
        "rank": rank,
        "cells": len(prepared.train),
        "validation_cells": len(prepared.held),
        "validation": held,
        "batches": prepared.batches,
        "options": asdict(training),
    }
    codes = counts = None
    if labels is not None:
        names, codes, rows, _ = check_labels(labels, prepared.train, prepared.held)
        counts = np.bincount(codes[rows], minlength=len(names))
        summary["unlabelled_cells"] = int(labels.isna().sum())
    start: list[Network] = []

    def begin(network: Network) -> None:
        start.append(copy.deepcopy(network))  # with this data's batches, so that one can go back to it
        if rank is not None:
            adapt(network, rank)

    # Imported here: Lightning takes seconds.
    from ..finetuning import Finetuning

    fitted = train(
        prepared,
        replace(base.config, values=False),  # a decoder that is not trained here would fall behind the encoder
        training,
        base,
        device=device,
        rng=rng,
        engine=engine,
        label_codes=codes,
        prepare_network=begin,
        module=partial(Finetuning, label_counts=counts, n_batches=len(prepared.batches)),
    )
    factors = {} if rank is None else merge(fitted.network)
    seed = int(rng.integers(2**31))

    def finish(model: EpiFoundation) -> EpiFoundation:
        if prepared.batch_codes is None:
            return model
        return take_out_batches(
            model, prepared.pattern, prepared.train, prepared.batch_codes, np.random.default_rng(seed), codes
        )

    summary |= {"history": fitted.history, "interrupted": fitted.interrupted}
    tuned = EpiFoundation(fitted.network, base.peaks, base.genes, training=summary).to(device)
    if labels is not None:
        shares = (1.0,) if training.adversarial else SHARES
        tuned = _with_labels(start[0], tuned, shares, prepared, labels, finish)
        factors = {name: (left * tuned.training["share"], right) for name, (left, right) in factors.items()}
    else:
        tuned = finish(tuned)
    if rank is None:
        if not has_counts(tuned, prepared):
            return tuned
        names = pd.RangeIndex(prepared.pattern.shape[0])
        embedding = embedding_of(tuned, prepared.pattern, None, names, show=False)
        return with_measured_head(tuned, prepared, embedding, rng)
    adapter = Adapter.between(base, tuned.network, factors)
    # What is returned is what will be read, to the last bit.
    network = adapter.apply(base.network, tuned.config, tuned.network.sizes)
    return replace(tuned, network=network, adapter=adapter).to(device)


def _with_labels(
    start: Network,
    tuned: EpiFoundation,
    shares: Sequence[float],
    data: TrainingData,
    labels: pd.Series,
    finish: Callable[[EpiFoundation], EpiFoundation],
) -> EpiFoundation:
    """A model with a label head, between what there was and what was learned: where held-out cells are told best.

    What is gained on the cells that were learned from may be lost on others, and the way back is a straight line (Wortsman et al. 2022).
    Of shares that are as good, it is the least.
    """
    found = []
    for share in shares:
        blended = tuned if share == 1 else replace(tuned, network=blend(start, tuned.network, share))
        blended = finish(blended)
        embedding = embedding_of(blended, data.pattern, None, labels.index, show=False)
        candidate, loss = head_on(blended, embedding, labels, data.train, data.held)
        found.append((share, loss, candidate))
    enough = (1 + MARGIN) * min(loss for _, loss, _ in found)
    share, _, model = next(each for each in found if each[1] <= enough)
    model.training["share"] = share
    return model


def _check_batches(
    batch: pd.Series,
    key: str,
    labels: pd.Series | None,
    training: TrainingConfig,
    validation: float | Sequence[str] | None,
) -> str | None:
    """The column, or None where it tells nothing."""
    names = sorted(set(batch.dropna().astype(str)))
    if len(names) > 1 or batch.isna().any():  # what is missing is told where batches are read
        return key
    if labels is None or training.adversarial or isinstance(held_out(validation), list):
        msg = f"`batch_key={key!r}` holds one batch, {names}: there is nothing to tell apart or to hold out. Name another column, or leave it out."
        raise ValueError(msg)
    msg = f"`batch_key={key!r}` holds one batch, {names}; it is left out."
    warnings.warn(msg, UserWarning, stacklevel=3)
    return None
