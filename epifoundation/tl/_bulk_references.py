"""Bulk profiles as ``reference=`` of ``ep.tl.annotate``: BED files, or a table of types x peaks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData
from mudata import MuData

from .._warn import naming
from ..cells.formats import find_format, opened
from ..cells.source import Inputs, as_sources
from ..inference.bulk_labeller import BulkLabeller
from ..inference.labellers import Labeller
from ..models import EpiFoundation
from ..peaks.bed import BARCODE
from ..pp._map_peaks import map_source
from ..training.bulk_labels import fit_bulk_head
from ..training.bulk_profiles import BulkProfiles
from ..training.labels import without_labels

if TYPE_CHECKING:
    from ._references import ReferenceOptions

MAX_TYPES = 256  # of a table; with more rows, it is taken for cells whose column is missing
BED = re.compile(r".*\.(bed|narrowPeak|broadPeak)(\.gz)?", re.IGNORECASE)
MAPPING = "pass a mapping from names of types to BED files, such as {'monocyte': 'mono.narrowPeak'}"

CURE_OF_TABLE = "That is for the data; for this reference, record the chain file in it: "
CURE_OF_TABLE += "`ep.pp.map_peaks(reference, model, liftover=...)`."
CURE_OF_FILES = "If the data are of another build than the file, lift it over before: "
CURE_OF_FILES += "`ep.genome.lift_over`."


def is_bed_files(reference: Any, model: EpiFoundation, options: ReferenceOptions) -> bool:
    """Whether paths, also in a mapping, are of BED files."""
    return any(not _is_of_cells(each) for each in _files_by_type(reference).values())


def fit_bed_files(
    reference: Any, model: EpiFoundation, options: ReferenceOptions
) -> tuple[Labeller, dict[str, Any]]:
    """A head for types that have BED files."""
    named = _files_by_type(reference)
    if not isinstance(reference, Mapping):
        msg = f"`reference` has BED files without names of types: {MAPPING}."
        raise ValueError(msg)
    if len(named) < len(reference):
        msg = f"Two names of types are the same as text, among {list(reference)}: rename them."
        raise ValueError(msg)
    if options.label_key is not None:
        msg = f"`label_key={options.label_key!r}` is for a reference of cells, and "
        msg += f"{_first_bed(named)!r} is not a file of cells: leave `label_key` out if it is a "
        msg += "BED file, whose type is its name in the mapping."
        raise ValueError(msg)
    cells = [name for name, files in named.items() if _is_of_cells(files)]
    if cells:
        msg = f"`reference` has BED files, and files of cells such as that of {cells[0]!r}: pass "
        msg += "one kind."
        raise ValueError(msg)
    _check_options(options)
    with _advising(CURE_OF_FILES):
        profiles = BulkProfiles.of_files(named, model, options.mapping)
    return _fitted(profiles, model, options.rng)


def is_table_of_types(reference: Any, model: EpiFoundation, options: ReferenceOptions) -> bool:
    """Whether the reference has few rows, which are no cells, and no column of labels is named."""
    sources = as_sources(reference)
    if options.label_key is not None or len(sources) > 1:
        return False
    name, place = next(iter(sources.items()))
    with opened(place, options.modality, name) as source:
        if source.n_obs > MAX_TYPES:
            return False
        return not all(BARCODE.fullmatch(each) for each in source.names(0, source.n_obs))


def fit_table_of_types(
    reference: Inputs, model: EpiFoundation, options: ReferenceOptions
) -> tuple[Labeller, dict[str, Any]]:
    """A head for types that are the rows of a table."""
    _check_options(options)
    name, place = next(iter(as_sources(reference).items()))
    with opened(place, options.modality, name) as source:
        with naming("the reference"), _advising(CURE_OF_TABLE):
            mapping = map_source(source, model, None, options.keys)
        profiles = BulkProfiles.of_table(source, mapping)
    return _fitted(profiles, model, options.rng)


@contextmanager
def _advising(cure: str) -> Iterator[None]:
    """Add a cure to an error about another build."""
    try:
        yield
    except ValueError as error:
        if "liftover=" not in str(error):
            raise
        msg = f"{error} {cure}"
        raise ValueError(msg) from error


def _check_options(options: ReferenceOptions) -> None:
    if options.batch_key is not None or options.calibration is not None:
        msg = "`batch_key` and `calibration` are for a reference of cells; bulk profiles are "
        msg += "calibrated on simulated cells: leave them out."
        raise ValueError(msg)


def _fitted(
    profiles: BulkProfiles, model: EpiFoundation, rng: np.random.Generator
) -> tuple[Labeller, dict[str, Any]]:
    head = fit_bulk_head(profiles, rng)
    report = {
        "reference": "bulk profiles",
        "reference_peaks": len(profiles.peaks),
        "calibration_cells": len(head.novelty),
        "calibrated_on": "cells simulated from the profiles",
    }
    return BulkLabeller(without_labels(model), head, profiles.names), report


def _files_by_type(reference: Any) -> dict[str, list[str | Path]]:
    """Paths by name, one or several each; none if the reference has anything else."""
    if isinstance(reference, AnnData | MuData):
        return {}
    if isinstance(reference, Mapping):
        named = [(str(name), each) for name, each in reference.items()]
    else:
        several = reference if isinstance(reference, Sequence) else [reference]
        several = [reference] if isinstance(reference, str) else several
        named = [(str(each), each) for each in several if BED.fullmatch(str(each))]
    found: dict[str, list[str | Path]] = {}
    for name, each in named:
        files = [each] if isinstance(each, str | Path) else each
        is_paths = isinstance(files, Sequence) and all(isinstance(x, str | Path) for x in files)
        if not is_paths or not files:
            return {}
        if files is each and not any(map(_is_path, files)):
            return {}  # names of marker genes
        found.setdefault(name, []).extend(files)
    return found


def _is_path(name: str | Path) -> bool:
    return isinstance(name, Path) or bool(BED.fullmatch(name)) or Path(name).exists()


def _is_of_cells(files: Sequence[str | Path]) -> bool:
    return any(find_format(path) is not None for path in files)


def _first_bed(named: Mapping[str, Sequence[str | Path]]) -> str:
    return str(next(files[0] for files in named.values() if not _is_of_cells(files)))
