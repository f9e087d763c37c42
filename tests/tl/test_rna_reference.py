"""A reference of cells with RNA only: planted types, other technology, and what bad input gets."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import epifoundation as ep

OPTIONS = {"label_key": "cell_type", "batch_key": "batch"}


@pytest.fixture(scope="module")
def planted():
    """RNA of one batch with labels, ATAC of another, and a model of a third without labels."""
    mdata = ep.datasets.simulate_multiome(
        1500, 800, 80, n_types=4, n_batches=3, median_fragments=40, rng=5
    )
    batch = mdata.obs["batch"].astype(str)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ep.tl.pretrain(
            mdata[batch == "batch0"].copy(), config=ep.ModelConfig(dim=32), genome="hg38"
        )
    reference = mdata[batch == "batch1"]["rna"].copy()
    obs = mdata[batch == "batch1"].obs
    reference.obs = obs[["cell_type"]].assign(batch=np.arange(len(obs)) % 4)
    return reference, mdata[batch == "batch2"]["atac"].copy(), model


def accuracy(query, model, reference, **options):
    found = ep.tl.annotate(
        query, model, reference=reference, unknown=0, copy=True, **OPTIONS | options
    )
    true = query.obs["cell_type"].astype(str)
    return ep.metrics.accuracy(true, found.obs["epifoundation_cell_type"].astype(str)), found


def test_types_of_another_batch_by_rna(planted):
    reference, query, model = planted
    before = reference.copy()
    score, found = accuracy(query, model, reference, calibration=["3"])
    assert score > 0.9
    confidence = found.obs["epifoundation_confidence"]
    true, guess = (found.obs[name].astype(str) for name in ("cell_type", "epifoundation_cell_type"))
    assert ep.metrics.expected_calibration_error(true, guess, confidence) < 0.1
    assert ep.metrics.conformal_coverage(true, found.obs["epifoundation_set"])[0] > 0.85
    report = found.uns["epifoundation_annotation"]
    assert report["reference"] == "RNA"
    assert report["reference_values"] == "counts"
    assert report["reference_genes"] == 80
    assert report["calibration_cells"] == (reference.obs["batch"] == 3).sum()
    assert report["reference_cells"] + report["calibration_cells"] == reference.n_obs
    assert report["labels"] == ["type0", "type1", "type2", "type3"]
    pd.testing.assert_frame_equal(reference.obs, before.obs)
    assert (reference.X != before.X).nnz == 0


def test_shuffled_labels_tell_nothing(planted):
    """Each type gets a label by chance; confidence is the frequency of a label."""
    reference, query, model = planted
    shuffled, scores, confidence = reference.copy(), [], []
    labels = reference.obs["cell_type"].to_numpy()
    for seed in range(4):
        shuffled.obs["cell_type"] = np.random.default_rng(seed).permutation(labels)
        score, found = accuracy(query, model, shuffled)
        scores.append(score)
        confidence.append(found.obs["epifoundation_confidence"].mean())
    assert np.mean(scores) < 0.6
    assert np.mean(confidence) < 0.45


def test_another_technology(planted):
    """Genes are captured at other rates, a third of the genes is missing, and cells are deeper."""
    reference, query, model = planted
    rng = np.random.default_rng(0)
    other = reference[:, rng.permutation(reference.n_vars)[:55]].copy()
    counts = other.X.toarray() * np.exp(rng.normal(0, 1.5, other.n_vars)) * 5
    other.X = sp.csr_matrix(rng.poisson(counts).astype(np.float32))
    assert accuracy(query, model, other)[0] > 0.85


@pytest.mark.parametrize("base", ["log1p", "log2", "linear"])
def test_normalised_values_are_read_as_the_counts_that_they_were(planted, base):
    reference, query, model = planted
    counts = reference.X.toarray()
    values = 1e4 * counts / counts.sum(axis=1, keepdims=True)
    change = {"log1p": np.log1p, "log2": lambda x: np.log2(x + 1), "linear": lambda x: x}
    other = reference.copy()
    other.X = sp.csr_matrix(change[base](values).astype(np.float32))
    found = [accuracy(query, model, each)[1] for each in (reference, other)]
    one, two = (each.obsm["epifoundation_probabilities"] for each in found)
    assert found[1].uns["epifoundation_annotation"]["reference_values"] != "counts"
    # A cell whose smallest count is 2 is read as half as deep
    assert np.abs(one - two).mean(axis=None) < 0.05


def test_the_label_of_a_cell_does_not_depend_on_the_others(planted):
    reference, query, model = planted
    every = accuracy(query, model, reference)[1]
    some = accuracy(query[100:107].copy(), model, reference)[1]
    for name in ("epifoundation_confidence", "epifoundation_novelty"):
        np.testing.assert_allclose(some.obs[name], every.obs[name][100:107], rtol=1e-4, atol=1e-5)


def test_a_type_that_the_reference_lacks_is_novel(planted):
    from sklearn.metrics import roc_auc_score

    reference, query, model = planted
    part = reference[reference.obs["cell_type"] != "type2"].copy()
    found = accuracy(query, model, part)[1]
    is_new = query.obs["cell_type"] == "type2"
    assert roc_auc_score(is_new, found.obs["epifoundation_novelty"]) > 0.8


def test_files_give_the_labels_of_objects(planted, tmp_path):
    reference, query, model = planted
    reference.write_h5ad(tmp_path / "rna.h5ad")
    query.write_h5ad(tmp_path / "query.h5ad")
    ep.tl.annotate(
        tmp_path / "query.h5ad",
        model,
        reference=tmp_path / "rna.h5ad",
        output=tmp_path / "out.h5ad",
        **OPTIONS,
    )
    import anndata

    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    expected = ep.tl.annotate(query, model, reference=reference, copy=True, **OPTIONS)
    assert (found.obs["epifoundation_cell_type"] == expected.obs["epifoundation_cell_type"]).all()
    # Two halves as two sources
    halves = [reference[::2].copy(), reference[1::2].copy()]
    assert accuracy(query, model, halves)[0] > 0.9


def test_another_reference_is_another_run(planted, tmp_path):
    reference, query, model = planted
    query.write_h5ad(tmp_path / "query.h5ad")
    arguments = {"output": tmp_path / "out.h5ad", **OPTIONS}
    ep.tl.annotate(tmp_path / "query.h5ad", model, reference=reference, **arguments)
    changed = reference.copy()
    changed.X.data[0] += 1000
    with pytest.raises(FileExistsError):
        ep.tl.annotate(tmp_path / "query.h5ad", model, reference=changed, **arguments)


def test_genes_by_identifier_without_version(planted):
    from dataclasses import replace

    reference, query, model = planted
    ids = [f"ENSG{i:011d}" for i in range(80)]
    with_ids = replace(model, genes=ep.GeneVocabulary(model.genes.names, [f"{i}.3" for i in ids]))
    other = reference.copy()
    other.var_names = [f"{i}.12" for i in ids]
    expected = accuracy(query, model, reference)[1].obsm["epifoundation_probabilities"]
    found = accuracy(query, with_ids, other)[1].obsm["epifoundation_probabilities"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    by_column = other.copy()
    by_column.var["gene_symbols"] = list(reference.var_names)
    found = accuracy(query, model, by_column)[1].obsm["epifoundation_probabilities"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def scaled(adata):
    adata.X = adata.X.toarray() - 1


def smoothed(adata):
    adata.X = sp.csr_matrix(adata.X.toarray() * np.random.default_rng(0).random(adata.shape))


def renamed(adata):
    adata.var = adata.var[[]]
    adata.var_names = [f"other{i}" for i in range(adata.n_vars)]


def in_lower_case(adata):
    adata.var_names = adata.var_names.str.swapcase()


def one_label(adata):
    adata.obs["cell_type"] = "T"


def without_labels(adata):
    del adata.obs["cell_type"]


def missing(adata):
    adata.obs["cell_type"] = np.nan


def copies(adata):
    adata.var_names = ["A", *adata.var_names[1:-1], "A"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scaled, "negative values, as after scaling: pass raw counts"),
        (smoothed, "neither counts nor normalised counts: pass raw counts"),
        (renamed, "0 of the 80 features of the reference are genes of the model"),
        (in_lower_case, "but for the case of letters, as in another species"),
        (one_label, "two labels or more"),
        (without_labels, "`label_key='cell_type'` is not a column of `obs`"),
        (missing, "two labels or more"),
        (copies, "Duplicate"),
    ],
)
def test_bad_references(planted, change, message):
    reference, query, model = planted
    reference, query = reference.copy(), query.copy()
    change(reference)
    with pytest.raises(ValueError, match=message):
        ep.tl.annotate(query, model, reference=reference, label_key="cell_type")
    assert not query.uns
    assert not query.obsm


def test_a_model_without_genes(planted):
    reference, query, _ = planted
    alone = ep.tl.pretrain(query, config=ep.ModelConfig(dim=16, objective="peaks"), genome="hg38")
    reference = AnnData(reference.X, obs=reference.obs, var=reference.var[[]])
    with pytest.raises(ValueError, match="it learned from ATAC alone.*Pass a reference with ATAC"):
        ep.tl.annotate(query, alone, reference=reference, label_key="cell_type")


def test_a_model_of_values_needs_values_on_its_scale():
    pbmc = ep.datasets.pbmc_multiome()
    train = (pbmc.obs["split"] == "train").to_numpy()
    reference, query = pbmc[train]["rna"].copy(), pbmc[~train]["atac"].copy()
    reference.obs["cell_type"] = pbmc.obs["cell_type"][train].to_numpy()
    found = ep.tl.annotate(
        query, "pbmc-51loci", reference=reference, label_key="cell_type", unknown=0, copy=True
    )
    known = query.X.getnnz(axis=1) > 0
    true = pbmc.obs["cell_type"][~train].astype(str).to_numpy()[known]
    guess = found.obs["epifoundation_cell_type"].astype(str).to_numpy()[known]
    assert ep.metrics.accuracy(true, guess) > 0.55
    wrong = reference.copy()
    wrong.X = wrong.X * 50
    with pytest.raises(ValueError, match="it learned values, not counts"):
        ep.tl.annotate(query, "pbmc-51loci", reference=wrong, label_key="cell_type")


def test_peaks_with_unreadable_names_are_not_taken_for_genes(planted):
    _, query, model = planted
    intervals = ep.genome.parse_intervals(query.var_names)
    var = intervals.rename(columns={"chrom": "chr"}).set_index("peak" + intervals.index.astype(str))
    other = AnnData(query.X, obs=query.obs.copy(), var=var)
    with pytest.raises(ValueError, match="may have them"):
        ep.tl.annotate(query, model, reference=other, label_key="cell_type")
