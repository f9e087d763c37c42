"""Checks of the parts of a model, which are the same for one in memory and one that is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..nn import ENCODER, LABELS, ModelConfig, Network, Sizes
from ..peaks.counted import WEIGHT, CountedCells

# Ends of the names of tensors that must not be negative, or must be positive
NOT_NEGATIVE = ("running_var", "vectors.count")
POSITIVE = (
    "temperature",
    "sharpness",
    "saturation",
    "prior",
    "vectors.scale",
    "pseudocount",
    "readout.width",
    "readout.scale",
    "measured.width",
)


def check_labels(labels: Any) -> list[str]:
    """The labels as a list; ValueError unless they are unique strings that are not empty."""
    if not isinstance(labels, list | tuple | np.ndarray | pd.Index):
        msg = f"`labels` must be a list of strings, got {type(labels).__name__}."
        raise ValueError(msg)
    check_names(labels, "labels")
    return [str(label) for label in labels]


def check_names(names: Any, what: str) -> None:
    """Raise ValueError unless names are unique strings that are not empty and can be written."""
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or not _is_text(name):
            msg = f"`{what}` must be strings that are not empty, got {name!r} at position {i}."
            raise ValueError(msg)
        if name in seen:
            msg = f"`{what}` must be unique: {name!r} is at the positions {seen[name]} and {i}."
            raise ValueError(msg)
        seen[name] = i


def check_terms(labels: list[str], lineages: Any, ontology: Any) -> None:
    """Raise ValueError unless lineages and identifiers are text by label, lineages of all."""
    for name, given in (("lineages", lineages), ("ontology", ontology)):
        is_text = isinstance(given, Mapping) and all(
            isinstance(word, str) and word.strip() and _is_text(word)
            for pair in given.items()
            for word in pair
        )
        if not is_text:
            msg = f"`{name}` must be a dictionary of strings by label, got {given!r:.80}."
            raise ValueError(msg)
        if unknown := sorted(set(given) - set(labels)):
            msg = f"`{name}` has {unknown[:3]}, which are not labels of the model."
            raise ValueError(msg)
    if lineages and (lacking := [label for label in labels if label not in lineages]):
        msg = f"`lineages` lacks {lacking[:3]}: give the lineage of all labels, or of none."
        raise ValueError(msg)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def check_genome(genome: Any) -> None:
    """Raise ValueError unless the name of a genome build is short, and no path."""
    if not isinstance(genome, str) or not re.fullmatch(r"[^/\\\x00-\x1f]{1,100}", genome):
        what = repr(genome)[:100]
        msg = "`genome` must be the name of a genome build, such as 'hg38', or 'unknown', "
        msg += f"without slashes, got {what}."
        raise ValueError(msg)
    if not genome.strip(". ") or not _is_text(genome):
        msg = f"`genome` must be the name of a genome build, such as 'hg38', got {genome!r}."
        raise ValueError(msg)


def check_training(training: Any, sizes: Sizes) -> None:
    """Raise ValueError unless the entries of a training summary that are used have their types."""
    if not isinstance(training, Mapping):
        msg = f"`training` must be a dictionary, got {type(training).__name__}."
        raise ValueError(msg)
    history = training.get("history", [])
    if not isinstance(history, list) or not all(map(_is_epoch, history)):
        msg = "`training['history']` must be a list with a dictionary of numbers for each epoch, "
        msg += f"got {history!r:.80}."
        raise ValueError(msg)
    batches = training.get("batches", [])
    if not isinstance(batches, list | tuple):
        msg = f"`training['batches']` must be a list of names, got {batches!r:.80}."
        raise ValueError(msg)
    check_names(batches, "training['batches']")
    if batches and sizes.n_batches and len(batches) != sizes.n_batches:
        msg = f"`training['batches']` has {len(batches):,} names, but the network has "
        msg += f"{sizes.n_batches:,} batches."
        raise ValueError(msg)


def _is_epoch(epoch: Any) -> bool:
    return isinstance(epoch, Mapping) and all(
        isinstance(value, int | float) for value in epoch.values()
    )


def check_cells(cells: Any, config: ModelConfig, n_labels: int) -> None:
    """Raise ValueError unless the training cells have blocks, columns and memberships that fit."""
    widths = {ENCODER: config.width, LABELS: n_labels}
    if not isinstance(cells, Mapping) or not set(cells) <= set(widths):
        got = sorted(map(str, cells)) if isinstance(cells, Mapping) else type(cells).__name__
        msg = f"`cells` must be a dictionary with the keys {list(widths)} at most, got {got}."
        raise ValueError(msg)
    for block, each in cells.items():
        if problem := _problem_of(each, widths[block]):
            msg = f"`cells[{block!r}]` is damaged: {problem}."
            raise ValueError(msg)


def _problem_of(cells: CountedCells, width: int) -> str:
    hashes, codes, weights = cells.hashes, cells.codes, cells.weights
    if hashes.dtype != np.uint64 or weights.dtype != np.uint8 or codes.dtype.kind != "u":
        return f"its arrays have the types {hashes.dtype}, {codes.dtype} and {weights.dtype}"
    n_cells = hashes.shape[0] if hashes.ndim == 1 else -1
    n_kept = codes.shape[1] if codes.ndim == 2 else -1
    if codes.shape != (n_cells, n_kept) or weights.shape != (n_cells, max(n_kept - 1, 0)):
        return f"its arrays have the shapes {hashes.shape}, {codes.shape} and {weights.shape}"
    if not (hashes[1:] > hashes[:-1]).all():
        return "hashes are not ascending"
    if codes.size and int(codes.max()) >= width:
        return f"it has the column {int(codes.max())} of {width}"
    if weights.size and int(weights.sum(axis=1, dtype=np.int64).max()) > WEIGHT:
        return "memberships of a cell add up to more than 1"
    return ""


def check_tensors(network: Network) -> None:
    """Raise ValueError if weights are not single precision, not finite, or have no meaning."""
    state = network.state_dict()
    problems = [f"{name} {problem}" for name, part in state.items() if (problem := _wrong(part))]
    problems = problems or [
        f"{name} {problem}" for name, part in state.items() if (problem := _meaningless(name, part))
    ]
    rows = {name: len(part) for name, part in state.items() if name.endswith("chromosome.weight")}
    for name, n_rows in rows.items():
        codes = state[name.replace("chromosome.weight", "chromosome_of")]
        if int(codes.min()) < 0 or int(codes.max()) >= n_rows:
            problems.append(f"{name.replace('.weight', '_of')} is outside of 0 to {n_rows - 1}")
    if problems:
        more = f" and {len(problems) - 5:,} more" if len(problems) > 5 else ""
        msg = f"Weights that cannot be used: {'; '.join(problems[:5])}{more}. "
        msg += "If a training diverged, train the model again."
        raise ValueError(msg)


def _wrong(part: Tensor) -> str:
    if not part.is_floating_point():
        is_known = part.dtype in (torch.int64, torch.uint8)
        return "" if is_known else f"has the type {part.dtype}"
    if part.dtype != torch.float32:
        return f"has the type {part.dtype} rather than torch.float32"
    # One sum is enough unless it overflows
    is_finite = bool(part.sum().isfinite()) or bool(part.isfinite().all())
    return "" if is_finite else "has NaN or infinite values"


def _meaningless(name: str, part: Tensor) -> str:
    if name.endswith(POSITIVE) and not bool((part > 0).all()):
        return "has values that are not positive"
    if name.endswith(NOT_NEGATIVE) and not bool((part >= 0).all()):
        return "has negative values"
    return ""
