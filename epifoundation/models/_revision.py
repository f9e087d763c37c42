"""The revision of a model: a digest of everything that its results depend on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

if TYPE_CHECKING:
    from ._model import EpiFoundation

DIGITS = 12
EMPTY = hashlib.sha256(b"").hexdigest()


def revision_of(model: EpiFoundation) -> str:
    """First digits of the sha256 of the content of a model, however its files are written.

    Tensors, training cells, peaks, genes, labels, architecture, sizes, and the batches of the
    training summary; not the name, the card and the rest of the summary.
    """
    digest = hashlib.sha256()

    def add(what: str, data: Any) -> None:
        array = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
        digest.update(f"{what} {array.dtype.newbyteorder('<').str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)

    for name, tensor in sorted(model.network.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        add(f"{name} {tensor.dtype} {tuple(tensor.shape)}", flat.view(torch.uint8).numpy())
    for block, cells in sorted(model.cells.items()):
        for part in ("hashes", "codes", "weights"):
            add(f"{block} {part}", getattr(cells, part))
    codes, chromosomes = pd.factorize(model.peaks.intervals["chrom"])
    add("chrom", codes.astype(np.int64))
    for side in ("start", "end"):
        add(side, model.peaks.intervals[side].to_numpy(np.int64))
    words = {
        "chromosomes": [str(name) for name in chromosomes],
        "genome": model.peaks.genome,
        "genes": [model.genes.names, model.genes.ids],
        "labels": model.labels,
        "model": _changed(model.config),
        "sizes": _changed(model.network.sizes),
        "training": _used(model),
    }
    terms = {"lineages": dict(model.lineages), "ontology": dict(model.ontology)}
    words |= {name: by_label for name, by_label in terms.items() if by_label}
    add("words", json.dumps(words, sort_keys=True).encode())
    return digest.hexdigest()[:DIGITS]


def _changed(options: Any) -> dict[str, Any]:
    """Options that differ from their default, so that a new option changes no revision."""
    values = options.to_dict()
    return {
        each.name: values[each.name]
        for each in fields(options)
        if each.name in values
        and (each.default is MISSING or values[each.name] != each.default)
        and values[each.name] != {}
    }


def _used(model: EpiFoundation) -> dict[str, Any]:
    """Entries of the training summary that are read: names of batches, and those held out."""
    batches, held = (model.training.get(name) for name in ("batches", "validation"))
    used = {"batches": list(batches)} if batches and model.network.sizes.n_batches else {}
    return used | ({"validation": held} if isinstance(held, list) else {})


def former_revision(weights: str, cells: str | None = None) -> str:
    """Revision in earlier versions, from the sha256 of the weights and of the training cells."""
    if cells in (None, EMPTY):
        return weights[:DIGITS]
    return hashlib.sha256(f"{weights}{cells}".encode()).hexdigest()[:DIGITS]
