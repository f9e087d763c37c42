"""``ep.tl.annotate``: cell types with a calibrated confidence, a set that holds the truth, and "unknown"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from .._keys import SEPARATOR, Keys
from .._validate import RNG, Data, get_atac, obs_column
from .._version import __version__
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..nn import FoldedSums, FoldedTransformer, LabelHead, TrainingConfig, conformal_scores
from ..pp._map_peaks import MIN_COVERAGE
from ..pp._mapping import PeakMap, map_onto
from ..training.data import held_out, prepare
from ..training.labels import with_labels
from ._cells import Block, Matching, Tally
from ._embed import Embedded, Embedder, write_labels
from ._encode import encode_cells
from ._stream import Cells, apply, by_blocks

CHUNK = 4096


def annotate(
    data: Cells,
    model: EpiFoundation | str | Path | None = None,
    *,
    reference: Data | None = None,
    label_key: str | None = None,
    batch_key: str | None = None,
    calibration: float | Sequence[str] | None = None,
    alpha: float = 0.1,
    unknown: float = 0.05,
    modality: str = "atac",
    key_added: str | None = None,
    min_overlap: float = 0.0,
    genome: str | None = None,
    liftover: str | Path | None = None,
    min_coverage: float = MIN_COVERAGE,
    device: str | torch.device = "auto",
    rng: RNG = 0,
    output: str | Path | None = None,
    overwrite: bool = False,
    copy: bool = False,
) -> Data | Path | None:
    """Annotate cells, with calibrated confidence.

    Without `reference`, by the label head of the model. With one, columns for its labels are measured on the reference, as
    clusters are in :func:`epifoundation.tl.pretrain`, and a label head is fitted on these and the columns of the encoder: so
    any labelled reference is read at full strength, whatever the model. Beside the most probable label there is its
    calibrated probability, a set of labels that holds the true one with probability 1 - `alpha` (conformal prediction), and
    a score that recognizes cells unlike any in the reference; those with a high score are labelled ``"unknown"``.

    This holds for cells like those that it was calibrated on. Calibrate on whole batches or donors (`calibration`) if the
    cells to annotate are of other ones. Cells of the reference that come again among the data are recognized, and left out of
    the vectors of their own peaks.

    Parameters
    ----------
    data
        A MuData with the modality `modality`, or an AnnData of cells x peaks: the cells to annotate; or paths of such, which are read
        by blocks.
    model
        A model, its name or directory; None is the bundled one.
    reference
        Cells with labels, as MuData or AnnData with any peaks. Not changed.
    label_key
        Column of the reference's ``obs`` with the labels. Cells with a missing one are left out.
    batch_key
        Column of the reference's ``obs`` with batches; for `calibration` by name.
    calibration
        Cells of the reference that are kept to calibrate on: names of whole batches (needs `batch_key`), or a fraction drawn
        at random. None: the batches that the model held out in its training, if the reference has them in `batch_key`, else
        0.2. Labels are measured once more on all cells of the reference afterwards.
    alpha
        Share of cells whose set may miss the true label.
    unknown
        Share of the calibration cells that would be called ``"unknown"``; 0 for none.
    modality
        Name in the MuData, of data and reference.
    key_added
        Replaces ``epifoundation`` in all names that are written.
    min_overlap, genome, liftover, min_coverage
        How the data's peaks are matched to the model's: see :func:`epifoundation.pp.map_peaks`. The reference's are matched without
        `liftover`.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    rng
        Seed or generator, for a fraction as `calibration`.
    output, overwrite
        File of results for cells that are read by blocks, as in :func:`epifoundation.tl.embed`.
    copy
        Return a copy with the results and leave `data` as it is; for cells in memory.

    Returns
    -------
    None, or the copy; for cells that are read by blocks, the path of the results. Written into the ATAC modality:

    - ``obs["epifoundation_cell_type"]``: the most probable label, or ``"unknown"``;
    - ``obs["epifoundation_confidence"]``: the calibrated probability of the most probable label;
    - ``obs["epifoundation_set"]``: the labels that cannot be excluded, likeliest first, with " | " between them;
    - ``obs["epifoundation_novelty"]``: how unlike the reference a cell is, by the energy of the logits and the distance to the nearest reference
      cells, in standard deviations of the calibration cells;
    - ``obsm["epifoundation_probabilities"]``: DataFrame, one column a label;
    - what :func:`epifoundation.tl.embed` writes but for expression, unless the data hold an embedding of this model already;
    - ``uns["epifoundation_annotation"]``: model, options, thresholds, numbers of cells.

    Cells without a known open peak get NaN, an empty set and no label.

    Raises
    ------
    ValueError
        The model has no calibrated label head and there is no reference; fewer than two labels; `alpha` or `unknown` no such
        fraction; the data hold an embedding of another model under the same key; what :func:`epifoundation.tl.embed` raises.

    Notes
    -----
    Temperature: Guo et al. 2017. Sets: adaptive scores of Romano et al. 2020 without randomisation, threshold from the
    calibration cells. Novelty: the energy of the logits (Liu et al. 2020), but at most the distance and two, or the distance less one where that is
    more.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()
    >>> known, query = mdata[mdata.obs["split"] == "train"].copy(), mdata[mdata.obs["split"] == "test"].copy()
    >>> ep.tl.annotate(query, reference=known, label_key="cell_type")
    >>> sorted(query["atac"].obs.columns[-4:])
    ['epifoundation_cell_type', 'epifoundation_confidence', 'epifoundation_novelty', 'epifoundation_set']
    """
    keys = Keys.of(key_added)
    for name, value, least in (("alpha", alpha, "above 0"), ("unknown", unknown, "at least 0")):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 <= value < 1
            or (value == 0 and name == "alpha")
        ):
            msg = f"`{name}` must be {least} and below 1, got {value!r}."
            raise ValueError(msg)
    model = resolve_model(model, device)
    is_embedded = not by_blocks(data, output) and holds_embedding(get_atac(data, modality), model, keys, "data")
    told: dict[str, Any] = {"model": model.name, "revision": model.revision, "package_version": __version__}
    if reference is None:
        if label_key is not None or batch_key is not None or calibration is not None:
            msg = "`label_key`, `batch_key` and `calibration` are of the reference: pass `reference=`."
            raise ValueError(msg)
        head = model.network.label
        if head is None or not head.is_calibrated:
            lacks = "has no label head" if head is None else "has a label head that was never calibrated"
            msg = f"The model {model.name!r} {lacks}: pass `reference=` with labelled cells, or pretrain with `label_key=`."
            raise ValueError(msg)
        fitted = model
    else:
        fitted, numbers = _fit(reference, model, label_key, batch_key, calibration, modality, rng)
        told |= numbers
    embedder = Embedder(model, keys, expression=False, annotation=False, modality=modality)
    tool = Annotator(embedder, fitted, float(alpha), float(unknown), told, is_embedded=is_embedded)
    return apply(
        tool,
        data,
        modality=modality,
        rna_modality="rna",
        matching=Matching(min_overlap, genome, liftover, min_coverage),
        output=output,
        overwrite=overwrite,
        copy=copy,
    )


class Labelled(NamedTuple):
    """What a head reads off embeddings; cells x labels, and of each cell."""

    probabilities: np.ndarray
    members: np.ndarray
    novelty: np.ndarray
    is_unknown: np.ndarray

    @property
    def n_unknown(self) -> int:
        """Cells that are like none of the reference."""
        return int(self.is_unknown.sum())


@dataclass
class Annotated:
    """What is computed for some cells."""

    embedded: Embedded
    labelled: Labelled
    tally: Tally


@dataclass(frozen=True)
class Annotator:
    """:func:`annotate` with its options checked and its head fitted; see :class:`._cells.Tool`."""

    embedder: Embedder
    fitted: EpiFoundation  # the model itself, or one with the labels of a reference
    alpha: float
    unknown: float
    told: dict[str, Any]
    is_embedded: bool = False  # the data hold the embedding of the model already, which stays

    predicts: ClassVar[bool] = False
    batch_key: ClassVar[str | None] = None
    genes: ClassVar[Sequence[str]] = ()

    @property
    def model(self) -> EpiFoundation:
        """Of the embedder."""
        return self.embedder.model

    @property
    def folded(self) -> FoldedSums | FoldedTransformer:
        """Of the embedder."""
        return self.embedder.folded

    @cached_property
    def folded_fitted(self) -> FoldedSums | FoldedTransformer:
        """The encoder that labels are read off."""
        return self.folded if self.fitted is self.model else self.fitted.network.folded()

    @property
    def head(self) -> LabelHead:
        """That labels."""
        return cast("LabelHead", self.fitted.network.label)

    @property
    def labels(self) -> list[str]:
        """That can be given."""
        return self.fitted.labels

    @property
    def keys(self) -> Keys:
        """Of the embedder."""
        return self.embedder.keys

    @property
    def options(self) -> dict[str, Any]:
        """What the results depend on."""
        return {
            "tool": "annotate",
            "labels": list(self.labels),
            "fitted": self.fitted.revision,
            "alpha": self.alpha,
            "unknown": self.unknown,
        }

    def compute(self, block: Block, mapping: PeakMap) -> Annotated:
        """Embedding, and labels."""
        embedded = self.embedder.compute(block, mapping)
        embedding = embedded.embedding
        if self.fitted is not self.model:
            parts = encode_cells(
                self.fitted, block.matrix, mapping.projection, block.names, show=block.show, folded=self.folded_fitted
            )
            embedding = np.concatenate([part.cpu().numpy() for _, _, part in parts] or [embedding[:0]])
        labelled = self.annotate(embedding)
        embedded.tally.unknown = labelled.n_unknown
        return Annotated(embedded, labelled, embedded.tally)

    @torch.inference_mode()
    def annotate(self, embedding: np.ndarray) -> Labelled:
        """Labels of embedded cells."""
        head, unknown = self.head, self.unknown
        if not len(embedding):  # no cells: the shapes are the same
            embedding = np.zeros((0, self.fitted.network.dim), np.float32)
        device = head.temperature.device
        parts = []
        for start in range(0, max(len(embedding), 1), CHUNK):  # once without cells too: the shapes are the same
            cells = torch.from_numpy(np.asarray(embedding[start : start + CHUNK], dtype=np.float32)).to(device)
            likely = head(cells)
            inside = conformal_scores(likely) <= threshold(head.conformal, self.alpha)
            parts.append([part.cpu().numpy() for part in (likely, inside, head.score_novelty(cells))])
        probabilities, members, novelty = (np.concatenate(part) for part in zip(*parts, strict=True))
        known = ~np.isnan(probabilities[:, 0])
        members[np.arange(len(members)), probabilities.argmax(axis=1)] = True  # never without the label that is given
        is_unknown = (
            known & (novelty > threshold(head.novelty, unknown)) if unknown else np.zeros(len(known), dtype=bool)
        )
        return Labelled(probabilities, members & known[:, None], novelty, is_unknown)

    def write(self, found: Annotated, atac: AnnData, rna: AnnData | None) -> None:
        """Put the results in their places."""
        if not self.is_embedded:
            self.embedder.write(found.embedded, atac, rna)
        keys, labelled = self.keys, found.labelled
        write_labels(atac, keys, self.labels, labelled.probabilities, labelled.is_unknown)
        atac.obs[keys.novelty] = labelled.novelty
        atac.obs[keys.prediction_set] = _as_text(labelled.members, labelled.probabilities, self.labels)

    def stale(self, uns: Mapping[str, Any]) -> list[str]:
        """What an earlier model left."""
        return [] if self.is_embedded else self.embedder.stale(uns)

    def uns(self, peaks: dict[str, Any], tally: Tally) -> dict[str, Any]:
        """What is told of the run."""
        embedded = {} if self.is_embedded else self.embedder.uns(peaks, tally)
        return embedded | {self.keys.annotation: self.summary(tally.unknown)}

    def summary(self, n_unknown: int) -> dict[str, Any]:
        """How the labels came about."""
        head = self.head
        return self.told | {
            "labels": list(self.labels),
            "alpha": self.alpha,
            "unknown": self.unknown,
            "temperature": float(head.temperature),
            "set_threshold": threshold(head.conformal, self.alpha),
            "novelty_threshold": threshold(head.novelty, self.unknown) if self.unknown else math.inf,
            "n_unknown": n_unknown,
        }


def holds_embedding(atac: AnnData, model: EpiFoundation, keys: Keys, what: str) -> bool:
    """Whether there is an embedding of this model; one of another model is an error."""
    if keys.embedding not in atac.obsm:
        return False
    report = atac.uns.get(keys.uns)
    told = dict(report) if isinstance(report, Mapping) else {}
    if told.get("revision") == model.revision:
        return True
    msg = (
        f"The {what} hold an embedding (`obsm[{keys.embedding!r}]`) of the model {told.get('model', 'that is not told')!r} "
        f"({told.get('revision', '-')}), not of {model.name!r} ({model.revision}): cells of two models cannot be compared. Embed them "
        "again with `ep.tl.embed(..., model)`, or pass `key_added=` to keep both."
    )
    raise ValueError(msg)


def threshold(scores: torch.Tensor, share: float) -> float:
    """What at most a `share` of cells like the calibration cells exceed; `scores` of these are ascending."""
    rank = math.ceil((len(scores) + 1) * (1 - share))
    return float(scores[rank - 1]) if rank <= len(scores) else math.inf


def _as_text(members: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]) -> list[str]:
    order = np.argsort(-probabilities, axis=1, kind="stable")
    return [SEPARATOR.join(labels[j] for j in row if inside[j]) for row, inside in zip(order, members, strict=True)]


def _fit(
    reference: Data,
    model: EpiFoundation,
    label_key: str | None,
    batch_key: str | None,
    calibration: float | Sequence[str] | None,
    modality: str,
    rng: RNG,
) -> tuple[EpiFoundation, dict[str, Any]]:
    """The model with columns and a head for the labels of a reference, and numbers of cells."""
    atac = get_atac(reference, modality)
    if label_key is None:
        msg = f"`reference` needs `label_key`: in which column of `obs` its labels are; there are {list(atac.obs.columns)}."
        raise ValueError(msg)
    if calibration is None:
        held = model.training.get("validation")
        batch = None if batch_key is None else obs_column(reference, atac, batch_key, "batch_key").astype(str)
        there = isinstance(held, list) and batch is not None and set(held) <= set(batch)
        calibration = held if there else 0.2
    kept = held_out(calibration)
    rng = np.random.default_rng(rng)

    def mapped(var: pd.DataFrame) -> PeakMap:
        mapping = map_onto(model.peaks, var)
        mapping.check(MIN_COVERAGE)
        return mapping

    data = prepare(
        reference,
        "peaks",
        modality=modality,
        label_key=label_key,
        batch_key=batch_key,
        validation=kept,
        option="calibration",
        init=model,
        map_peaks=mapped,
        rng=rng,
    )
    fitted, numbers = with_labels(model, data, TrainingConfig(), rng)
    return fitted, {
        "reference_cells": numbers["cells"],
        "calibration_cells": numbers["validation_cells"],
        "unlabelled_cells": numbers["unlabelled_cells"],
        "calibration": kept,
    }
