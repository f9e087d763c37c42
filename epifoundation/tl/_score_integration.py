"""``ep.tl.score_integration``: how well embeddings keep cell types and remove batches."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData

from .._docs import documented
from .._keys import Keys
from .._memory import copy_of
from .._option_types import checked
from .._settings import settings
from .._validate import (
    RNG,
    Data,
    check_writable,
    generator_of,
    get_atac,
    integer,
    names_of,
    obs_column,
)
from ..cells.rows import read_counts
from ..cells.source import InMemory
from ..training.components import semantic_components
from ..training.rows import as_pattern

N_LSI = 50
N_NEIGHBORS = 90  # that the metrics read
UNINTEGRATED = "LSI"


@documented
@checked
def score_integration(
    data: Data,
    *,
    batch_key: str,
    label_key: str,
    embeddings: Sequence[str] | None = None,
    unintegrated: str | None = None,
    modality: str = "atac",
    key_added: str | None = None,
    n_jobs: int = 1,
    rng: RNG = 0,
    copy: bool = False,
) -> Data | None:
    """Score embeddings with the metrics of scib-metrics, for an object in memory (no files).

    The metrics compare each embedding with one without integration. Needs ``pip install
    "epifoundation[bench]"``. The first call compiles for about a minute.

    Parameters
    ----------
    data
        A MuData with the modality `modality`, or an AnnData of cells x peaks, with embeddings in
        ``obsm``.
    batch_key, label_key
        Columns of ``obs``. Cells without either, or with NaN in an embedding, are ignored.
    embeddings
        Names in ``obsm``; if None, the one that :func:`epifoundation.tl.embed` writes.
    unintegrated
        Name in ``obsm`` of an embedding without integration, which the others are compared with;
        if None, latent semantic indexing (50 components, standardised, without the first), named
        "LSI".
    {modality}
    key_added
        Replaces ``epifoundation`` in the names that are read and written.
    n_jobs
        Threads of the search for neighbours.
    rng
        Seed or generator, for latent semantic indexing.
    {copy}

    Returns
    -------
    None, or the copy. Written into the ATAC modality:

    - ``uns["epifoundation_integration"]``: DataFrame, one row per embedding, one column per metric;
      ``Bio conservation`` and ``Batch correction`` are their means, ``Total`` is 0.6 of the first
      and 0.4 of the second.

    :func:`epifoundation.pl.integration` draws it.

    Raises
    ------
    ValueError
        Unknown column or embedding; fewer than two batches or labels; too few cells.
    ImportError
        scib-metrics is not installed.

    Notes
    -----
    Metrics and weights: Luecken et al. 2022.

    Examples
    --------
    >>> import epifoundation as ep
    >>> adata = ep.datasets.simulate_multiome(300, 500, 20)["atac"]
    >>> ep.tl.embed(adata, ep.tl.pretrain(adata, objective="peaks"))
    >>> ep.tl.score_integration(adata, batch_key="batch", label_key="cell_type")
    >>> list(adata.uns["epifoundation_integration"].index)
    ['LSI', 'X_epifoundation']
    """
    keys = Keys.of(key_added)
    atac = get_atac(data, modality)
    check_writable(data, atac, copy=copy)
    n_jobs = integer(n_jobs, "n_jobs", minimum=1)
    names = [keys.embedding] if embeddings is None else names_of(embeddings, "embeddings")
    wanted = list(dict.fromkeys([*([unintegrated] if unintegrated else []), *names]))
    missing = [name for name in wanted if name not in atac.obsm]
    if missing or not names:
        msg = (
            f"No embedding {missing} in `obsm`; available: {list(atac.obsm)}. Run `ep.tl.embed` "
            "first, or name others with `embeddings=`."
        )
        raise ValueError(msg)
    if unintegrated is None and UNINTEGRATED in wanted:
        msg = (
            f"{UNINTEGRATED!r} would be computed and replace yours: pass "
            f"`unintegrated={UNINTEGRATED!r}` to use it, or rename it."
        )
        raise ValueError(msg)
    obs = pd.DataFrame(
        {
            "batch": obs_column(data, atac, batch_key, "batch_key"),
            "label": obs_column(data, atac, label_key, "label_key"),
        }
    )
    arrays = {name: _dense(atac, name) for name in wanted}
    usable = obs.notna().all(axis=1).to_numpy() & np.all(
        [~np.isnan(x).any(axis=1) for x in arrays.values()], axis=0
    )
    scored = AnnData(
        obs=obs[usable].astype(str).astype("category"),
        obsm={name: x[usable] for name, x in arrays.items()},
    )
    _check_scored(scored, batch_key, label_key)
    if unintegrated is None:
        source = InMemory(data, modality, "the data")
        pattern = as_pattern(read_counts(source)[np.flatnonzero(usable)])
        components = semantic_components(pattern, N_LSI, generator_of(rng), torch.device("cpu"))
        scored.obsm[UNINTEGRATED] = components.scores(pattern)
        unintegrated, wanted = UNINTEGRATED, [UNINTEGRATED, *wanted]
    table = _benchmark(scored, wanted, unintegrated, n_jobs)
    target = copy_of(data) if copy else data
    get_atac(target, modality).uns[keys.integration] = table
    return target if copy else None


def _dense(atac: AnnData, name: str) -> np.ndarray:
    values = atac.obsm[name]
    if sp.issparse(values):
        msg = f"`obsm[{name!r}]` is sparse, not an embedding: name others with `embeddings=`."
        raise ValueError(msg)
    dense = np.asarray(values, dtype=np.float32)
    if np.isnan(dense).any(axis=1).all():
        msg = (
            f"`obsm[{name!r}]` has no cell without NaN: embed again, or name others with "
            "`embeddings=`."
        )
        raise ValueError(msg)
    return dense


def _check_scored(scored: AnnData, batch_key: str, label_key: str) -> None:
    for key, column in ((batch_key, "batch"), (label_key, "label")):
        found = list(scored.obs[column].cat.categories)
        if len(found) < 2:
            msg = (
                f"{key!r} has {len(found)} value ({found}) among the {scored.n_obs:,} cells that "
                "can be scored; at least two are needed."
            )
            raise ValueError(msg)
    if scored.n_obs <= N_NEIGHBORS:
        msg = (
            f"{scored.n_obs:,} cells can be scored (those with batch, label and embedding); the "
            f"metrics need {N_NEIGHBORS} neighbours of each."
        )
        raise ValueError(msg)


def _benchmark(
    scored: AnnData, names: Sequence[str], unintegrated: str, n_jobs: int
) -> pd.DataFrame:
    with _calm():
        try:
            from scib_metrics.benchmark import Benchmarker
        except ImportError as error:
            msg = '`score_integration` needs scib-metrics: `pip install "epifoundation[bench]"`.'
            raise ImportError(msg) from error
        benchmark: Any = Benchmarker(
            scored,
            "batch",
            "label",
            list(names),
            pre_integrated_embedding_obsm_key=unintegrated,
            n_jobs=n_jobs,
            progress_bar=settings.progress,
        )
        benchmark.benchmark()
        table = benchmark.get_results(min_max_scale=False)
    table = table.drop(index="Metric Type").astype(float)
    last = ["Bio conservation", "Batch correction", "Total"]
    table = table[[*table.columns.difference(last, sort=False), *last]]
    table.index.name = table.columns.name = None
    return table


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """Silence warnings of its dependencies, and its log of labels in a single batch."""
    import logging

    logger = logging.getLogger("scib_metrics")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
