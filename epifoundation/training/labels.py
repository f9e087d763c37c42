"""Labels for an existing model: columns measured beside those of its encoder, and a label head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..models import EpiFoundation
from ..nn import LABELS, TrainingConfig
from .data import TrainingData, check_split, draw
from .features import features_of
from .heads import HEAD_FITS, HeadData, fit_heads
from .label_head import check_labels
from .measure import counted_labels, label_statistics, sample_size
from .stages import Fit, Sample


def with_labels(
    model: EpiFoundation, data: TrainingData, training: TrainingConfig, rng: np.random.Generator
) -> tuple[EpiFoundation, dict[str, int]]:
    """`model` with columns and a head for the labels of `data`, and numbers of cells.

    Labels are measured on the data as clusters are in pretraining, whatever the encoder: each
    labelled cell is left out of the vectors of its peaks. Columns for earlier labels are replaced.

    Raises
    ------
    ValueError
        Fewer than two labels among the training cells, or no labelled validation cell.
    """
    names, codes = data.label_codes()
    if data.labels is None or codes is None:
        msg = "There are no labels."
        raise ValueError(msg)
    base = without_labels(model)
    statistics = label_statistics(data, codes, len(names), base.device)
    usable = statistics.usable
    train, held = (rows[usable[rows]] for rows in (data.train, data.held))
    check_split(train, held, len(codes))
    numbers = {
        "cells": len(train),
        "validation_cells": len(held),
        "unlabelled_cells": int((codes < 0).sum()),
    }
    most = sample_size(data, training, rng)
    train, held = draw(train, most, rng, codes), draw(held, max(most // 2, 1), rng)
    check_labels(data.labels, train, held)
    sample = Sample.of(data, train, held)
    encoded = features_of(base, sample.pattern)
    seed = int(rng.integers(2**31))
    fit = Fit(statistics, sample, training, seed, base.device, labels=codes, encoded=encoded)
    first, final = fit.fit()
    of_cells = HeadData(
        data,
        base.config,
        sample.rows,
        sample.is_held,
        lambda: final.embedding,
        np.random.default_rng(seed),
        labels=codes[sample.rows],
        first=first,
    )
    tensors, sizes = fit_heads(of_cells, HEAD_FITS)
    tensors |= {name: part.cpu() for name, part in final.tensors().items()}
    network = base.network.with_sizes(base.network.sizes.updated(final.sizes() | sizes), tensors)
    cells = {**base.cells, LABELS: counted_labels(statistics.hashes, codes, usable)}
    tuned = replace(base, network=network, labels=names, cells=cells, adapter=None)
    return tuned.to(base.device), numbers


def without_labels(model: EpiFoundation) -> EpiFoundation:
    """The model without labels."""
    if not model.labels:
        return model
    sizes = replace(
        model.network.sizes,
        n_labels=0,
        n_label_layers=0,
        n_calibration=0,
        n_reference=0,
        n_label_landmarks=0,
    )
    cells = {name: there for name, there in model.cells.items() if name != LABELS}
    network = model.network.with_sizes(sizes, {})
    return replace(model, network=network, labels=[], cells=cells, adapter=None).to(model.device)
