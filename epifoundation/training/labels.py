"""Labels for an existing model: label columns and a label head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..models import EpiFoundation
from ..nn import LABELS, TrainingConfig
from .counting import count_labels, counted_labels
from .data import TrainingData
from .features import features_of
from .heads import HEAD_FITS, HeadData, fit_heads
from .label_head import check_labels
from .prior import prior_of_model
from .sample import Sample, sample_size
from .split import check_split, draw
from .stages import Fit


def with_labels(
    model: EpiFoundation, data: TrainingData, training: TrainingConfig, rng: np.random.Generator
) -> tuple[EpiFoundation, dict[str, int]]:
    """`model` with columns and a head for the labels of `data`, and numbers of cells.

    Label columns are fitted as those of clusters in pretraining, for any encoder: each labelled
    cell is left out of the vectors of its peaks. Earlier label columns are replaced.

    Raises
    ------
    ValueError
        Fewer than two labels among the training cells, or no labelled validation cell.
    """
    names, codes = data.label_codes()
    if data.labels is None or codes is None:
        msg = "The data have no labels: pass `label_key=`."
        raise ValueError(msg)
    base = without_labels(model)
    statistics = count_labels(data, codes, len(names), base.device)
    usable = statistics.usable
    train, held = (rows[usable[rows]] for rows in (data.train, data.held))
    check_split(train, held, len(codes))
    numbers = {
        "cells": len(train),
        "validation_cells": len(held),
        "unlabelled_cells": int((codes < 0).sum()),
    }
    n_cells = sample_size(data, training, rng)
    train, held = draw(train, n_cells, rng, codes), draw(held, max(n_cells // 2, 1), rng)
    check_labels(data.labels, train, held)
    sample = Sample.of(data, train, held)
    encoded = features_of(base, sample.pattern)
    seed = int(rng.integers(2**31))
    fit = Fit(
        statistics,
        sample,
        training,
        seed,
        base.device,
        labels=codes,
        encoded=encoded,
        prior=prior_of_model(base),
    )
    first, final = fit.fit()
    cells = HeadData(
        data,
        base.config,
        sample.rows,
        sample.is_held,
        lambda: final.embedding,
        np.random.default_rng(seed),
        labels=codes[sample.rows],
        first=first,
    )
    tensors, sizes = fit_heads(cells, HEAD_FITS)
    tensors |= {name: part.cpu() for name, part in final.tensors().items()}
    network = base.network.with_sizes(base.network.sizes.updated(final.sizes() | sizes), tensors)
    counted = {**base.cells, LABELS: counted_labels(statistics.hashes, codes, usable)}
    tuned = replace(
        base, network=network, labels=names, cells=counted, adapter=None, lineages={}, ontology={}
    )
    return tuned.to(base.device), numbers


def without_labels(model: EpiFoundation) -> EpiFoundation:
    """The model without labels."""
    if not model.labels:
        return model
    names = ("n_labels", "n_label_layers", "n_calibration", "n_reference", "n_label_landmarks")
    sizes = model.network.sizes.updated(dict.fromkeys(names, 0))
    cells = {name: block for name, block in model.cells.items() if name != LABELS}
    network = model.network.with_sizes(sizes, {})
    model = replace(
        model, network=network, labels=[], cells=cells, adapter=None, lineages={}, ontology={}
    )
    return model.to(model.device)
