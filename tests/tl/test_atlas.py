"""The bundled atlas: labels, lineages and expression of cells that are drawn from its profiles."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from small_atlas import draw, make

import epifoundation as ep

COLUMNS = ["cell_type", "confidence", "lineage", "lineage_confidence", "resolved", "ontology_id"]


@pytest.fixture(scope="module")
def atlas():
    return ep.models.from_pretrained("human-atlas")


@pytest.fixture(scope="module")
def drawn(atlas):
    """Cells with 800 open elements of profiles, 15 % of them at random."""
    rng = np.random.default_rng(0)
    names = ["Mono", "B", "CD4", "Ery", "K562_UwDuke", "E003", "Hmvecdad_UW", "Hepg2_UwDuke"]
    expected = ["monocyte", "B", "CD4 T", "erythroid", "K562", "pluripotent stem cell"]
    expected += ["endothelial cell", "hepatoma line"]
    some = np.sort(rng.choice(len(atlas.peaks), 200_000, replace=False))
    levels = atlas.network.encoder.levels(torch.from_numpy(some)).numpy()
    profiles = [atlas.training["profiles"].index(name) for name in names]
    atac = draw(levels[:, profiles], np.repeat(np.arange(len(names)), 10), 800, rng, 0.15)
    atac.var_names = atlas.peaks.names[some]
    atac.obs["expected"] = [expected[i] for i in atac.obs["profile"]]
    return atac


def test_cells_of_a_profile_get_its_label_lineage_and_identifier(atlas, drawn):
    atac = ep.tl.annotate(drawn, copy=True)
    assert atac.uns["epifoundation"]["model"] == "human-atlas"
    obs = atac.obs.rename(columns=lambda name: name.removeprefix("epifoundation_"))
    right = obs["cell_type"].astype(str) == obs["expected"]
    assert right.groupby(obs["expected"]).mean().min() >= 0.7
    assert right.mean() > 0.9
    table = ep.get.probabilities(atac)
    of_label = pd.Series(dict(atlas.lineages))[table.columns].to_numpy()
    by_lineage = table.T.groupby(of_label).sum().T
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(obs["lineage_confidence"], by_lineage.max(axis=1), atol=1e-5)
    known = obs["cell_type"].astype(str) != "unknown"
    assert (obs["lineage"].astype(str) == by_lineage.idxmax(axis=1))[known].all()
    assert (obs["ontology_id"][obs["cell_type"] == "B"] == "CL:0000236").all()
    assert obs["ontology_id"][obs["cell_type"] == "K562"].isna().all()  # a cell line


def test_the_finest_probable_level_is_resolved(drawn):
    model, table = make()
    rng = np.random.default_rng(0)
    atac = draw(table, rng.integers(0, 6, 200), 6, rng, background=0.5)
    ep.tl.annotate(atac, model, unknown=0.2)
    obs = atac.obs.rename(columns=lambda name: name.removeprefix("epifoundation_"))
    expected = np.where(obs["lineage_confidence"] >= 0.5, obs["lineage"].astype(str), "unknown")
    expected = np.where(obs["confidence"] >= 0.5, obs["cell_type"].astype(str), expected)
    expected = np.where(obs["cell_type"] == "unknown", "unknown", expected)
    assert (obs["resolved"].astype(str) == expected).all()
    assert set(obs["resolved"]) >= {"unknown", "blood", "A"}
    number = atac.uns["epifoundation_annotation"]["n_unknown"]
    assert number == (obs["cell_type"] == "unknown").sum() > 0


def test_a_label_depends_on_its_cell_alone(drawn, tmp_path):
    whole = ep.tl.annotate(drawn, copy=True)
    order = np.random.default_rng(1).permutation(drawn.n_obs)
    part = drawn[order[:30]].copy()
    ep.tl.annotate(part)
    path = tmp_path / "cells.h5ad"
    drawn.write_h5ad(path)
    ep.tl.annotate(path)
    stored = ep.tl.annotate(drawn, output=tmp_path / "out.zarr")
    for name in ("probabilities",):
        expected = ep.get.probabilities(whole).to_numpy()
        np.testing.assert_allclose(ep.get.probabilities(part), expected[order[:30]], atol=1e-5)
        for place in (path, stored):
            np.testing.assert_allclose(ep.get.probabilities(place), expected, atol=1e-5), name
    for name in COLUMNS:
        key = f"epifoundation_{name}"
        assert key in part.obs


def test_later_results_replace_those_of_the_atlas(drawn, simulated, model):
    model_, table = make()
    atac = draw(table, [0, 1, 2], 60, np.random.default_rng(0))
    ep.tl.annotate(atac, model_)
    plain = ep.tl.pretrain(
        draw(table, np.repeat([0, 2], 40), 60, np.random.default_rng(1)),
        objective="peaks",
        label_key="profile",
        config=ep.ModelConfig(dim=4),
        validation=0.25,
        prior=None,
    )
    ep.tl.embed(atac, plain)
    for name in ("lineage", "lineage_confidence", "resolved", "ontology_id"):
        assert f"epifoundation_{name}" not in atac.obs


def test_expression_is_predicted_for_blood_alone(drawn):
    atac = ep.tl.embed(drawn, copy=True)
    with pytest.warns(UserWarning, match="or they are unlike all populations"):
        ep.get.expression(atac)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predicted = ep.get.expression(atac).to_df()
    is_blood = atac.obs["expected"].isin(["monocyte", "B", "CD4 T", "erythroid"]).to_numpy()
    is_known = predicted.notna().all(axis=1).to_numpy()
    assert predicted[~is_known].isna().all(axis=None)
    assert is_known[is_blood].mean() > 0.8
    assert is_known[~is_blood].mean() < 0.1
    means = predicted.groupby(atac.obs["expected"]).mean()
    for gene, kind in (
        ("LYZ", "monocyte"),
        ("MS4A1", "B"),
        ("CD3E", "CD4 T"),
        ("GYPA", "erythroid"),
    ):
        assert means[gene].idxmax() == kind


def test_few_open_peaks_and_random_ones_are_unknown(atlas):
    rng = np.random.default_rng(0)
    rows = [rng.choice(len(atlas.peaks), size=n, replace=False) for n in [5] * 40 + [300] * 40]
    used = np.unique(np.concatenate(rows))
    lengths = [len(row) for row in rows]
    columns = np.searchsorted(used, np.concatenate(rows))
    matrix = sp.csr_matrix((np.ones(sum(lengths)), (np.repeat(np.arange(80), lengths), columns)))
    atac = AnnData(matrix, var=pd.DataFrame(index=atlas.peaks.names[used]))
    ep.tl.annotate(atac)
    is_unknown = (atac.obs["epifoundation_cell_type"] == "unknown").to_numpy()
    assert is_unknown[:40].mean() > 0.6
    assert is_unknown[40:].mean() > 0.9
    assert (atac.obs["epifoundation_resolved"][40:] == "unknown").mean() > 0.9


@pytest.mark.parametrize(
    ("chrom", "first", "match"),
    [
        (
            "chr17",
            90_000_000,
            r"The peaks are of mm.*pretrain on your own cells with `ep.tl.pretrain`",
        ),
        ("chr1", 249_000_000, r"The peaks are of hg19.*PeakMapping\(liftover=\.\.\.\)"),
    ],
)
def test_other_genomes_are_refused_with_the_cure(chrom, first, match):
    """Peaks past the end of the chromosome in hg38, but not in another genome."""
    start = first + 1000 * np.arange(150)
    names = [f"{chrom}:{left}-{left + 500}" for left in start]
    names += [f"chr2:{left}-{left + 500}" for left in 20_000_000 + 3000 * np.arange(500)]
    atac = AnnData(sp.csr_matrix(np.ones((3, len(names)))), var=pd.DataFrame(index=names))
    before = atac.copy()
    with pytest.raises(ValueError, match=match):
        ep.tl.annotate(atac)
    assert list(atac.obs) == list(before.obs)


def test_the_bundled_atlas_is_what_its_table_says(atlas):
    row = ep.models.available().loc["human-atlas"]
    sizes = len(atlas.peaks), len(atlas.genes), len(atlas.labels)
    assert (row["peaks"], row["genes"], row["labels"]) == sizes
    first = ["HSC", "MPP", "LMPP", "CMP", "CLP", "MEP", "GMP", "megakaryocyte", "erythroid"]
    first += ["monocyte", "mDC", "pDC", "B", "CD4 T", "CD8 T", "NK"]
    assert atlas.labels[:16] == first
    assert set(first) <= set(atlas.ontology)
    assert set(atlas.lineages) == set(atlas.labels)
    assert all(re.fullmatch(r"CL:\d{7}", each) for each in atlas.ontology.values())
    assert len(set(atlas.ontology.values())) == len(atlas.ontology)
    assert len(atlas.training["profiles"]) == 182
    for source in ("10.1038/nature11247", "10.1038/nature14248", "10.1038/ng.3646", "GSE74912"):
        assert source in atlas.card


def test_lineages_and_identifiers_are_saved_checked_and_part_of_the_revision(tmp_path):
    model, _ = make()
    again = ep.models.from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert (again.lineages, again.ontology) == (model.lineages, model.ontology)
    assert again.revision == model.revision
    assert again.peaks.is_atlas
    others, _ = make()
    renamed = {**others.lineages, "A": "other"}
    assert replaced(others, lineages=renamed).revision != model.revision
    for options, match in (
        ({"lineages": {"A": "x"}}, r"`lineages` lacks \['B', 'liver', 'K1'\]"),
        ({"lineages": {"C": "x"}}, r"`lineages` has \['C'\], which are not labels"),
        ({"ontology": {"A": 3}}, "`ontology` must be a dictionary of strings"),
        ({"ontology": ["A"]}, "`ontology` must be a dictionary of strings"),
    ):
        with pytest.raises(ValueError, match=match):
            replaced(others, **options)


def replaced(model, **options):
    from dataclasses import replace

    return replace(model, **options)


@pytest.mark.slow
def test_the_bundled_atlas_comes_from_its_script(shared_data, tmp_path, monkeypatch):
    import importlib.util
    import sys
    from pathlib import Path

    folder = Path(__file__).parents[2] / "scripts" / "atlas"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(
        sys, "argv", ["build.py", str(shared_data.parent), "--output", str(tmp_path / "made")]
    )
    spec = importlib.util.spec_from_file_location("build_atlas", folder / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()
    made = ep.models.from_pretrained(tmp_path / "made")
    bundled = ep.models.from_pretrained("human-atlas")
    assert made.peaks.same_as(bundled.peaks.intervals)
    assert (made.labels, made.genes.names) == (bundled.labels, bundled.genes.names)
    a, b = made.network.state_dict(), bundled.network.state_dict()
    assert a.keys() == b.keys()
    for name in a:  # linear algebra rounds differently on other machines
        close = np.isclose(
            a[name].double(),
            b[name].double(),
            rtol=1e-3,
            atol=1e-3 + (a[name].dtype == torch.uint8),
        )
        assert close.mean() > 0.999, name
