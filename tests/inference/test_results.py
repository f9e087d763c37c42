"""The file of results equals the AnnData that its blocks are made of."""

from itertools import pairwise

import anndata
import numpy as np
import pandas as pd
import pytest

from epifoundation.inference.block_store import BlockStore, Origin
from epifoundation.inference.results import arrays_of, build_file
from epifoundation.inference.tally import Tally


def results():
    """Results of every kind for 50 cells, with names and labels that are not ASCII."""
    rng = np.random.default_rng(0)
    names = [f"zelle-{i}-ä" for i in range(50)]
    labels = np.array(["T", "β", "unused", "only in one block"])
    codes = rng.integers(0, 2, 50)
    codes[[3, 40]] = -1
    codes[45] = 3
    obs = pd.DataFrame(
        {
            "label": pd.Categorical.from_codes(codes, labels),
            "text": [f"T | β{i}" if i % 3 else "" for i in range(50)],
            "number": rng.normal(size=50).astype(np.float32),
            "count": rng.integers(0, 9, 50),
            "flag": rng.random(50) < 0.5,
        },
        index=names,
    )
    atac = anndata.AnnData(obs=obs)
    atac.obsm["X_embedding"] = rng.normal(size=(50, 4)).astype(np.float32)
    atac.obsm["table"] = pd.DataFrame(rng.normal(size=(50, 2)), index=names, columns=["T", "β x"])
    rna = anndata.AnnData(obs=pd.DataFrame(index=names), var=pd.DataFrame(index=list("abc")))
    rna.layers["expression"] = rng.normal(size=(50, 3)).astype(np.float32)
    return atac, rna


@pytest.mark.parametrize("bounds", [[0, 50], [0, 20, 45, 46, 50]])
@pytest.mark.parametrize("with_rna", [True, False])
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_blocks_make_the_whole(tmp_path, suffix, with_rna, bounds):
    atac, rna = results()
    store = BlockStore(tmp_path / "blocks", {"run": 1})
    for number, (start, stop) in enumerate(pairwise(bounds)):
        part = rna[start:stop].copy() if with_rna else None
        assert store.claim(number)
        # A block knows all labels, of which it may use few
        block = anndata.AnnData(obs=atac.obs[start:stop], obsm=atac[start:stop].obsm)
        block.obs["label"] = block.obs["label"].cat.set_categories(atac.obs["label"].cat.categories)
        store.save(number, arrays_of(block, part), Tally(cells=stop - start), Origin("", None))
    path = tmp_path / f"results.{suffix}"
    var = rna.var if with_rna else None
    build_file(path, store, np.array(bounds), {"report": {"cells": 50}}, var)
    store.close()
    found = anndata.read_zarr(path) if suffix == "zarr" else anndata.read_h5ad(path)
    expected = atac.obs.assign(label=atac.obs["label"].cat.remove_unused_categories())
    pd.testing.assert_frame_equal(
        found.obs.astype({"text": object}),
        expected.astype({"text": object}),
        check_index_type=False,
    )
    np.testing.assert_array_equal(found.obsm["X_embedding"], atac.obsm["X_embedding"])
    pd.testing.assert_frame_equal(
        found.obsm["table"], atac.obsm["table"], check_index_type=False, check_column_type=False
    )
    assert sorted(found.obsm) == ["X_embedding", "table"]
    assert found.uns["report"]["cells"] == 50
    if with_rna:
        assert list(found.var_names) == list("abc")
        np.testing.assert_array_equal(found.layers["expression"], rna.layers["expression"])
    else:
        assert found.n_vars == 0


def test_arrays_are_plain_types_that_need_no_pickle():
    arrays = arrays_of(*results())
    assert {array.dtype.kind for array in arrays.values()} <= set("Sfib")
    assert {len(array) for name, array in arrays.items() if "categories" not in name} == {50}
