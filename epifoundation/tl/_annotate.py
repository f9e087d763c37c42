"""``ep.tl.annotate``: cell types with calibrated confidence, prediction sets and novelty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from anndata import AnnData

from .._docs import documented
from .._keys import Keys
from .._option_types import checked
from .._validate import RNG, Data, generator_of, get_atac
from .._version import __version__
from ..cells.source import Inputs
from ..inference.embedding import EmbeddingReadout
from ..inference.labellers import HeadLabeller, Labeller
from ..inference.labels import AnnotationReadout
from ..inference.reader import Reader
from ..inference.refined import refined_labeller
from ..inference.runner import apply, is_read_in_blocks
from ..models import EpiFoundation
from ..models._registry import resolve_model
from ..peaks.options import PeakMapping, takes_mapping
from ..training.marker_table import Markers
from ._references import ReferenceOptions, fit_reference


@documented
@takes_mapping
@checked
def annotate(
    data: Inputs,
    model: EpiFoundation | str | Path | None = None,
    *,
    reference: Inputs | Markers | None = None,
    label_key: str | None = None,
    batch_key: str | None = None,
    calibration: float | Sequence[str] | None = None,
    alpha: float = 0.1,
    unknown: float = 0.05,
    refine: bool = False,
    modality: str = "atac",
    key_added: str | None = None,
    mapping: PeakMapping | None = None,
    device: str | torch.device = "auto",
    rng: RNG = 0,
    output: str | Path | None = None,
    overwrite: bool = False,
    copy: bool = False,
) -> Data | Path | None:
    """Annotate cells with calibrated confidence, prediction sets and novelty scores.

    Without `reference`, the label head of the model is used. With a reference, label columns are
    fitted to it in closed form, as those of clusters in :func:`epifoundation.tl.pretrain`, and a
    label head is fitted to these and the columns of the encoder, so any labelled reference can be
    used with any model. Each cell gets the most probable label with its calibrated probability, a
    set of labels that contains the true one with probability 1 - `alpha` (conformal prediction),
    and a score of how much it differs from the reference; cells with a high score are labelled
    ``"unknown"``.

    The guarantees hold for cells like those used for calibration. Calibrate on whole batches or
    donors (`calibration`) if the cells to annotate come from others. Cells of the reference that
    are among the data are recognized, and left out of the vectors of their peaks.

    Parameters
    ----------
    {data_or_files}
    {model}
    reference
        Labelled cells, as `data`; not changed. With ATAC: any peaks. With RNA only, an AnnData of
        cells x genes or the path of one: raw counts, or values from which counts can be recovered
        (normalised, with or without logarithm), with at least ten genes of the model. Or markers:
        a mapping from types to genes (or to weights by gene, negative for genes that speak against
        the type), or a DataFrame with the columns ``cell_type``, ``gene`` and optionally
        ``weight``. Or bulk profiles, without `label_key`: a mapping from names of types to BED or
        narrowPeak files, one or a list each; or an AnnData of at most 256 types x peaks with names
        of types as ``obs_names`` and counts, signal or ones as ``X``, or its path. See Notes.
    label_key
        Column of the reference's ``obs`` with labels. Cells without a label are ignored.
    batch_key
        Column of the reference's ``obs`` with batches, for `calibration` by name.
    calibration
        Cells of the reference that are kept for calibration: names of whole batches (needs
        `batch_key`), or a fraction drawn at random. If None, the batches that were held out when
        the model was trained, if the reference has them in `batch_key`, else 0.2. Label columns are
        then refitted to all cells of the reference.
    alpha
        Fraction of cells whose set may lack the true label.
    unknown
        Fraction of the calibration cells that would be labelled ``"unknown"``; 0 for none. Not used
        with markers.
    refine
        Refine the labels of an atlas on the cells of the data: a mixture of its labels is fitted to
        their open peaks, so that a label depends on the other cells, too. More accurate for cells
        of a few thousand or more; ``uns`` says that it was done. Not with a reference.
    modality
        Name of the ATAC modality of data and reference.
    {key_added}
    {mapping}
        The peaks of the reference are mapped with the options stored in its ``uns``, if any; BED
        files with those of the data, without `liftover` if they are of the build of the model.
    {device}
    rng
        Seed or generator, for a fraction as `calibration` and for simulated cells.
    {output}
    {copy}

    Returns
    -------
    None, or the copy; for cells that are read in blocks, the path of the results. Written into the
    ATAC modality:

    - ``obs["epifoundation_cell_type"]``: the most probable label, or ``"unknown"``;
    - ``obs["epifoundation_confidence"]``: the calibrated probability of the most probable label;
    - ``obs["epifoundation_set"]``: the prediction set, most probable label first, separated by
      " | ";
    - ``obs["epifoundation_lineage"]``, ``obs["epifoundation_lineage_confidence"]``: the most
      probable lineage and its probability, the sum over its labels;
      ``obs["epifoundation_resolved"]``: the label if its probability is at least 0.5, else the
      lineage if that is, else ``"unknown"``; ``obs["epifoundation_ontology_id"]``: Cell Ontology
      identifier of the label. These if the model knows lineages and identifiers of its labels;
    - ``obs["epifoundation_novelty"]``: how much a cell differs from the reference, by the energy of
      the logits and the distance to the nearest reference cells, in standard deviations of the
      calibration cells;
    - ``obs["epifoundation_in_reference"]``: whether the labels were learned from the cell (not for
      references of RNA, markers or bulk profiles);
    - ``obsm["epifoundation_probabilities"]``: DataFrame, one column per label (read it with
      :func:`epifoundation.get.probabilities`: files do not accept all labels as keys);
    - what :func:`epifoundation.tl.embed` writes except expression: cells are always embedded anew,
      as an object may have been changed, or put together of others, since it was embedded;
    - ``uns["epifoundation_annotation"]``: model, options, labels, thresholds, numbers of cells, and
      the colours of the labels in the reference, if its ``uns`` has some.

    Cells without a known open peak get NaN, an empty set and no label.

    Raises
    ------
    ValueError
        The model has no calibrated label head and there is no reference; fewer than two labels;
        `alpha` or `unknown` out of range; bulk profiles of one type, or that are the same; RNA
        without genes of the model, or with values that are not counts; a model without genes or of
        another encoder than ``"set"``; the data have an embedding of another model under the same
        key; what :func:`epifoundation.tl.embed` raises.

    Notes
    -----
    Temperature: Guo et al. 2017. Sets: adaptive scores of Romano et al. 2020 without randomisation,
    threshold from the calibration cells. Novelty: the energy of the logits (Liu et al. 2020),
    limited to at least the distance minus 1 and at most the distance plus 2.

    RNA: each reference cell is assigned to clusters of the model by the likelihood of its counts,
    with a scale for each gene by which technology and batches of the reference differ from the
    training data. Open peaks are simulated from these clusters, and the label head is fitted to
    and calibrated on simulated cells (``uns`` says so). The label of a cell depends on its own open
    peaks only. Labels that differ within a cluster of the model cannot be told apart.

    Markers: the evidence for a type in a cluster of the model is the weighted mean expression of
    its markers, standardized by gene. Clusters get types with probabilities (a softmax), or
    ``"unknown"`` if the evidence for all types is less than about one standard deviation; the
    label head is fitted to simulated cells of the clusters. There are no labelled cells, so
    nothing is calibrated on any, and novelty makes no cell ``"unknown"``.
    ``uns["epifoundation_annotation"]["markers"]`` is a DataFrame with the contribution of each
    marker.

    With an atlas, such as the default model, RNA and markers are for human blood. They give labels
    to the sorted populations of the atlas, and the open peaks of a cell its populations. Cells of
    other tissues, and of populations without a label, are ``"unknown"``, which is one of the
    labels, also with ``unknown=0``.

    Bulk profiles: the score of a type is the sum, over the open peaks of a cell, of the logarithm
    of the rate of the peak in the type over its mean rate, divided by the root of the number of
    peaks. Rates follow the rank of a peak in its profile, so depth and unit of the values do not
    matter. Probabilities, sets and novelty are calibrated on cells that are simulated from the
    profiles with 10 to 50 % background and a part of another type (``uns`` says so).

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()
    >>> is_train = mdata.obs["split"] == "train"
    >>> known, query = mdata[is_train].copy(), mdata[~is_train].copy()
    >>> ep.tl.annotate(query, reference=known, label_key="cell_type")
    >>> sorted(query["atac"].obs.columns[-4:])  # doctest: +NORMALIZE_WHITESPACE
    ['epifoundation_cell_type', 'epifoundation_confidence', 'epifoundation_novelty',
     'epifoundation_set']
    """
    keys = Keys.of(key_added)
    _check_fraction("alpha", alpha, with_zero=False)
    _check_fraction("unknown", unknown, with_zero=True)
    model = resolve_model(model, device)
    if not is_read_in_blocks(data, output):
        _check_embedding(get_atac(data, modality), model, keys)
    report: dict[str, Any] = {
        "model": model.name,
        "revision": model.revision,
        "package_version": __version__,
    }
    labeller: Labeller = HeadLabeller(model, model)
    if reference is not None:
        options = ReferenceOptions(
            label_key, batch_key, calibration, modality, keys, generator_of(rng), mapping
        )
        labeller, of_reference = fit_reference(reference, model, options)
        report |= of_reference
        if refine:
            msg = "`refine=True` is for the labels of an atlas: leave out `reference=` or `refine`."
            raise ValueError(msg)
    else:
        _check_model(model, label_key, batch_key, calibration)
    if refine:
        labeller = refined_labeller(
            data, model, modality=modality, mapping=mapping, keys=keys, rng=generator_of(rng)
        )
    parameters = {
        "modality": modality,
        "expression": False,
        "annotation": False,
        "batch_key": "",
        "dtype": "auto",
    }
    labels = AnnotationReadout(labeller, keys, float(alpha), float(unknown), report)
    return apply(
        Reader(
            model, keys, [EmbeddingReadout(model, keys, parameters, keeps_expression=True), labels]
        ),
        data,
        modality=modality,
        rna_modality="rna",
        mapping=mapping,
        output=output,
        overwrite=overwrite,
        copy=copy,
    )


def _check_embedding(atac: AnnData, model: EpiFoundation, keys: Keys) -> None:
    """Raise ValueError if the object has an embedding of another model, which would be lost."""
    report = atac.uns.get(keys.uns)
    found = dict(report) if isinstance(report, Mapping) else {}
    if keys.embedding not in atac.obsm or found.get("revision", model.revision) == model.revision:
        return
    msg = (
        f"The data have an embedding (`obsm[{keys.embedding!r}]`) of the model "
        f"{found.get('model', 'unknown')!r} ({found.get('revision', '-')}), not of {model.name!r} "
        f"({model.revision}): cells of two models cannot be compared. Embed them again with "
        "`ep.tl.embed(..., model)`, or pass `key_added=` to keep both."
    )
    raise ValueError(msg)


def _check_fraction(name: str, value: float, *, with_zero: bool) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < 1 or (value == 0 and not with_zero):
        msg = (
            f"`{name}` must be {'at least' if with_zero else 'above'} 0 and below 1, got {value!r}."
        )
        raise ValueError(msg)


def _check_model(model: EpiFoundation, *of_reference: Any) -> None:
    """Raise ValueError unless the model annotates without a reference."""
    if any(option is not None for option in of_reference):
        msg = "`label_key`, `batch_key` and `calibration` are options for the reference: "
        msg += "pass `reference=`."
        raise ValueError(msg)
    head = model.network.label
    if head is None or not head.is_calibrated:
        lacks = "has no label head" if head is None else "has a label head that is not calibrated"
        msg = (
            f"The model {model.name!r} {lacks}: pass `reference=` with labelled cells, or pretrain "
            "with `label_key=`."
        )
        raise ValueError(msg)
