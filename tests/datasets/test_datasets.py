"""The simulator follows its truth, and the bundled data are as documented."""

import gzip
from importlib.resources import files

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

import epifoundation as ep


def test_sizes_names_and_truth(simulated):
    atac, rna, truth = simulated["atac"], simulated["rna"], simulated.uns["truth"]
    assert atac.shape == (400, 600)
    assert rna.shape == (400, 40)
    assert sp.issparse(atac.X)
    assert atac.X.format == rna.X.format == "csr"
    intervals = ep.genome.parse_intervals(atac.var_names)
    assert (intervals.to_numpy() == atac.var[["chrom", "start", "end"]].to_numpy()).all()
    links = truth["links"]
    assert set(links["peak"]) <= set(atac.var_names)
    assert set(links["gene"]) == set(rna.var_names)
    distance = (
        atac.var.loc[links["peak"], "start"].to_numpy()
        - rna.var.loc[links["gene"], "start"].to_numpy()
    )
    assert (
        np.abs(distance).max() <= 50_000 * 10
    )  # a peak may lie on the next chromosome of a small genome
    assert truth["second_fraction"].max() <= 1


def test_results_depend_on_the_seed_and_not_on_chunks():
    a, b = (ep.datasets.simulate_multiome(60, 300, 10, rng=7) for _ in range(2))
    assert (a["atac"].X != b["atac"].X).nnz == (a["rna"].X != b["rna"].X).nnz == 0
    other = ep.datasets.simulate_multiome(60, 300, 10, rng=8)
    assert (a["atac"].X != other["atac"].X).nnz > 0


def test_types_and_batches_differ_and_depth_is_as_requested():
    mdata = ep.datasets.simulate_multiome(
        600, 1000, 50, n_types=3, median_fragments=200, median_counts=800, rng=0
    )
    assert np.median(mdata["atac"].X.sum(axis=1).A1) == pytest.approx(200, rel=0.1)
    assert np.median(mdata["rna"].X.sum(axis=1).A1) == pytest.approx(800, rel=0.1)
    profile = mdata["atac"].X.toarray() / mdata["atac"].X.sum(axis=1).A1[:, None]
    mean = {
        key: {
            v: profile[(mdata["atac"].obs[key] == v).to_numpy()].mean(axis=0)
            for v in mdata["atac"].obs[key].unique()
        }
        for key in ("cell_type", "batch")
    }
    types, batches = list(mean["cell_type"].values()), list(mean["batch"].values())
    assert np.corrcoef(types[0], types[1])[0, 1] < np.corrcoef(batches[0], batches[1])[0, 1] < 0.99


def test_types_of_unequal_size():
    weights = np.array([8.0, 2.0, 1.0])
    mdata = ep.datasets.simulate_multiome(2000, 60, 5, n_types=3, type_weights=weights, rng=0)
    counts = mdata.obs["cell_type"].value_counts()
    np.testing.assert_allclose(
        [counts[f"type{i}"] / 2000 for i in range(3)], weights / 11, atol=0.04
    )
    np.testing.assert_array_equal(weights, [8, 2, 1])
    for wrong in ([1, 2], [1, 0, 1], [1, np.nan, 1], 3):
        with pytest.raises(ValueError, match="`type_weights` must be 3 positive numbers"):
            ep.datasets.simulate_multiome(20, 60, 5, n_types=3, type_weights=wrong)


def test_linked_genes_follow_their_peaks_cell_by_cell():
    mdata = ep.datasets.simulate_multiome(
        3000, 400, 40, n_types=3, batch_effect=0.0, median_fragments=400, rng=2
    )
    kind = mdata["atac"].obs["cell_type"].cat.codes.to_numpy()
    is_open, counts = mdata["atac"].X.toarray() > 0, mdata["rna"].X.toarray()
    share = counts / counts.sum(axis=1, keepdims=True)

    def effects(links):
        """Log ratio of expression with the peak open and without, within cell types."""
        for peak, gene in zip(links["peak"], links["gene"], strict=True):
            p, g = mdata["atac"].var_names.get_loc(peak), mdata["rna"].var_names.get_loc(gene)
            ratios = [
                np.log(
                    (share[cells & is_open[:, p], g].mean() + 1e-6)
                    / (share[cells & ~is_open[:, p], g].mean() + 1e-6)
                )
                for cells in (kind == k for k in range(3))
                if 30 < is_open[cells, p].sum() < cells.sum() - 30
            ]
            yield np.mean(ratios) if ratios else np.nan

    links = mdata.uns["truth"]["links"]
    found = np.array(list(effects(links)))
    assert np.nanmean(np.sign(found) == np.sign(links["effect"])) > 0.8
    # Open peaks without a fragment pass for closed ones, so less is seen than there is.
    assert 0.15 < np.nanmean(found / links["effect"]) < 1
    shuffled = np.array(list(effects(links.assign(gene=np.roll(links["gene"], 11)))))
    assert abs(np.nanmean(shuffled)) < 0.05


@pytest.mark.parametrize(
    "name", ["n_cells", "n_peaks", "n_genes", "n_types", "n_batches", "median_fragments"]
)
def test_impossible_sizes_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be an integer of at least 1, got 0"):
        ep.datasets.simulate_multiome(**{name: 0})


def test_the_bundled_multiome_is_real_small_and_attributed():
    mdata = ep.datasets.pbmc_multiome()
    assert mdata["atac"].shape == (5000, 5724)
    assert mdata["rna"].shape == (5000, 51)
    assert "CC BY 4.0" in mdata.uns["provenance"]
    assert mdata.obs["split"].value_counts(normalize=True)["test"] == pytest.approx(0.25, abs=0.02)
    assert mdata.obs["cell_type"].nunique() == 13
    assert (files("epifoundation.datasets") / "pbmc_multiome.h5mu").stat().st_size <= 3e6
    assert (mdata["atac"].X.data > 0).all()
    model = ep.models.from_pretrained("pbmc-51loci")
    assert (
        model.training["cells"] + model.training["validation_cells"]
        == (mdata.obs["split"] == "train").sum()
    )


def test_simulated_fragments_are_the_same_each_time_and_of_any_format(simulated, tmp_path):
    atac = simulated["atac"]
    first = ep.datasets.simulate_fragments(simulated, tmp_path / "a.tsv.gz", rng=3).read_bytes()
    atac.write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert (
        ep.datasets.simulate_fragments(backed, tmp_path / "b.tsv.gz", rng=3).read_bytes() == first
    )
    plain = ep.datasets.simulate_fragments(atac, str(tmp_path / "c.tsv"), rng=3).read_bytes()
    assert gzip.decompress(first) == plain
    lines = [line.split("\t") for line in plain.decode().splitlines()[1:]]
    places = [(chrom, int(start)) for chrom, start, *_ in lines]
    order = {chrom: i for i, chrom in enumerate(dict.fromkeys(chrom for chrom, _ in places))}
    assert places == sorted(places, key=lambda place: (order[place[0]], place[1]))
    with pytest.raises(ValueError, match="`background` must not be negative, got -1"):
        ep.datasets.simulate_fragments(atac, tmp_path / "d.tsv", background=-1)
    negative = atac.copy()
    negative.X.data[0] = -1
    with pytest.raises(ValueError, match="`X` must contain non-negative counts: found -1"):
        ep.datasets.simulate_fragments(negative, tmp_path / "d.tsv")
    assert not (tmp_path / "d.tsv").exists()
