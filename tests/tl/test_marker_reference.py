"""A reference of marker genes: planted markers, evidence, and what bad input gets."""

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest

import epifoundation as ep


@pytest.fixture(scope="module")
def planted():
    """ATAC of a batch, a model of the other one, and markers of four types from its RNA."""
    mdata = ep.datasets.simulate_multiome(
        1200, 800, 80, n_types=4, n_batches=2, median_fragments=40, rng=5
    )
    is_new = (mdata.obs["batch"] == "batch1").to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ep.tl.pretrain(mdata[~is_new].copy(), config=ep.ModelConfig(dim=32), genome="hg38")
    counts = mdata["rna"].X[~is_new].toarray()
    values = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    labels = mdata.obs["cell_type"].astype(str).to_numpy()[~is_new]
    markers = {}
    for name in np.unique(labels):
        change = values[labels == name].mean(axis=0) - values[labels != name].mean(axis=0)
        markers[name] = list(mdata["rna"].var_names[np.argsort(-change)[:5]])
    return mdata[is_new]["atac"].copy(), model, markers


def accuracy(query, model, markers, **options):
    found = ep.tl.annotate(query, model, reference=markers, copy=True, **options)
    true = query.obs["cell_type"].astype(str)
    return ep.metrics.accuracy(true, found.obs["epifoundation_cell_type"].astype(str)), found


def test_planted_types_and_their_evidence(planted):
    query, model, markers = planted
    score, found = accuracy(query, model, markers, unknown=0)
    assert score > 0.8
    report = found.uns["epifoundation_annotation"]
    assert report["reference"] == "markers"
    assert "no labelled cells" in report["calibrated_on"]
    table = report["markers"]
    assert set(zip(table["cell_type"], table["gene"], strict=True)) == {
        (name, gene) for name, genes in markers.items() for gene in genes
    }
    # Planted markers speak for their types
    assert (table.groupby("cell_type")["contribution"].mean() > 0.5).all()
    assert report["n_unknown"] == (found.obs["epifoundation_cell_type"] == "unknown").sum()


def test_the_contribution_is_mean_expression_in_the_cells_of_the_type(planted):
    """As predicted for cells of the type, in deviations from the others, with the weight."""
    query, model, markers = planted
    table = accuracy(query, model, markers)[1].uns["epifoundation_annotation"]["markers"]
    predicted = ep.tl.predict_expression(query, model, copy=True)
    values = ep.get.expression(predicted).to_df()
    z = (values - values.mean()) / values.std()
    of_type = z.groupby(query.obs["cell_type"].astype(str).to_numpy()).mean()
    expected = [
        of_type.loc[name, gene]
        for name, gene in zip(table["cell_type"], table["gene"], strict=True)
    ]
    assert np.corrcoef(expected, table["contribution"])[0, 1] > 0.5


def test_tables_and_mappings_are_the_same(planted):
    query, model, markers = planted
    expected = accuracy(query, model, markers)[1].obsm["epifoundation_probabilities"]
    rows = [(name, gene) for name, genes in markers.items() for gene in genes]
    table = pd.DataFrame(rows, columns=["cell_type", "gene"])
    weights = {name: dict.fromkeys(genes, 1.0) for name, genes in markers.items()}
    sets = {name: set(genes) for name, genes in markers.items()}
    for other in (table, table.assign(sign="+"), weights, sets):
        found = accuracy(query, model, other)[1].obsm["epifoundation_probabilities"]
        pd.testing.assert_frame_equal(found, expected, atol=1e-5)


def test_negative_markers_speak_against_a_type(planted):
    """Of two types with the same markers, cells are not of that with a marker to be silent."""
    query, model, markers = planted
    first = markers["type0"]
    others = {name: genes for name, genes in markers.items() if name != "type0"}
    same = {"type0": first[:3], "copy": first[:3], **others}
    signed = same | {"copy": dict.fromkeys(first[:3], 1) | dict.fromkeys(first[3:], -1)}
    is_first = (query.obs["cell_type"] == "type0").to_numpy()
    one, two = (
        accuracy(query, model, each)[1].obsm["epifoundation_probabilities"].loc[is_first].mean()
        for each in (same, signed)
    )
    assert one["copy"] > 0.3
    assert two.get("copy", 0) < 0.1
    assert two["type0"] > one["type0"] + 0.2


def test_cells_of_a_type_without_markers_are_unknown(planted):
    query, model, markers = planted
    fewer = {name: genes for name, genes in markers.items() if name != "type2"}
    found = accuracy(query, model, fewer)[1].obs
    is_unknown = found["epifoundation_cell_type"] == "unknown"
    is_left_out = query.obs["cell_type"] == "type2"
    assert is_unknown[is_left_out].mean() > is_unknown[~is_left_out].mean() + 0.3


def test_the_label_of_a_cell_does_not_depend_on_the_others(planted):
    query, model, markers = planted
    every = accuracy(query, model, markers)[1].obs["epifoundation_confidence"]
    some = accuracy(query[100:107].copy(), model, markers)[1].obs["epifoundation_confidence"]
    np.testing.assert_allclose(some, every[100:107], rtol=1e-4)


def test_files_and_other_markers(planted, tmp_path):
    query, model, markers = planted
    query.write_h5ad(tmp_path / "query.h5ad")
    arguments = {"output": tmp_path / "out.h5ad"}
    ep.tl.annotate(tmp_path / "query.h5ad", model, reference=markers, **arguments)
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    expected = accuracy(query, model, markers)[1]
    assert (found.obs["epifoundation_cell_type"] == expected.obs["epifoundation_cell_type"]).all()
    table = found.uns["epifoundation_annotation"]["markers"]
    pd.testing.assert_frame_equal(
        table, expected.uns["epifoundation_annotation"]["markers"], check_dtype=False
    )
    ep.tl.annotate(tmp_path / "query.h5ad", model, reference=markers, **arguments)  # the same
    others = markers | {"type0": markers["type0"][:2]}
    with pytest.raises(FileExistsError):
        ep.tl.annotate(tmp_path / "query.h5ad", model, reference=others, **arguments)


def test_markers_that_the_model_lacks(planted):
    query, model, markers = planted
    more = {name: [*genes, "NOGENE"] for name, genes in markers.items()}
    with pytest.warns(UserWarning, match=r"1 of \d+ markers are not genes .*'NOGENE'"):
        found = accuracy(query, model, more)[1]
    expected = accuracy(query, model, markers)[1]
    pd.testing.assert_frame_equal(
        found.obsm["epifoundation_probabilities"], expected.obsm["epifoundation_probabilities"]
    )
    with pytest.raises(ValueError, match=r"None of the markers of \['x'\] are among the 80 genes"):
        accuracy(query, model, markers | {"x": ["A", "B"]})


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"a": ["gene1"]}, "markers of 1 types"),
        ({"a": ["gene1"], "b": []}, "no markers of 'b'"),
        ({"a": ["gene1"], "unknown": ["gene2"]}, "call it otherwise"),
        ({"a": {"gene1": 0}, "b": ["gene2"]}, "expected a number other than 0"),
        ({"a": {"gene1": "high"}, "b": ["gene2"]}, "has the weight 'high'"),
        ({"a": ["gene1", None], "b": ["gene2"]}, "a gene .* among its markers; expected a name"),
        ({"a": [["gene1"]], "b": ["gene2"]}, r"a gene \['gene1'\] among its markers"),
        (pd.DataFrame({"gene": ["gene1"]}), "needs the columns 'cell_type' and 'gene'"),
        (
            pd.DataFrame({"cell_type": list("aab"), "gene": ["gene1"] * 3, "weight": [1, 2, 1]}),
            "several weights",
        ),
        (pd.DataFrame({"cell_type": [], "gene": []}), "markers of 0 types"),
    ],
)
def test_bad_markers(planted, reference, message):
    query, model, _ = planted
    with pytest.raises(ValueError, match=message):
        ep.tl.annotate(query, model, reference=reference)
    assert not query.uns


def test_options_of_cells_are_refused(planted):
    query, model, markers = planted
    with pytest.raises(ValueError, match="`label_key` is an option for a reference of cells"):
        ep.tl.annotate(query, model, reference=markers, label_key="cell_type")


def test_a_model_without_genes(planted):
    query, _, markers = planted
    alone = ep.tl.pretrain(query, config=ep.ModelConfig(dim=16, objective="peaks"), genome="hg38")
    with pytest.raises(ValueError, match="it learned from ATAC alone"):
        ep.tl.annotate(query, alone, reference=markers)


def test_the_bundled_model():
    """B cells of the blood by four markers, and killers by three."""
    pbmc = ep.datasets.pbmc_multiome()
    pbmc = pbmc[pbmc["atac"].X.getnnz(axis=1) > 0][:1500].copy()
    query = pbmc["atac"].copy()
    markers = {
        "B": ["MS4A1", "CD79A", "PAX5", "CD22"],
        "NK": ["GZMH", "PRF1", "FGFBP2"],
        "pDC": ["PTGDS", "CUX2", "TCF4"],
    }
    ep.tl.annotate(query, reference=markers)
    found = query.obs["epifoundation_cell_type"].astype(str).to_numpy()
    true = pbmc.obs["cell_type"].astype(str).to_numpy()
    is_b = np.isin(true, ["memory B", "naive B"])
    assert (found[is_b] == "B").mean() > 0.7
    assert (found[~is_b] == "B").mean() < 0.05
    assert (found[true == "NK"] == "NK").mean() > 0.5
    assert (found[np.isin(true, ["CD14+ Monocytes"])] == "unknown").mean() > 0.5
