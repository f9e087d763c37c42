"""Cells to link: their open peaks, and measured expression in the order of the cells."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from epifoundation.cells.source import InMemory
from epifoundation.links.cells import gather_cells

GENES = np.array([7, 0, 21])


def gather(data, rna, model, batch_key=None, layer=None):
    source = InMemory(data, "atac", "the data")
    return gather_cells(source, rna, model, None, GENES, batch_key, layer)


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, sp.csr_matrix.toarray])
def test_expression_is_that_of_the_cell_and_nan_without_rna(mdata, model, kind):
    """The RNA lacks some cells, has others, and has its cells and genes in another order."""
    rng = np.random.default_rng(0)
    dense = mdata["rna"].X.toarray()
    expected, total = dense[:300][:, GENES].astype(float), dense[:300].sum(axis=1)
    lost = rng.random(300) < 0.3
    expected[lost], total[lost] = np.nan, 0
    kept = np.append(np.flatnonzero(~lost), np.arange(300, 400))
    rna = mdata["rna"][rng.permutation(kept)][:, rng.permutation(40)].copy()
    rna.X = kind(sp.csr_matrix(rna.X))
    cells = gather(mdata["atac"][:300].copy(), rna, model)
    np.testing.assert_array_equal(cells.measured, expected)
    np.testing.assert_array_equal(cells.total, total)
    assert cells.batch is None
    assert list(cells.names) == list(mdata.obs_names[:300])


def test_a_part_of_the_cells(mdata, model):
    cells = gather(mdata["atac"], mdata["rna"], model, batch_key="batch")
    is_open = mdata["atac"].X.toarray() > 0
    np.testing.assert_array_equal(cells.n_open(), is_open.sum(axis=0))
    names = np.array(model.training["batches"])[cells.batch]
    assert list(names) == list(mdata["atac"].obs["batch"])
    rows = np.array([5, 0, 77])
    part = cells.take(rows)
    np.testing.assert_array_equal(part.n_open(), is_open[rows].sum(axis=0))
    np.testing.assert_array_equal(part.measured, cells.measured[rows])
    np.testing.assert_array_equal(part.total, cells.total[rows])
    np.testing.assert_array_equal(part.batch, cells.batch[rows])
    assert list(part.names) == list(cells.names[rows])
    assert part.take(np.array([2])).names[0] == cells.names[77]
    np.testing.assert_array_equal(part.source.read(1, 2).toarray() > 0, is_open[[0]])


def test_without_rna_or_with_a_missing_gene_nothing_is_measured(mdata, model):
    assert gather(mdata["atac"], None, model).measured is None
    others = mdata["rna"][:, mdata["rna"].var_names != "gene21"].copy()
    with pytest.warns(UserWarning, match="The RNA modality lacks 1 of the 3 genes"):
        cells = gather(mdata["atac"], others, model)
    assert (cells.measured, cells.total) == (None, None)
    # A gene that is not requested may be missing; warnings are errors here
    others = mdata["rna"][:, mdata["rna"].var_names != "gene1"].copy()
    assert gather(mdata["atac"], others, model).measured is not None


@pytest.mark.parametrize("change", [0.5, -1])
def test_values_that_are_no_counts_are_refused_but_in_a_layer_accepted(mdata, model, change):
    rna = mdata["rna"]
    rna.layers["counts"] = rna.X.copy()
    rna.X = rna.X * change
    with pytest.raises(
        ValueError, match="does not contain counts, but the model was trained on counts"
    ):
        gather(mdata["atac"], rna, model)
    measured = gather(mdata["atac"], rna, model, layer="counts").measured
    pd.testing.assert_frame_equal(
        pd.DataFrame(measured),
        pd.DataFrame(rna.layers["counts"].toarray()[:, GENES]),
        check_dtype=False,
    )


def test_without_a_cell_in_both_nothing_is_measured(mdata, model):
    rna = mdata["rna"].copy()
    rna.obs_names = rna.obs_names + "-1"
    with pytest.warns(UserWarning, match=r"0 cells are in both.*removesuffix\('-1'\)"):
        cells = gather(mdata["atac"], rna, model)
    assert (cells.measured, cells.total) == (None, None)
    assert not cells.has_rna.any()
