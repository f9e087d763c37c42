"""``ep.tl.annotate``: cell types with a calibrated confidence, a set that holds the truth, and "unknown"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from .._keys import Keys
from .._validate import RNG, Data, get_atac, obs_column
from .._version import __version__
from ..inference.embedding import Embedding
from ..inference.labels import Annotation
from ..inference.plan import Matching
from ..inference.reader import Reader, Readout
from ..inference.runner import Cells, apply, by_blocks
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..nn import TrainingConfig
from ..peaks.mapping import PeakMap, map_onto
from ..pp._map_peaks import MIN_COVERAGE
from ..training.data import DataKeys, prepare
from ..training.labels import with_labels
from ..training.split import parse_validation


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
    >>> known, query = (
    ...     mdata[mdata.obs["split"] == "train"].copy(),
    ...     mdata[mdata.obs["split"] == "test"].copy(),
    ... )
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
    is_embedded = not by_blocks(data, output) and holds_embedding(
        get_atac(data, modality), model, keys, "data"
    )
    told: dict[str, Any] = {
        "model": model.name,
        "revision": model.revision,
        "package_version": __version__,
    }
    if reference is None:
        if label_key is not None or batch_key is not None or calibration is not None:
            msg = "`label_key`, `batch_key` and `calibration` are of the reference: pass `reference=`."
            raise ValueError(msg)
        head = model.network.label
        if head is None or not head.is_calibrated:
            lacks = (
                "has no label head"
                if head is None
                else "has a label head that was never calibrated"
            )
            msg = f"The model {model.name!r} {lacks}: pass `reference=` with labelled cells, or pretrain with `label_key=`."
            raise ValueError(msg)
        fitted = model
    else:
        fitted, numbers = _fit(reference, model, label_key, batch_key, calibration, modality, rng)
        told |= numbers
    parameters = {
        "modality": modality,
        "expression": False,
        "annotation": False,
        "batch_key": "",
        "dtype": "auto",
    }
    readouts: list[Readout] = [] if is_embedded else [Embedding(model, keys, parameters)]
    readouts.append(Annotation(model, fitted, keys, float(alpha), float(unknown), told))
    return apply(
        Reader(model, keys, readouts),
        data,
        modality=modality,
        rna_modality="rna",
        matching=Matching(min_overlap, genome, liftover, min_coverage),
        output=output,
        overwrite=overwrite,
        copy=copy,
    )


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
        batch = (
            None
            if batch_key is None
            else obs_column(reference, atac, batch_key, "batch_key").astype(str)
        )
        there = isinstance(held, list) and batch is not None and set(held) <= set(batch)
        calibration = held if there else 0.2
    kept = parse_validation(calibration)
    rng = np.random.default_rng(rng)

    def mapped(var: pd.DataFrame) -> PeakMap:
        mapping = map_onto(model.peaks, var)
        mapping.check(MIN_COVERAGE)
        return mapping

    data = prepare(
        reference,
        "peaks",
        DataKeys(modality, label_key=label_key, batch_key=batch_key),
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
