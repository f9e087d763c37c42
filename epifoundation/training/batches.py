"""Batch effects of new data projected out of an existing model."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch

from ..models import EpiFoundation
from ..nn import ExpressionHead, TrainingConfig
from .batch_effects import batch_means, project_out, scaled_directions
from .data import TrainingData
from .expression import batch_offsets
from .features import features_of
from .labels import without_labels
from .sample import sample_size
from .split import draw


def without_batches(
    model: EpiFoundation, data: TrainingData, training: TrainingConfig, rng: np.random.Generator
) -> EpiFoundation:
    """`model` without labels and batch effects of `data`, with their offsets of expression."""
    base = without_labels(model)
    rows = draw(data.train, sample_size(data, training, rng), rng)
    pattern = data.pattern[rows]
    rows, pattern = rows[np.diff(pattern.indptr) > 0], pattern[np.diff(pattern.indptr) > 0]
    columns = features_of(base, pattern)[0].astype(np.float64)
    batch = np.asarray(data.batch_codes)[rows]
    _, codes = data.label_codes()
    groups = None if codes is None else codes[rows]
    read, along = scaled_directions(columns, batch, rng, groups)
    network = base.network
    if len(read):
        network = project_out(network, read, along, batch_means(columns, batch, len(data.batches)))
        base = replace(base, network=network.to(base.device))
    if data.target is not None:
        _, embedding = features_of(base, pattern)
        state = cast("ExpressionHead", network.expression).state_dict()
        head = {name: tensor.double().cpu().numpy() for name, tensor in state.items()}
        at = slice(None) if data.gene_positions is None else data.gene_positions
        weight = head["linear.weight"].T[:, at] + head["linear.bias"][at]
        offsets = np.zeros((len(data.batches), len(base.genes)), np.float32)
        offsets[:, at] = batch_offsets(
            embedding,
            data.target[rows],
            batch,
            weight,
            head["mean"][at],
            base.config.objective,
            len(data.batches),
        )
        sizes = replace(network.sizes, n_batches=len(data.batches))
        network = network.with_sizes(sizes, {"expression.batch": torch.from_numpy(offsets)})
        summary = base.training | {"batches": data.batches}
        base = replace(base, network=network, training=summary)
    return base.to(model.device)
