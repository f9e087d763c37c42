"""Knock-outs against embedding the edited matrix."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

import epifoundation as ep
from epifoundation.peaks.counted import hash_tokens, peak_keys

GENES = ["gene3", "gene20", "gene39"]


@pytest.fixture(scope="module")
def transformer(simulated):
    return ep.tl.pretrain(
        simulated,
        config=ep.ModelConfig(
            encoder="transformer",
            dim=16,
            n_heads=2,
            n_layers=2,
            feedforward=32,
            decoder="query",
            objective="binary",
        ),
        training=ep.TrainingConfig(max_epochs=1, n_neighbors=1),
        label_key="cell_type",
        genome="hg38",
    )


@pytest.fixture(scope="module")
def new():
    """Cells of the same peaks that no model was measured on; do not change them."""
    return ep.datasets.simulate_multiome(100, 600, 40, n_types=4, rng=2)["atac"]


def predict(atac, model, matrix):
    """Expression and label probabilities of an edited matrix."""
    edited = atac.copy()
    edited.X = sp.csr_matrix(matrix)
    ep.tl.embed(edited, model)
    return edited.obsm["epifoundation_expression"], edited.obsm.get("epifoundation_probabilities")


def predict_left_out(atac, model, matrix):
    """The same for cells that were counted: they stay left out if `matrix` is edited."""
    projection = model.peaks.projection(ep.genome.read_intervals(atac.var))

    def tokens(cells):
        mapped = (
            ((sp.csr_matrix(cells) > 0).astype(np.float32) @ projection).tocsr().sorted_indices()
        )
        return mapped.indices.astype(np.int64), mapped.indptr.astype(np.int64)

    known = model.known(*tokens(atac.X))
    assert known["encoder"].isfinite().all()  # all of them are recognized
    embedding = model.network.encode(*map(torch.from_numpy, tokens(matrix)), known)
    expression = model.network.expression.predict(embedding).numpy()
    probabilities = model.network.label(embedding).numpy()
    return (
        pd.DataFrame(expression, index=atac.obs_names, columns=model.genes.names),
        pd.DataFrame(probabilities, index=atac.obs_names, columns=model.labels),
    )


# Cells that are new to a model, and cells that it was measured on
EVERY = pytest.mark.parametrize(
    ("name", "cells", "predict"),
    [
        ("model", "new", predict),
        ("model", "counted", predict_left_out),
        ("transformer", "new", predict),
    ],
    ids=["new", "counted", "transformer"],
)


@pytest.fixture
def every_cell(new, simulated):
    return {"new": new, "counted": simulated["atac"]}


@EVERY
def test_single_knock_outs_equal_the_edited_matrix(request, every_cell, name, cells, predict):
    model = request.getfixturevalue(name)
    atac = every_cell[cells][:6].copy()
    matrix = atac.X.toarray()
    before, _ = predict(atac, model, matrix)
    pieces = list(ep.tl.scan_knock_outs(atac, model, genes=GENES))
    cells, peaks, change = (
        np.concatenate([getattr(p, field) for p in pieces])
        for field in ("cells", "peaks", "change")
    )
    known = np.diff(model.peaks.projection(ep.genome.read_intervals(atac.var)).indptr) > 0
    assert sorted(zip(cells, peaks, strict=True)) == sorted(
        zip(*np.nonzero((matrix > 0) & known), strict=True)
    )
    for i in np.random.default_rng(0).choice(len(cells), 15, replace=False):
        one = atac[[cells[i]]].copy()
        edited = matrix[[cells[i]]].copy()
        edited[0, peaks[i]] = 0
        after, _ = predict(one, model, edited)
        expected = after[GENES].to_numpy()[0] - before[GENES].to_numpy()[cells[i]]
        np.testing.assert_allclose(change[i], expected, atol=1e-5)


@EVERY
@pytest.mark.parametrize(
    "asked", ["chr2:10000-80000", ["chr1:12000-12500", "chr2:10000-80000"], "chr1:12000-12500"]
)
def test_sets_and_regions_equal_the_edited_matrix(request, every_cell, name, cells, predict, asked):
    model = request.getfixturevalue(name)
    atac = every_cell[cells][:80].copy()
    out = ep.tl.knock_out(atac, model, peaks=asked, genes=GENES)
    closed = atac.var_names.isin(out.peaks)
    matrix = atac.X.toarray()
    expression, probabilities = predict(atac, model, matrix)
    matrix[:, closed] = 0
    edited, edited_probabilities = predict(atac, model, matrix)
    np.testing.assert_allclose(out.expression, (edited - expression)[GENES], atol=1e-5)
    np.testing.assert_allclose(out.probabilities, edited_probabilities - probabilities, atol=1e-5)
    assert out.n_removed.tolist() == (atac.X.toarray()[:, closed] > 0).sum(axis=1).tolist()
    untouched = (out.n_removed == 0).to_numpy()
    assert (out.expression[untouched] == 0).all(axis=None)
    assert "X_epifoundation" not in atac.obsm


@pytest.mark.parametrize("name", ["model", "transformer"])
def test_peaks_of_another_set_that_stand_for_the_same_one(request, simulated, name):
    """Two peaks of the data on one of the model: only closing both changes something."""
    model = request.getfixturevalue(name)
    atac = simulated["atac"][:5].copy()
    start = atac.var["start"].to_numpy().copy()
    names = [f"{c}:{s}-{s + 200}" for c, s in zip(atac.var["chrom"], start, strict=True)]
    halves = [f"{c}:{s + 250}-{s + 450}" for c, s in zip(atac.var["chrom"], start, strict=True)]
    both = AnnData(
        sp.hstack([atac.X, atac.X], format="csr"),
        obs=atac.obs,
        var=pd.DataFrame(index=names + halves),
    )
    pieces = list(ep.tl.scan_knock_outs(both, model, genes=GENES))
    assert sum(len(p.cells) for p in pieces) == 0
    first = np.flatnonzero(atac.X[0].toarray().ravel() > 0)
    pair = ep.tl.knock_out(both, model, peaks=[names[first[3]], halves[first[3]]], genes=GENES)
    single = ep.tl.knock_out(atac, model, peaks=atac.var_names[first[3]], genes=GENES)
    np.testing.assert_allclose(pair.expression.iloc[0], single.expression.iloc[0], atol=1e-5)
    wide = both[:, : atac.n_vars].copy()
    (piece, *_) = ep.tl.scan_knock_outs(wide, model, genes=GENES, peaks=names[first[3]])
    np.testing.assert_allclose(
        piece.change[piece.cells == 0][0], single.expression.iloc[0], atol=1e-5
    )


def test_a_cell_that_loses_its_last_peak_is_nan(simulated, model):
    atac = simulated["atac"][:3].copy()
    matrix = np.zeros(atac.shape, dtype=np.float32)
    matrix[0, 5], matrix[1, [5, 9]] = 1, 1
    matrix[2] = atac.X[2].toarray()
    atac.X = sp.csr_matrix(matrix)
    (piece,) = ep.tl.scan_knock_outs(atac, model, genes=GENES, peaks=atac.var_names[5])
    assert np.isnan(piece.change[0]).all()
    assert np.isfinite(piece.change[1:]).all()
    out = ep.tl.knock_out(atac, model, peaks=atac.var_names[5], genes=GENES)
    assert out.expression.isna().all(axis=1).tolist() == [True, False, False]
    np.testing.assert_allclose(out.expression.iloc[1], piece.change[1], atol=1e-5)


@pytest.mark.filterwarnings("ignore:Little in common")
@pytest.mark.parametrize("counted", [False, True])
def test_one_of_two_open_peaks(model, counted):
    """Half of the cell remains: the difference of sums has the digits of a new computation."""
    ids, offsets = np.array([3, 40]), np.array([0, 2])
    names = list(model.peaks.names[ids])
    atac = AnnData(sp.csr_matrix(np.ones((1, 2), np.float32)), var=pd.DataFrame(index=names))
    if counted:
        here = hash_tokens(ids, offsets, peak_keys(model.peaks))
        cells = {
            name: replace(each, hashes=np.sort([*each.hashes[1:], *here]))
            for name, each in model.cells.items()
        }
        model = replace(model, cells=cells)
    assert ("encoder" in model.known(ids, offsets)) == counted
    mapping = ep.PeakMapping(min_coverage=0)
    options = {"genes": GENES, "mapping": mapping}
    (piece,) = ep.tl.scan_knock_outs(atac, model, peaks=names[0], **options)
    whole = ep.tl.knock_out(atac, model, peaks=names[:1], **options)
    np.testing.assert_allclose(piece.change, whole.expression, atol=1e-5)


def test_bad_input_is_refused(simulated, model):
    atac = simulated["atac"][:5].copy()
    for options, match in (
        ({"peaks": "nonsense"}, "neither a peak of the data nor a region"),
        ({"peaks": atac.var_names[0], "genes": "gene999"}, "not among the 40 of the model"),
    ):
        with pytest.raises(ValueError, match=match):
            ep.tl.knock_out(atac, model, **options)
    with pytest.raises(ValueError, match="not among the 40 of the model"):
        ep.tl.scan_knock_outs(atac, model, genes="gene999")
    more = atac.copy()
    more.var = more.var.drop(columns=["chrom", "start", "end"])
    more.var_names = [*more.var_names[:-2], "chr9:1-500", "chr9:600-900"]
    with pytest.raises(ValueError, match="1 of the 1 peaks are not known to the model"):
        ep.tl.knock_out(more, model, peaks="chr9:1-500")
    with pytest.warns(UserWarning, match="1 of the 2 peaks are not known to the model"):
        ep.tl.knock_out(more, model, peaks=["chr9:1-500", more.var_names[0]])


def test_a_model_without_genes_changes_labels(simulated):
    atac = simulated["atac"]
    model = ep.tl.pretrain(
        atac, objective="peaks", config=ep.ModelConfig(dim=16), label_key="cell_type"
    )
    out = ep.tl.knock_out(atac[:20].copy(), model, peaks=atac.var_names[0])
    assert out.expression.shape == (20, 0)
    assert out.probabilities.shape == (20, 4)
    with pytest.raises(ValueError, match="predicts no expression"):
        ep.tl.knock_out(atac, model, peaks=atac.var_names[0], genes="gene0")


def test_the_summary_agrees_with_the_changes_of_each_group(simulated, model):
    atac = simulated["atac"].copy()
    atac.obs["group"] = atac.obs["cell_type"].astype(str).where(np.arange(400) > 9)
    peaks = list(atac.var_names[:3])
    out = ep.tl.knock_out(atac, model, peaks=peaks, genes=GENES, groupby="group")
    assert ep.tl.knock_out(atac[:9].copy(), model, peaks=peaks[0], genes=GENES).summary is None
    labels = [str(label) for label in model.labels]
    assert len(out.summary) == 4 * (len(GENES) + len(labels))
    for row in out.summary.itertuples():
        change = out.expression if row.kind == "expression" else out.probabilities
        here = (atac.obs["group"] == row.group).to_numpy()
        is_open = here & (out.n_removed > 0).to_numpy()
        values = change.loc[is_open, row.name].to_numpy(np.float64)
        assert (row.n_cells, row.n_open) == (here.sum(), is_open.sum())
        expected = [values.mean(), pd.Series(values).sem(), *np.quantile(values, [0.25, 0.5, 0.75])]
        found = [row.mean, row.sem, row.q25, row.median, row.q75]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


def test_summaries_of_files_and_of_groups_without_an_open_peak(simulated, model, tmp_path):
    atac = simulated["atac"][:60].copy()
    matrix = atac.X.toarray()
    kind = np.where(np.arange(60) < 20, "closed", np.where(np.arange(60) < 59, "open", "single"))
    atac.obs["kind"] = kind
    matrix[:, 5] = kind != "closed"
    matrix[30] = 0
    matrix[30, 5] = 1  # loses its last peak
    atac.X = sp.csr_matrix(matrix)
    options = {"peaks": atac.var_names[5], "genes": "gene3", "groupby": "kind"}
    table = ep.tl.knock_out(atac, model, **options).summary
    rows = table[table["kind"] == "expression"].set_index("group")
    assert rows["n_open"].to_dict() == {"closed": 0, "open": 39, "single": 1}
    assert rows.loc["closed", ["mean", "sem", "median"]].isna().all()
    assert np.isfinite(rows.loc["open", "mean"])
    assert np.isfinite(rows.loc["single", "mean"])
    assert np.isnan(rows.loc["single", "sem"])
    atac.write_h5ad(tmp_path / "x.h5ad")
    again = ep.tl.knock_out(tmp_path / "x.h5ad", model, **options).summary
    pd.testing.assert_frame_equal(again, table)
    for column, match in (("nothing", "`groupby='nothing'`"), ("empty", "missing for every cell")):
        atac.obs["empty"] = np.nan
        with pytest.raises(ValueError, match=match):
            ep.tl.knock_out(atac, model, **options | {"groupby": column})


def test_a_call_has_one_progress_bar(simulated, model, monkeypatch, capsys):
    monkeypatch.setattr(ep.settings, "progress", True)
    atac = simulated["atac"][:50].copy()
    ep.tl.knock_out(atac, model, peaks=atac.var_names[0], groupby="cell_type")
    assert capsys.readouterr().err.count("Knock-out:   0%") == 1
