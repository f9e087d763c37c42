"""Kinds of ``reference=`` in ``ep.tl.annotate``, and the labeller that is fitted to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .._keys import UNKNOWN_COLOR, UNKNOWN_LABEL, Keys
from .._validate import get_atac
from ..cells.colors import read_colors
from ..cells.formats import opened
from ..cells.source import Inputs, Source, as_sources
from ..inference.labellers import EvidenceLabeller, HeadLabeller, Labeller
from ..inference.runner import is_read_in_blocks
from ..models import EpiFoundation
from ..nn import TrainingConfig
from ..peaks.genes import has_genes
from ..peaks.mapping import PeakMap
from ..peaks.options import PeakMapping
from ..pp._map_peaks import map_source
from ..training.data import DataKeys, prepare
from ..training.labels import with_labels
from ..training.marker_reference import with_marker_labels
from ..training.marker_table import Markers, is_markers
from ..training.rna_reference import with_rna_labels
from ..training.split import parse_validation
from ._bulk_references import fit_bed_files, fit_table_of_types, is_bed_files, is_table_of_types


@dataclass(frozen=True)
class ReferenceOptions:
    """Options of :func:`epifoundation.tl.annotate` for the reference."""

    label_key: str | None
    batch_key: str | None
    calibration: float | Sequence[str] | None
    modality: str
    keys: Keys
    rng: np.random.Generator
    mapping: PeakMapping | None = None


Found = tuple[Labeller, dict[str, Any]]  # a labeller, and a report on the reference


class ReferenceKind(NamedTuple):
    """A kind of reference: whether an object is one, and how a labeller is fitted to it."""

    name: str
    matches: Callable[[Any, EpiFoundation, ReferenceOptions], bool]
    fit: Callable[[Any, EpiFoundation, ReferenceOptions], Found]


def fit_reference(reference: Any, model: EpiFoundation, options: ReferenceOptions) -> Found:
    """A labeller fitted to a reference of any kind, and a report on it."""
    kind = next(kind for kind in KINDS if kind.matches(reference, model, options))
    return kind.fit(reference, model, options)


def _fit_markers(reference: Markers, model: EpiFoundation, options: ReferenceOptions) -> Found:
    for name in ("label_key", "batch_key", "calibration"):
        if getattr(options, name) is not None:
            msg = f"`{name}` is an option for a reference of cells: leave it out, as `reference` "
            msg += "is a table of markers."
            raise ValueError(msg)
    fitted, report = with_marker_labels(model, reference, options.rng)
    return EvidenceLabeller(fitted, model), report


def _is_rna(reference: Inputs, model: EpiFoundation, options: ReferenceOptions) -> bool:
    """Whether the first source has genes, not peaks; all sources must be of one kind."""
    name, place = next(iter(as_sources(reference).items()))
    with opened(place, options.modality, name) as source:
        return has_genes(source.var, model.genes)


def _fit_rna(reference: Inputs, model: EpiFoundation, options: ReferenceOptions) -> Found:
    label_key, kept = _labels_and_calibration(reference, model, options)
    fitted, report = with_rna_labels(
        model,
        as_sources(reference),
        label_key=label_key,
        batch_key=options.batch_key,
        calibration=kept,
        rng=options.rng,
    )
    return HeadLabeller(fitted, model), report | _colors(reference, fitted, options)


def _fit_cells(reference: Inputs, model: EpiFoundation, options: ReferenceOptions) -> Found:
    """Columns and a head for the labels of cells with ATAC."""
    label_key, kept = _labels_and_calibration(reference, model, options)

    def mapped(source: Source) -> PeakMap:
        return map_source(source, model, None, options.keys)

    data = prepare(
        reference,
        "peaks",
        DataKeys(options.modality, label_key=label_key, batch_key=options.batch_key),
        validation=kept,
        option="calibration",
        init=model,
        map_peaks=mapped,
        rng=options.rng,
    )
    fitted, numbers = with_labels(model, data, TrainingConfig(), options.rng)
    report: dict[str, Any] = {
        "reference_cells": numbers["cells"],
        "calibration_cells": numbers["validation_cells"],
        "unlabelled_cells": numbers["unlabelled_cells"],
        "calibration": kept,
    }
    return HeadLabeller(fitted, model), report | _colors(reference, fitted, options)


def _labels_and_calibration(
    reference: Inputs, model: EpiFoundation, options: ReferenceOptions
) -> tuple[str, float | list[str]]:
    """The column of labels, which is needed, and the calibration cells."""
    if options.label_key is None:
        msg = "`reference` needs `label_key`, the column of its `obs` with labels"
        if not is_read_in_blocks(reference, None):
            available = list(get_atac(reference, options.modality).obs.columns)
            msg += f"; available: {available}"
        raise ValueError(msg)
    calibration = options.calibration
    if calibration is None:
        calibration = _batches_held_out(reference, model, options) or 0.2
    return options.label_key, parse_validation(calibration, "calibration")


def _batches_held_out(
    reference: Inputs, model: EpiFoundation, options: ReferenceOptions
) -> list[str]:
    """Batches held out when the model was trained, if the reference has all of them."""
    held = model.training.get("validation")
    if options.batch_key is None or not isinstance(held, list):
        return []
    found: set[str] = set()
    for name, place in as_sources(reference).items():
        with opened(place, options.modality, name) as source:
            column: pd.Series = source.column(options.batch_key, "batch_key")
            found |= set(column.astype(str))
    return held if set(held) <= found else []


def _colors(reference: Inputs, fitted: EpiFoundation, options: ReferenceOptions) -> dict[str, Any]:
    """Colours of the labels in the reference, if it has one for each; unknown cells are grey."""
    colors = read_colors(reference, str(options.label_key), options.modality)
    colors = {UNKNOWN_LABEL: UNKNOWN_COLOR} | dict(colors) if colors else {}
    if not set(fitted.labels) <= set(colors):
        return {}
    return {"colors": [colors[label] for label in fitted.labels]}


# The first that matches
KINDS = [
    ReferenceKind("BED files of types", is_bed_files, fit_bed_files),
    ReferenceKind("markers", lambda reference, *_: is_markers(reference), _fit_markers),
    ReferenceKind("RNA", _is_rna, _fit_rna),
    ReferenceKind("table of types", is_table_of_types, fit_table_of_types),
    ReferenceKind("cells with ATAC", lambda *_: True, _fit_cells),
]
