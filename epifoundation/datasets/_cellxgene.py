"""``ep.datasets.cellxgene``: cells of CELLxGENE, counted on the peaks of a model."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pandas as pd
from anndata import AnnData

from .._downloads import download
from .._option_types import checked
from .._settings import settings
from .._validate import missing_column, one_of, text
from ..cells.groups import close, open_group
from ..cells.table import StoredTable
from ..models._peaks import Peaks, resolve_peaks
from ..peaks.mapping import genome_build
from ..peaks.vocabulary import PeakVocabulary
from ..pp._count_fragments import count_fragments
from ..pp._fragment_counter import Counting
from ._cellxgene_api import Asset, Version, find_version

UNKNOWN = "unknown"  # the label of cells whose type is not known, in the schema


@checked
def cellxgene(
    dataset_id: str,
    *,
    peaks: Peaks = None,
    label_key: str = "cell_type",
    counting: Counting = "insertion",
) -> AnnData:
    """Download a scATAC data set of CELLxGENE, and count its fragments on the peaks of a model.

    The result is a labelled reference for :func:`epifoundation.tl.annotate` (``reference=``), or
    data for training. CELLxGENE has fragments, cell types and donors of such data, but no peaks:
    its matrix has genes.

    Parameters
    ----------
    dataset_id
        Identifier of a data set, whose newest version is downloaded, or of one version. It is in
        the address of the Explorer, ``https://cellxgene.cziscience.com/e/<id>.cxg/``.
    peaks
        Peaks to count on, as for :func:`epifoundation.pp.count_fragments`; None for those of the
        bundled model. Human data are on hg38, mouse data on mm39.
    label_key
        Column of ``obs`` with labels. It must exist, and its label ``"unknown"`` becomes missing.
    counting
        ``"insertion"`` or ``"fragment"``, as for :func:`epifoundation.pp.count_fragments`.

    Returns
    -------
    AnnData of all cells x peaks, as :func:`epifoundation.pp.count_fragments` returns it, with the
    columns of CELLxGENE in ``obs``: among them are ``cell_type``, ``cell_type_ontology_term_id``,
    ``donor_id``, ``assay`` and ``tissue``. ``n_fragments`` and ``fraction_in_peaks`` are always
    those of the counts. ``uns["cellxgene"]`` has ``dataset_id``, ``dataset_version_id``, ``title``,
    ``schema_version`` and ``collection_id``.

    Raises
    ------
    ValueError
        The identifier is malformed or unknown, or the data set was withdrawn; it has no fragments,
        or not this column of labels; it is of another genome than the peaks; or a downloaded file
        has another size than stated.
    ConnectionError
        There is no network and the files are not in the cache, or a download broke off repeatedly.
        The same call goes on with it.
    OSError
        The disk is full.

    See Also
    --------
    epifoundation.tl.annotate : with ``reference=``.

    Notes
    -----
    Files are kept in ``ep.settings.cache_dir / "cellxgene"``. Fragments of a large data set have
    tens of GB. Of the .h5ad, only ``obs`` is read. All its cells are counted: in data with
    fragments, each is primary data (``is_primary_data``). Other barcodes are ignored.

    Examples
    --------
    >>> import epifoundation as ep
    >>> reference = ep.datasets.cellxgene(  # human cortex, 45 GB  # doctest: +SKIP
    ...     "a4310202-4dc8-4e1b-a96d-d9675f5b14d1"
    ... )
    >>> ep.tl.annotate(  # doctest: +SKIP
    ...     query, reference=reference, label_key="cell_type"
    ... )
    """
    one_of(counting, get_args(Counting), "counting")
    text(label_key, "label_key")
    folder = settings.cache_dir / "cellxgene"
    version = find_version(dataset_id, folder)
    table, fragments = version.table, version.fragments
    vocabulary = resolve_peaks(peaks)
    _check_build(version, vocabulary)
    # First what is smaller
    obs = _read_obs(_fetch(table, folder), label_key)
    counted = count_fragments(
        _fetch(fragments, folder), vocabulary, barcodes=obs.index, counting=counting
    )
    counted.obs = counted.obs.join(obs.drop(columns=counted.obs.columns, errors="ignore"))
    counted.uns["cellxgene"] = version.about
    return counted


def _fetch(asset: Asset, folder: Path) -> Path:
    return download(asset.url, folder / asset.file, size=asset.size)


def _read_obs(path: Path, label_key: str) -> pd.DataFrame:
    """The table of cells of an .h5ad, without its matrix."""
    root = open_group(path)
    try:
        table = StoredTable.of(root, "obs", repr(str(path)))
        if table is None:
            msg = f"{str(path)!r} has no table `obs`. Delete it, and call again to download it."
            raise ValueError(msg)
        obs = table.read()
    finally:
        close(root)
    if label_key not in obs.columns:
        raise missing_column(label_key, "label_key", obs.columns, {}, repr(str(path)))
    labels = obs[label_key]
    if not isinstance(labels.dtype, pd.CategoricalDtype):
        obs[label_key] = labels.mask(labels.isin([UNKNOWN]))
    elif UNKNOWN in labels.cat.categories:
        obs[label_key] = labels.cat.remove_categories([UNKNOWN])
    return obs


def _check_build(version: Version, peaks: PeakVocabulary) -> None:
    """Raise ValueError if the peaks are known to be of another genome build."""
    build = genome_build(peaks)
    if "unknown" in (build, version.genome) or build == version.genome:
        return
    msg = (
        f"The data set {version.about['dataset_id']!r} is of {version.organism} "
        f"({version.genome}), the peaks are of {build}: pass `peaks=` of {version.genome}, such as "
        "a model or a BED file, or lift peaks over with `ep.genome.lift_over`."
    )
    raise ValueError(msg)
