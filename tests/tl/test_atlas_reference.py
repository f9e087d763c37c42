"""RNA and markers with an atlas: planted populations, other tissues, and the bundled atlas."""

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

import epifoundation as ep
from epifoundation.nn import PROFILES, ModelConfig, Network, Sizes

KINDS, OTHERS = ["T", "B", "mono"], ["liver", "heart"]  # of sorted populations, of samples
N_EACH, N_GENES, N_WIDE = 60, 40, 40  # elements of a kind, genes, calibration cells


@pytest.fixture(scope="module")
def expression():
    """Fractions of the counts of each kind."""
    return np.random.default_rng(0).dirichlet(np.full(N_GENES, 0.4), len(KINDS))


@pytest.fixture(scope="module")
def atlas(expression):
    return atlas_with(expression, [0, 1, 2])


def atlas_with(expression, with_rna):
    """Each element is open in one population or sample; some populations have RNA."""
    n, n_sorted = len(KINDS) + len(OTHERS), len(KINDS)
    heads = {
        "profiles": n,
        "sorted_populations": n_sorted,
        "populations_with_rna": len(with_rna),
        "calibration_cells": N_WIDE,
    }
    sizes = Sizes(n * N_EACH, n_genes=N_GENES, n_labels=n, heads=heads)
    network = Network(ModelConfig(encoder=PROFILES, dim=n), sizes)
    state = network.state_dict()
    unit = torch.eye(n)
    state["encoder.vectors.codes"] = 128 + unit.repeat_interleave(N_EACH, dim=1).to(torch.uint8)
    state["encoder.loadings"] = 2 * unit
    for head in ("label", "expression"):
        state[f"{head}.populations.directions"] = unit
        state[f"{head}.populations.contrasts"] = 2 * unit[:, :n_sorted]
        state[f"{head}.populations.type_of"] = torch.tensor([-1] * n_sorted + [0, 1])
    state["label.label_of"] = torch.arange(n_sorted)
    state["label.novelty"] = torch.linspace(0, 0.8, N_WIDE)
    means = np.log1p(1e4 * expression[with_rna])
    state["expression.mean"] = torch.from_numpy(means.astype(np.float32))
    state["expression.sorted_of"] = torch.tensor(with_rna)
    network.load_state_dict(state)
    start = np.arange(n * N_EACH) * 1_000
    intervals = pd.DataFrame({"chrom": "chr1", "start": start, "end": start + 300})
    genes = ep.GeneVocabulary([f"GENE{i}" for i in range(N_GENES)])
    peaks = ep.PeakVocabulary(intervals, "hg38", is_atlas=True)
    network.eval().requires_grad_(False)
    return ep.EpiFoundation(network, peaks, genes, [*KINDS, *OTHERS], name="small")


@pytest.fixture(scope="module")
def reference(expression):
    """Counts of cells of the three kinds of very different depth."""
    rng = np.random.default_rng(1)
    codes = rng.integers(len(KINDS), size=150)
    depth = rng.lognormal(5.5, 0.7, (150, 1))
    counts = sp.csr_matrix(rng.poisson(depth * expression[codes]).astype(np.float32))
    obs = pd.DataFrame({"cell_type": [f"{KINDS[i]} cell" for i in codes]})
    obs.index = obs.index.astype(str)
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(N_GENES)])
    return AnnData(counts, obs=obs, var=var)


@pytest.fixture
def query(atlas):
    """Cells of all kinds and of other tissues, of 20 to 60 open elements, 80 % of their own."""
    rng = np.random.default_rng(2)
    names = np.array([*KINDS, *OTHERS])
    codes = rng.integers(len(names), size=200)
    X = np.zeros((200, len(atlas.peaks)), np.float32)
    for row, code in zip(X, codes, strict=True):
        n = rng.integers(20, 61)
        own = rng.integers(N_EACH, size=n) + code * N_EACH
        row[np.where(rng.random(n) < 0.8, own, rng.integers(len(row), size=n))] = 1
    obs = pd.DataFrame({"kind": names[codes]}, index=[f"q{i}" for i in range(200)])
    return AnnData(sp.csr_matrix(X), obs=obs, var=pd.DataFrame(index=atlas.peaks.names))


def labels_of(query, model, reference, **options):
    found = ep.tl.annotate(query, model, reference=reference, copy=True, **options)
    return found.obs["epifoundation_cell_type"].astype(str).to_numpy(), found


def markers_of(expression, n=4):
    """The genes that stand out most in each kind."""
    order = np.argsort(expression.mean(axis=0) - expression, axis=1)[:, :n]
    return {
        f"{kind} cell": [f"GENE{i}" for i in row] for kind, row in zip(KINDS, order, strict=True)
    }


def expected(query):
    kinds = query.obs["kind"].to_numpy(str)
    return np.where(np.isin(kinds, KINDS), np.char.add(kinds, " cell"), "unknown")


def test_labels_of_rna(atlas, reference, query):
    before = reference.copy()
    labels, found = labels_of(query, atlas, reference, label_key="cell_type")
    assert (labels == expected(query)).mean() > 0.95
    report = found.uns["epifoundation_annotation"]
    assert report["reference"] == "RNA"
    assert report["labels"] == ["B cell", "T cell", "mono cell", "unknown"]
    assert report["reference_cells"] + report["calibration_cells"] == 150
    table = ep.get.probabilities(found).to_numpy()
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-5)
    inside = expected(query) != "unknown"
    sets = found.obs["epifoundation_set"].to_numpy()
    assert ep.metrics.conformal_coverage(expected(query)[inside], sets[inside])[0] > 0.85
    pd.testing.assert_frame_equal(reference.obs, before.obs)
    assert (reference.X != before.X).nnz == 0


def test_labels_of_markers(atlas, expression, query):
    labels, found = labels_of(query, atlas, markers_of(expression))
    assert (labels == expected(query)).mean() > 0.95
    table = found.uns["epifoundation_annotation"]["markers"]
    assert (table["contribution"] > 0).all()


def test_a_population_without_cells_in_the_reference_is_unknown(atlas, reference, query):
    part = reference[reference.obs["cell_type"] != "B cell"].copy()
    labels, _ = labels_of(query, atlas, part, label_key="cell_type")
    is_left_out = (query.obs["kind"] == "B").to_numpy()
    assert (labels[is_left_out] == "unknown").mean() > 0.9
    assert (labels == expected(query))[~is_left_out].mean() > 0.9


def test_a_population_without_rna_is_unknown(expression, reference, query):
    part = reference[reference.obs["cell_type"] != "mono cell"].copy()
    labels, _ = labels_of(query, atlas_with(expression, [0, 1]), part, label_key="cell_type")
    is_mono = (query.obs["kind"] == "mono").to_numpy()
    assert (labels[is_mono] == "unknown").mean() > 0.9
    assert (labels == expected(query))[~is_mono].mean() > 0.9


def test_labels_within_a_population_have_the_frequencies_of_the_reference(atlas, reference, query):
    """A third of the T cells has another label: it cannot be told apart, only counted."""
    other = reference.copy()
    is_t = np.flatnonzero(other.obs["cell_type"] == "T cell")
    labels = other.obs["cell_type"].to_numpy(object, copy=True)
    labels[is_t[::3]] = "Treg"
    other.obs["cell_type"] = labels
    table = ep.get.probabilities(labels_of(query, atlas, other, label_key="cell_type")[1])
    of_t = table[(query.obs["kind"] == "T").to_numpy()].mean()
    assert of_t["Treg"] / (of_t["Treg"] + of_t["T cell"]) == pytest.approx(1 / 3, abs=0.05)


def test_the_label_of_a_cell_does_not_depend_on_the_others(atlas, reference, query):
    options = {"label_key": "cell_type"}
    every = labels_of(query, atlas, reference, **options)[1].obsm["epifoundation_probabilities"]
    some = labels_of(query[50:57].copy(), atlas, reference, **options)[1]
    found = some.obsm["epifoundation_probabilities"]
    np.testing.assert_allclose(found, every[50:57], rtol=1e-4, atol=1e-6)


def test_identifiers_are_no_names_of_an_atlas_with_symbols(atlas, reference, query):
    other = reference.copy()
    other.var_names = [f"ENSG{i:011d}" for i in range(N_GENES)]
    with pytest.raises(ValueError, match=r"are genes of the model 'small'.*Use gene symbols as"):
        ep.tl.annotate(query, atlas, reference=other, label_key="cell_type")
    with pytest.raises(ValueError, match=r"among the 40 genes .*Use gene symbols of the species"):
        ep.tl.annotate(query, atlas, reference={"a": ["ENSG00000000001"], "b": ["GENE1"]})
    assert not query.uns


def test_colours_of_the_reference_are_kept(atlas, reference, query):
    other = reference.copy()
    other.obs["cell_type"] = other.obs["cell_type"].astype("category")
    other.uns["cell_type_colors"] = ["#111111", "#222222", "#333333"]
    found = labels_of(query, atlas, other, label_key="cell_type")[1]
    colors = found.uns["epifoundation_annotation"]["colors"]
    assert list(colors) == ["#111111", "#222222", "#333333", "#d3d3d3"]


def test_an_atlas_whose_labels_were_replaced_is_refused(atlas, expression, query):
    tuned = atlas.network.with_sizes(atlas.network.sizes.updated({"n_labels": 0}), {})
    other = ep.EpiFoundation(tuned, atlas.peaks, atlas.genes, [])
    with pytest.raises(ValueError, match="were replaced, and a reference of markers needs them"):
        ep.tl.annotate(query, other, reference=markers_of(expression))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*have no open peak that the model knows:UserWarning")
def test_rna_of_blood_with_the_bundled_atlas(shared_data):
    """The labels of 86 cells by their RNA, for 1,000 other cells by open peaks of 51 loci."""
    known = mudata.read_h5mu(shared_data / "pbmc10k_100cells_hg38.h5mu")["rna"]
    lineage = {"CD4": "T", "CD8": "T", "NK": "NK", "Mono": "mono", " B": "B"}

    def lineages(obs):
        return [
            next((kind for part, kind in lineage.items() if part in str(label)), None)
            for label in obs["cell_type"]
        ]

    reference = AnnData(known.X, obs=known.obs[["cell_type"]], var=known.var)
    reference.obs["lineage"] = lineages(reference.obs)
    query = mudata.read_h5mu(shared_data / "pbmc10k_51loci_hg38.h5mu")["atac"]
    query = query[~query.obs_names.isin(known.obs_names)][:1000].copy()
    true = pd.Series(lineages(query.obs), index=query.obs_names)
    ep.tl.annotate(query, reference=reference, label_key="lineage")
    found = query.obs["epifoundation_cell_type"].astype(str)
    called = true.notna() & (found != "unknown")
    assert called.mean() > 0.5
    assert (found == true)[called].mean() > 0.8
