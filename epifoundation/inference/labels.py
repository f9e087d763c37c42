"""Labels of cells: probabilities, and annotation with prediction sets and novelty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from .._columns import table_of
from .._keys import SEPARATOR, UNKNOWN_LABEL, Keys
from ..cells.tokens import Tokens
from ..models import EpiFoundation
from ..nn import LABELS, LabelHead, conformal_scores
from .embedding import LearnedCells
from .labellers import Labeller
from .reader import BlockReadout, LoadedBlock, Readout
from .tally import Tally

LABEL_CELLS = 4096
MIN_PROBABLE = 0.5  # probability of the level that is written as resolved


@dataclass(frozen=True)
class LabelReadout(Readout):
    """Probabilities of the labels of a model."""

    model: EpiFoundation
    keys: Keys

    def begin(self, block: LoadedBlock, batches: np.ndarray | None) -> LabelledCells:
        """Start a block of cells."""
        return LabelledCells(self, len(block.names))


class LabelledCells(BlockReadout):
    """Probabilities of the labels of the cells of a block."""

    def __init__(self, readout: LabelReadout, n_cells: int) -> None:
        self.model, self.keys = readout.model, readout.keys
        self.head = cast("LabelHead", readout.model.network.label)
        self.probabilities = np.empty((n_cells, len(self.model.labels)), np.float32)
        self.learned = LearnedCells(self.model, LABELS, n_cells)

    @torch.inference_mode()
    def add(self, rows: slice, tokens: Tokens, embedding: torch.Tensor) -> None:
        """Process some cells."""
        self.probabilities[rows] = self.head(embedding).cpu().numpy()
        self.learned.add(rows, tokens)

    def write(self, atac: AnnData, rna: AnnData | None) -> None:
        """Write the results."""
        write_labels(atac, self.keys, self.model, self.model.labels, self.probabilities)
        self.learned.write(atac, self.keys.in_reference)


@dataclass(frozen=True)
class AnnotationReadout(Readout):
    """Calibrated labels, prediction sets and novelty.

    Parameters
    ----------
    labeller
        What labels the cells.
    keys
        Names of the results.
    alpha, unknown
        Options of :func:`epifoundation.tl.annotate`.
    report
        Model and reference, for ``uns``.
    """

    labeller: Labeller
    keys: Keys
    alpha: float
    unknown: float
    report: Mapping[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        """Labels and thresholds."""
        return {
            "labels": list(self.labeller.labels),
            "fitted": self.labeller.revision,
            "alpha": self.alpha,
            "unknown": self.unknown,
        }

    def begin(self, block: LoadedBlock, batches: np.ndarray | None) -> AnnotatedCells:
        """Start a block of cells."""
        return AnnotatedCells(self, len(block.names))

    def stale(self, uns: Mapping[str, Any]) -> list[str]:
        """Colours of earlier labels, by position, and whether they were learned from a cell."""
        return [f"uns/{self.keys.cell_type}_colors", f"obs/{self.keys.in_reference}"]

    def uns(self, peaks: dict[str, Any], tally: Tally) -> dict[str, Any]:
        """Model, reference, thresholds, and the number of unknown cells."""
        report = {
            **self.report,
            "labels": list(self.labeller.labels),
            "alpha": self.alpha,
            "unknown": self.unknown,
            **self.labeller.report,
            "set_threshold": self.labeller.set_threshold(self.alpha),
            "novelty_threshold": self.labeller.novelty_threshold(self.unknown),
            "n_unknown": tally.labelled_unknown,
        }
        return {self.keys.annotation: report}


class AnnotatedCells(BlockReadout):
    """Labels of the cells of a block."""

    def __init__(self, readout: AnnotationReadout, n_cells: int) -> None:
        self.readout, labeller = readout, readout.labeller
        self.embedding = np.zeros((n_cells, labeller.dim), np.float32)
        self.learned = LearnedCells(labeller.model, LABELS, n_cells)

    @torch.inference_mode()
    def add(self, rows: slice, tokens: Tokens, embedding: torch.Tensor) -> None:
        """Process some cells."""
        self.embedding[rows] = self.readout.labeller.embed(tokens, embedding).cpu().numpy()
        self.learned.add(rows, tokens)

    @torch.inference_mode()
    def finish(self, tally: Tally) -> None:
        """Compute labels from the embedding."""
        labeller, alpha, unknown = self.readout.labeller, self.readout.alpha, self.readout.unknown
        device, parts = labeller.model.device, []
        # Once if there are no cells, so that shapes are the same
        for start in range(0, max(len(self.embedding), 1), LABEL_CELLS):
            cells = torch.from_numpy(self.embedding[start : start + LABEL_CELLS]).to(device)
            likely = labeller.probabilities(cells)
            inside = conformal_scores(likely) <= labeller.set_threshold(alpha)
            parts.append([part.cpu().numpy() for part in (likely, inside, labeller.novelty(cells))])
        self.probabilities, members, self.novelty = (
            np.concatenate(part) for part in zip(*parts, strict=True)
        )
        known = ~np.isnan(self.probabilities[:, 0])
        # The most probable label is always in the set
        members[np.arange(len(members)), self.probabilities.argmax(axis=1)] = True
        self.members = members & known[:, None]
        self.is_unknown = known & (self.novelty > labeller.novelty_threshold(unknown))
        if UNKNOWN_LABEL in labeller.labels:
            place = list(labeller.labels).index(UNKNOWN_LABEL)
            self.is_unknown |= known & (self.probabilities.argmax(axis=1) == place)
        tally.labelled_unknown = int(self.is_unknown.sum())

    def write(self, atac: AnnData, rna: AnnData | None) -> None:
        """Write the results."""
        keys, labels = self.readout.keys, list(self.readout.labeller.labels)
        self.learned.write(atac, keys.in_reference)
        model = self.readout.labeller.model
        write_labels(atac, keys, model, labels, self.probabilities, self.is_unknown)
        atac.obs[keys.novelty] = self.novelty
        atac.obs[keys.prediction_set] = _as_text(self.members, self.probabilities, labels)


def write_labels(
    atac: AnnData,
    keys: Keys,
    model: EpiFoundation,
    labels: list[str],
    probabilities: np.ndarray,
    is_unknown: np.ndarray | None = None,
) -> None:
    """Write the most probable label and its probability; missing if probabilities are NaN.

    With lineages and identifiers, if these are the labels of the model and it knows them.
    """
    known = ~np.isnan(probabilities[:, 0])
    codes = np.where(known, np.argmax(probabilities, axis=1), -1)
    names = list(labels)
    if is_unknown is not None:
        names = list(
            dict.fromkeys([*labels, UNKNOWN_LABEL])
        )  # a reference may have that label itself
        codes = np.where(is_unknown, names.index(UNKNOWN_LABEL), codes)
    atac.obs[keys.cell_type] = _categorical(codes, names, atac)
    atac.obs[keys.confidence] = probabilities.max(axis=1)
    atac.obsm[keys.probabilities] = table_of(probabilities, atac.obs_names, labels)
    if list(model.labels) == list(labels):
        if model.lineages:
            lacking = np.zeros(len(known), bool) if is_unknown is None else is_unknown
            _write_lineages(atac, keys, model, probabilities, lacking)
        if model.ontology:
            ids = sorted(set(model.ontology.values()))
            place = [ids.index(model.ontology[x]) if x in model.ontology else -1 for x in labels]
            of_name = np.array([*place, *[-1] * (len(names) - len(labels)), -1])
            atac.obs[keys.ontology] = _categorical(of_name[codes], ids, atac)


def _write_lineages(
    atac: AnnData,
    keys: Keys,
    model: EpiFoundation,
    probabilities: np.ndarray,
    is_unknown: np.ndarray,
) -> None:
    """Write the lineage, its probability, and the finest level that is probable."""
    names = list(dict.fromkeys(model.lineages[label] for label in model.labels))
    of_label = np.array([names.index(model.lineages[label]) for label in model.labels])
    by_lineage = probabilities @ np.eye(len(names), dtype=np.float32)[of_label]
    known = ~np.isnan(by_lineage[:, 0])
    lineage = np.where(known, by_lineage.argmax(axis=1), -1)
    with_unknown = list(dict.fromkeys([*names, UNKNOWN_LABEL]))
    unknown = with_unknown.index(UNKNOWN_LABEL)
    atac.obs[keys.lineage] = _categorical(
        np.where(is_unknown, unknown, lineage), with_unknown, atac
    )
    atac.obs[keys.lineage_confidence] = by_lineage.max(axis=1)
    levels = list(dict.fromkeys([*model.labels, *with_unknown]))
    place = np.array([levels.index(name) for name in with_unknown])
    is_likely = np.nan_to_num(by_lineage.max(axis=1)) >= MIN_PROBABLE
    resolved = np.where(is_likely & ~is_unknown, place[lineage], place[unknown])
    is_finer = np.nan_to_num(probabilities.max(axis=1)) >= MIN_PROBABLE
    resolved = np.where(is_finer & ~is_unknown, probabilities.argmax(axis=1), resolved)
    atac.obs[keys.resolved] = _categorical(np.where(known, resolved, -1), levels, atac)


def _categorical(codes: np.ndarray, names: list[str], atac: AnnData) -> pd.Series:
    return pd.Series(pd.Categorical.from_codes(codes, categories=names), index=atac.obs_names)


def _as_text(members: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]) -> list[str]:
    order = np.argsort(-probabilities, axis=1, kind="stable")
    return [
        SEPARATOR.join(labels[j] for j in row if inside[j])
        for row, inside in zip(order, members, strict=True)
    ]
