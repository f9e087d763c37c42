"""Labels for a model that is there: columns measured on labelled cells beside those of its encoder, and a label head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch

from ..counted import CountedCells
from ..models import EpiFoundation
from ..nn import ENCODER, KernelReadout, LabelHead, PeakVectors, TrainingConfig
from .components import packed
from .data import TrainingData, check_split, draw
from .label_head import check_labels, fit_label_head
from .measure import counted_labels, label_statistics, sample_size
from .stages import PARTS, chosen_on, columns_of, fit_readout, peak_vectors


def with_labels(
    model: EpiFoundation, data: TrainingData, training: TrainingConfig, rng: np.random.Generator
) -> tuple[EpiFoundation, dict[str, int]]:
    """`model` with columns and a head for the labels of `data`, and numbers of cells.

    Labels are measured on the data as clusters are in pretraining, whatever the encoder: each labelled cell is left out of
    the vectors of its own peaks. Columns for other labels that the model had are replaced.

    Raises
    ------
    ValueError
        Fewer than two labels among the training cells, or no labelled validation cell.
    """
    if data.labels is None:
        msg = "There are no labels."
        raise ValueError(msg)
    device = model.device
    names, codes, _, _ = check_labels(data.labels, data.train, data.held)
    base = without_labels(model)
    is_held = np.zeros(len(codes), bool)
    is_held[data.held] = True
    labelled = np.flatnonzero(codes >= 0)
    statistics = label_statistics(data.pattern, labelled, codes, is_held, len(names), data.peaks, device)
    usable = statistics.usable
    train, held = (rows[usable[rows]] for rows in (data.train, data.held))
    check_split(train, held, len(codes))
    numbers = {"cells": len(train), "validation_cells": len(held), "unlabelled_cells": int((codes < 0).sum())}
    most = sample_size(data, training, rng)
    train, held = draw(train, most, rng, codes), draw(held, max(most // 2, 1), rng)
    rows = np.concatenate([train, held])
    pattern, of_rows, is_train = data.pattern[rows], codes[rows], np.arange(len(rows)) < len(train)
    check_labels(data.labels.iloc[rows].reset_index(drop=True), np.flatnonzero(is_train), np.flatnonzero(~is_train))
    features, embedding = features_of(base, pattern)
    seed = int(rng.integers(2**31))
    wanted = np.eye(len(names), dtype=np.float32)[of_rows]
    stages, chosen = {}, None
    for counted, learned in (("train", is_train), ("all", np.ones(len(rows), bool))):
        sums = statistics.sums(PARTS[counted])
        vectors = peak_vectors(sums, statistics.totals[PARTS[counted]].sum(axis=0), training.pseudocount)
        (beside,) = columns_of([vectors], pattern, [np.where(learned[:, None], wanted, np.nan)], device)
        inputs = np.concatenate([features, beside], axis=1)
        if chosen is None:
            chosen = chosen_on(inputs, wanted, learned, ~learned, training.landmarks, np.random.default_rng(seed))
        readout, expected = fit_readout(
            inputs, wanted, learned, chosen, training.landmarks, np.random.default_rng(seed), device
        )
        stages[counted] = vectors, readout, np.concatenate([embedding, expected], axis=1)
    vectors, readout, final = stages["all"]
    first = stages["train"][2]
    head, _ = fit_label_head(
        (first[is_train], of_rows[is_train]), (first[~is_train], of_rows[~is_train]), (final, of_rows)
    )
    cells = {name: there for name, there in base.cells.items() if name != "labels"}
    cells["labels"] = counted_labels(statistics.hashes, codes, usable)
    return _assembled(base, names, vectors, readout, head, cells), numbers


def without_labels(model: EpiFoundation) -> EpiFoundation:
    """The model without labels."""
    if not model.labels:
        return model
    sizes = replace(
        model.network.sizes, n_labels=0, n_label_layers=0, n_calibration=0, n_reference=0, n_label_landmarks=0
    )
    cells = {name: there for name, there in model.cells.items() if name != "labels"}
    network = model.network.with_sizes(sizes, {})
    return replace(model, network=network, labels=[], cells=cells, adapter=None).to(model.device)


def _assembled(
    base: EpiFoundation,
    names: list[str],
    vectors: PeakVectors,
    readout: KernelReadout,
    head: LabelHead,
    cells: dict[str, CountedCells],
) -> EpiFoundation:
    sizes = replace(
        base.network.sizes,
        n_labels=len(names),
        n_calibration=len(head.conformal),
        n_reference=len(head.reference),
        n_label_landmarks=len(readout.landmarks),
    )
    parts = {"label_columns.vectors": vectors, "label_columns.readout": readout, "label": head}
    tensors = {
        f"{part}.{name}": tensor.cpu() for part, module in parts.items() for name, tensor in module.state_dict().items()
    }
    network = base.network.with_sizes(sizes, tensors)
    return replace(base, network=network, labels=names, cells=cells, adapter=None).to(base.device)


@torch.inference_mode()
def features_of(model: EpiFoundation, pattern: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the encoder, and the embedding, of cells; those that the model was measured on are left out."""
    network, parts = model.network, []
    folded = network.folded()
    for start in range(0, pattern.shape[0], folded.chunk):
        some = pattern[start : start + folded.chunk]
        ids, offsets, _ = packed(some, model.device)
        if network.config.is_measured:
            known = model.known(some.indices, some.indptr)
            features = network.encoder(ids, offsets, known.get(ENCODER))
            embedding = network.embed(features, None)
        else:
            features = embedding = folded.encode(ids, offsets)
        parts.append([features.cpu().numpy(), embedding.cpu().numpy()])
    return tuple(np.concatenate(part).astype(np.float32) for part in zip(*parts, strict=True))  # type: ignore[return-value]
