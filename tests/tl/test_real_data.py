"""Real data, next to the checkout: peaks, names and types that the simulator does not make."""

import anndata
import mudata
import numpy as np
import pytest

import epifoundation as ep


@pytest.mark.filterwarnings("ignore:.*have no open peak that the model knows:UserWarning")
@pytest.mark.filterwarnings("ignore:Little in common:UserWarning")
def test_genome_wide_peaks_of_the_same_blood_map_onto_the_bundled_model(shared_data):
    mdata = mudata.read_h5mu(shared_data / "pbmc10k_100cells_hg38.h5mu")
    ep.tl.embed(mdata, "pbmc-51loci", mapping=ep.PeakMapping(min_coverage=0.01))
    atac, rna = mdata["atac"], mdata["rna"]
    report = atac.uns["epifoundation"]["peaks"]
    model = ep.models.from_pretrained("pbmc-51loci")
    overlapping = ep.genome.overlaps(ep.genome.read_intervals(atac.var), model.peaks.intervals)
    assert 0 < report["matched"] == len(np.unique(overlapping[:, 0])) < 200
    covered = atac.obs["epifoundation_coverage"] > 0
    assert covered.any()
    assert (np.isfinite(atac.obsm["X_epifoundation"]).all(axis=1) == covered).all()
    known = rna.var_names.isin(model.genes.names)
    assert np.isfinite(rna.layers["epifoundation"][covered.to_numpy()][:, known]).all()
    assert np.isnan(rna.layers["epifoundation"][:, ~known]).all()


@pytest.mark.slow
def test_bone_marrow_without_rna_separates_better_than_chance(shared_data, tmp_path):
    from sklearn.neighbors import KNeighborsClassifier

    atac = anndata.read_h5ad(shared_data / "granja_bmmc_atac_hg19.h5ad")[::10].copy()
    model = ep.tl.pretrain(atac, objective="peaks", genome="hg19")
    ep.tl.embed(atac, ep.models.from_pretrained(model.save_pretrained(tmp_path / "model")))
    X, y = atac.obsm["X_epifoundation"], atac.obs["cell_type"].astype(str).to_numpy()
    rows = np.arange(len(y)) % 4 > 0
    score = KNeighborsClassifier(15).fit(X[rows], y[rows]).score(X[~rows], y[~rows])
    assert score > 1.5 * max(np.unique(y, return_counts=True)[1]) / len(y)


def test_cortex_is_refused_by_a_model_of_human_blood(shared_data):
    atac = mudata.read_h5mu(shared_data / "snare_cortex_mm10.h5mu")["atac"][:20].copy()
    with pytest.raises(
        ValueError,
        match=r"The peaks are of mm10, the model is of hg38: 696 of 25,734.*another organism",
    ):
        ep.tl.embed(atac, "pbmc-51loci")
    assert not atac.obsm
    assert "epifoundation" not in atac.uns
