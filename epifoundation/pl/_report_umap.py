"""UMAPs of the report."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from .._keys import Keys
from ._umap import find_basis


def with_umap(
    atac: AnnData, embedding: str, obs: pd.DataFrame, cells: np.ndarray, rng: np.random.Generator
) -> AnnData:
    """The selected cells with their embedding and UMAP, which is computed if it is missing."""
    import scanpy as sc

    values = np.asarray(atac.obsm[embedding])[cells]
    shown = AnnData(obs=obs.iloc[cells].copy(), obsm={embedding: values})
    seed = int(rng.integers(2**31))
    basis = find_basis(atac, "umap")
    # The UMAP may have been made from another embedding
    source = atac.uns.get("neighbors", {}).get("params", {}).get("use_rep")
    if basis is not None and source == embedding:
        shown.obsm["X_umap"] = np.asarray(atac.obsm[basis])[cells]
    else:
        neighbors = {"use_rep": embedding, "n_neighbors": min(15, len(cells) - 1)}
        sc.pp.neighbors(shown, **neighbors, **_seeded(sc.pp.neighbors, seed))
        sc.tl.umap(shown, **_seeded(sc.tl.umap, seed))
    return shown


def draw_umap(cells: AnnData, color: str, colors: dict[str, str], title: str) -> Any:
    """UMAP coloured by a column of `obs`, with a colour for each label."""
    import scanpy as sc

    options: dict[str, Any] = {}
    if cells.obs[color].dtype == "category":
        cells.obs[color] = cells.obs[color].cat.remove_unused_categories()
        options = {"palette": colors, "na_in_legend": False}
    return sc.pl.embedding(
        cells, basis="X_umap", color=color, title=title, show=False, return_fig=True, **options
    )


def title_of(name: str, keys: Keys, label_key: str | None, batch_key: str | None) -> str:
    """What a column of ``obs`` shows."""
    titles = {
        keys.cell_type: "Annotated label",
        keys.lineage: "Lineage",
        keys.confidence: "Confidence of the label",
        keys.novelty: "Novelty",
        keys.coverage: "Fraction of open peaks known to the model",
        batch_key: f"Batch ({name})",
        label_key: f"True label ({name})",
    }
    return titles.get(name, name)


def _seeded(function: Callable[..., Any], seed: int) -> dict[str, int]:
    """The seed argument of a scanpy function: `rng` since 1.13, `random_state` before."""
    return {"rng" if "rng" in signature(function).parameters else "random_state": seed}
