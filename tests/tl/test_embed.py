"""``ep.tl.embed``: what is written, that it is the same every time, and what bad input gets."""

import subprocess
import sys
import warnings

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import epifoundation as ep

KEY = "X_epifoundation"


def embedding(data, model, **options):
    result = ep.tl.embed(data, model, copy=True, **options)
    return (result["atac"] if isinstance(result, mudata.MuData) else result).obsm[KEY]


def written(data):
    """Everything in an object that embed could have changed, as plain values."""
    parts = data.mod.items() if isinstance(data, mudata.MuData) else [("", data)]
    return {
        (name, field): sorted(map(str, getattr(part, field)))
        for name, part in parts
        for field in ("obs", "var", "obsm", "varm", "layers", "uns")
    }


@pytest.fixture(scope="module")
def expected(simulated, model):
    return embedding(simulated, model)


def test_everything_is_written(mdata, model):
    counts = mdata["atac"].X.copy()
    assert ep.tl.embed(mdata, model) is None
    atac, rna = mdata["atac"], mdata["rna"]
    assert atac.obsm[KEY].shape == (400, model.network.dim) == (400, 32 + 4)
    assert atac.obsm[KEY].dtype == rna.layers["epifoundation"].dtype == np.float32
    assert np.isfinite(atac.obsm[KEY]).all()
    probabilities = atac.obsm["epifoundation_probabilities"]
    assert list(probabilities.columns) == model.labels
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (atac.obs["epifoundation_cell_type"].astype(str) == probabilities.idxmax(axis=1)).all()
    np.testing.assert_array_equal(atac.obs["epifoundation_confidence"], probabilities.max(axis=1))
    np.testing.assert_allclose(np.expm1(rna.layers["epifoundation"]).sum(axis=1), 1e4, rtol=1e-4)
    assert "epifoundation_expression" not in atac.obsm
    report = atac.uns["epifoundation"]
    assert report["revision"] == model.revision
    assert report["peaks"]["matched"] == len(model.peaks)
    assert report["expression_scale"] == "log1p of counts per 10,000"
    assert (counts != atac.X).nnz == 0


def test_the_model_learned_what_was_planted(mdata, model):
    ep.tl.embed(mdata, model)
    atac = mdata["atac"]
    assert ep.metrics.accuracy(atac.obs["cell_type"], atac.obs["epifoundation_cell_type"]) > 0.9
    measured = np.log1p(mdata["rna"].X.toarray())
    assert ep.metrics.pearson_per_gene(measured, mdata["rna"].layers["epifoundation"]) > 0.3


def test_anndata_gets_expression_as_a_frame(mdata, model):
    both = ep.tl.embed(mdata, model, copy=True)
    atac = mdata["atac"].copy()
    ep.tl.embed(atac, model)
    frame = atac.obsm["epifoundation_expression"]
    assert list(frame.columns) == model.genes.names
    np.testing.assert_allclose(frame, both["rna"].layers["epifoundation"], rtol=1e-6)
    assert "epifoundation" not in mdata["rna"].layers


def test_copy_leaves_the_original_alone(mdata, model):
    before = written(mdata)
    result = ep.tl.embed(mdata, model, copy=True)
    assert written(mdata) == before
    assert KEY in result["atac"].obsm


def test_names_and_parts_can_be_chosen(mdata, model):
    ep.tl.embed(mdata, model, key_added="mine", expression=False, annotation=False)
    atac = mdata["atac"]
    assert "X_mine" in atac.obsm
    assert "mine" in atac.uns
    assert not [name for name in atac.obs if "cell_type" in name and name.startswith("mine")]
    assert "mine" not in mdata["rna"].layers
    assert not [name for name in (*atac.obs, *atac.obsm, *atac.uns) if "epifoundation" in name]


@pytest.mark.parametrize("kind", ["mudata", "anndata"])
def test_results_survive_the_disk(mdata, model, kind, tmp_path):
    data = mdata if kind == "mudata" else mdata["atac"].copy()
    data_path = tmp_path / ("a.h5mu" if kind == "mudata" else "a.h5ad")
    ep.tl.embed(data, model)
    (data.write_h5mu if kind == "mudata" else data.write_h5ad)(data_path)
    again = (
        mudata.read_h5mu(data_path)["atac"] if kind == "mudata" else anndata.read_h5ad(data_path)
    )
    atac = data["atac"] if kind == "mudata" else data
    np.testing.assert_array_equal(again.obsm[KEY], atac.obsm[KEY])
    assert again.uns["epifoundation"]["peaks"] == atac.uns["epifoundation"]["peaks"]
    assert list(again.obs["epifoundation_cell_type"]) == list(atac.obs["epifoundation_cell_type"])


# the same answer every time


@pytest.mark.parametrize("batch_size", [1, 7, 128, 399, 10_000])
def test_batch_size_does_not_matter(simulated, model, expected, batch_size):
    np.testing.assert_allclose(
        embedding(simulated, model, batch_size=batch_size), expected, atol=1e-5, rtol=0
    )
    bundled = ep.datasets.pbmc_multiome()["atac"][:100].copy()
    np.testing.assert_allclose(
        embedding(bundled, None, batch_size=batch_size), embedding(bundled, None), atol=1e-5, rtol=0
    )


def test_order_and_company_do_not_matter(simulated, model, expected):
    order = np.random.default_rng(0).permutation(simulated.n_obs)
    np.testing.assert_allclose(
        embedding(simulated[order].copy(), model), expected[order], atol=1e-5, rtol=0
    )
    np.testing.assert_allclose(
        embedding(simulated[order[:5]].copy(), model), expected[order[:5]], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    "form", ["dense", "csr", "csc", "csr_array", "int", "bool", "view", "unsorted", "read-only"]
)
def test_format_does_not_matter(simulated, model, expected, form):
    atac = simulated["atac"].copy()
    if form == "view":
        atac = simulated["atac"][:, :]
    elif form == "read-only":
        for array in (atac.X.data, atac.X.indices, atac.X.indptr):
            array.setflags(write=False)
    elif form == "unsorted":
        flipped = atac.X[:, ::-1].tocsr()
        flipped.indices = atac.n_vars - 1 - flipped.indices
        flipped.has_sorted_indices = False
        atac.X = flipped
    else:
        make = {
            "dense": lambda x: x.toarray(),
            "csr": sp.csr_matrix,
            "csc": sp.csc_matrix,
            "csr_array": sp.csr_array,
            "int": lambda x: x.astype(np.int32),
            "bool": lambda x: x.astype(bool),
        }[form]
        atac.X = make(atac.X)
    np.testing.assert_array_equal(embedding(atac, model), expected)


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "dense", "zarr"])
def test_backed_data_give_the_same(simulated, model, expected, form, tmp_path):
    atac = simulated["atac"].copy()
    if form != "zarr":
        atac.X = atac.X.toarray() if form == "dense" else getattr(sp, form)(atac.X)
        atac.write_h5ad(tmp_path / "a.h5ad")
        backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    else:
        zarr = pytest.importorskip("zarr")
        with warnings.catch_warnings():  # anndata's own, about the default of its next version
            warnings.simplefilter("ignore")
            atac.write_zarr(tmp_path / "a.zarr")
        group = zarr.open(tmp_path / "a.zarr", mode="r")
        backed = anndata.AnnData(
            X=anndata.io.sparse_dataset(group["X"]), obs=atac.obs, var=atac.var
        )
    ep.tl.embed(backed, model)
    np.testing.assert_array_equal(backed.obsm[KEY], expected)


@pytest.mark.slow
def test_two_processes_agree(simulated, model, expected, tmp_path, forks):
    """A new one, with another hash seed, and a fork."""
    simulated.write_h5mu(tmp_path / "data.h5mu")
    model.save_pretrained(tmp_path / "model")
    code = (
        "import sys, mudata, numpy, torch, epifoundation as ep\n"
        "torch.set_num_threads(1)\n"
        "ep.settings.progress = False\n"
        "m = mudata.read_h5mu(sys.argv[1])\n"
        "ep.tl.embed(m, sys.argv[2])\n"
        "numpy.save(sys.argv[3], m['atac'].obsm['X_epifoundation'])\n"
    )
    (tmp_path / "script.py").write_text(code)
    arguments = [str(tmp_path / name) for name in ("script.py", "data.h5mu", "model")]
    copied = forks.start(*arguments, tmp_path / "b.npy")
    subprocess.run([sys.executable, *arguments, str(tmp_path / "a.npy")], check=True)
    assert copied.communicate()[1] == ""
    a, b = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(a, expected, atol=1e-5, rtol=0)


def test_save_load_embed(simulated, model, expected, tmp_path):
    path = model.save_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(embedding(simulated, ep.models.from_pretrained(path)), expected)
    np.testing.assert_array_equal(embedding(simulated, str(path)), expected)


def test_folded_inference_is_the_network(simulated, model, expected):
    import torch

    atac = simulated["atac"]
    known = model.peaks.projection(ep.genome.read_intervals(atac.var))
    tokens = (atac.X @ known).sorted_indices()
    arrays = [array.astype(np.int64) for array in (tokens.indices, tokens.indptr)]
    found = model.network.encode(*map(torch.from_numpy, arrays), model.known(*arrays))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5, rtol=0)


# other peaks, other genes, other cells


def test_renamed_and_shuffled_peaks_are_the_same_peaks(simulated, model, expected):
    atac = simulated["atac"][
        :, np.random.default_rng(0).permutation(simulated["atac"].n_vars)
    ].copy()
    atac.var = pd.DataFrame(
        index=[name.replace(":", "-").removeprefix("chr") for name in atac.var_names]
    )
    np.testing.assert_array_equal(embedding(atac, model), expected)


def test_peaks_the_model_does_not_know_change_nothing_but_coverage(simulated, model, expected):
    atac = simulated["atac"]
    extra = anndata.AnnData(
        sp.csr_matrix(np.ones((atac.n_obs, 2), np.float32)),
        obs=atac.obs[[]],
        var=pd.DataFrame(index=["chr9:1-2", "chrZ:5-9"]),
    )
    more = anndata.concat([atac, extra], axis=1)
    ep.tl.embed(more, model)
    np.testing.assert_array_equal(more.obsm[KEY], expected)
    assert (more.obs["epifoundation_coverage"] < 1).all()
    report = more.uns["epifoundation"]["peaks"]
    assert report["data"] - report["matched"] == 2 + atac.n_vars - len(model.peaks)


def test_unknown_genes_and_unpaired_cells_are_nan(simulated, model):
    rna = simulated["rna"][5:].copy()
    rna.var_names = ["unheard-of", *rna.var_names[1:]]
    mdata = mudata.MuData({"atac": simulated["atac"][:-3].copy(), "rna": rna})
    ep.tl.embed(mdata, model)
    layer = mdata["rna"].layers["epifoundation"]
    assert np.isnan(layer[:, 0]).all()
    assert np.isnan(layer[-3:]).all()
    whole = ep.tl.embed(simulated, model, copy=True)["rna"].layers["epifoundation"]
    np.testing.assert_allclose(layer[:-3, 1:], whole[5:-3, 1:], rtol=1e-6)


def test_cells_without_open_peaks_are_nan_with_a_warning(mdata, model, expected):
    atac = mdata["atac"].copy()
    keep = np.ones(400)
    keep[3] = 0
    atac.X = sp.diags(keep, format="csr") @ atac.X  # leaves explicit zeros
    with pytest.warns(UserWarning, match="1 of 400 cells have no open peak"):
        ep.tl.embed(atac, model)
    assert np.isnan(atac.obsm[KEY][3]).all()
    assert pd.isna(atac.obs["epifoundation_cell_type"].iloc[3])
    assert np.isnan(atac.obs["epifoundation_confidence"].iloc[3])
    assert atac.obsm["epifoundation_expression"].iloc[3].isna().all()
    others = np.arange(400) != 3
    np.testing.assert_array_equal(atac.obsm[KEY][others], expected[others])


def test_a_model_without_heads_only_embeds(simulated):
    atac = simulated["atac"].copy()
    small = ep.tl.pretrain(atac, objective="peaks", config=ep.ModelConfig(dim=8))
    ep.tl.embed(atac, small)
    assert list(atac.obsm) == [KEY]
    assert "expression_scale" not in atac.uns["epifoundation"]


def test_the_bundled_model_is_the_default():
    atac = ep.datasets.pbmc_multiome()["atac"][:50].copy()
    ep.tl.embed(atac, "pbmc-51loci")
    assert atac.uns["epifoundation"]["model"] == "pbmc-51loci"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_what_the_cpu_gives():
    atac = ep.datasets.pbmc_multiome()["atac"]
    found = {}
    for device in ("cpu", "cuda"):
        ep.tl.annotate(atac, "pbmc-51loci", device=device)
        ep.tl.embed(atac, "pbmc-51loci", device=device)
        found[device] = {name: np.asarray(atac.obsm[name], np.float32) for name in atac.obsm}
        found[device]["labels"] = atac.obs["epifoundation_cell_type"].astype(str).to_numpy()
    assert (found["cpu"].pop("labels") == found["cuda"].pop("labels")).mean() > 0.999
    assert found["cpu"].keys() == found["cuda"].keys() >= {"X_epifoundation"}
    for name, expected in found["cpu"].items():
        np.testing.assert_allclose(
            found["cuda"][name], expected, atol=1e-4, rtol=1e-4, err_msg=name
        )


def test_results_of_an_earlier_model_do_not_stay_under_its_key(mdata, model):
    ep.tl.embed(mdata, model)
    ep.tl.embed(mdata, model, annotation=False, expression=False)
    atac = mdata["atac"]
    assert not {"epifoundation_cell_type", "epifoundation_confidence"} & set(atac.obs)
    assert "epifoundation_probabilities" not in atac.obsm
    assert "epifoundation" not in mdata["rna"].layers


def test_genes_that_are_all_unknown_raise_a_warning(mdata, model):
    mdata["rna"].var_names = [f"x{i}" for i in range(40)]
    with pytest.warns(UserWarning, match="None of the 40 genes of the RNA modality"):
        ep.tl.embed(mdata, model)


def test_backed_objects_that_cannot_be_written_are_refused_or_read(
    simulated, model, expected, tmp_path
):
    simulated["atac"].write_h5ad(tmp_path / "a.h5ad")
    simulated.write_h5mu(tmp_path / "a.h5mu")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    np.testing.assert_array_equal(ep.tl.embed(backed, model, copy=True).obsm[KEY], expected)
    with pytest.raises(ValueError, match="view of backed data"):
        ep.tl.embed(backed[:10], model)
    both = mudata.read_h5mu(tmp_path / "a.h5mu", backed="r")
    ep.tl.embed(both, model)
    np.testing.assert_array_equal(both["atac"].obsm[KEY], expected)
    with pytest.raises(ValueError, match="backed MuData cannot be copied"):
        ep.tl.embed(both, model, copy=True)


# what bad input gets


def break_data(data, how):
    atac = data["atac"]
    if how == "negative":
        atac.X.data[7] = -1
    elif how == "nan":
        atac.X.data[7] = np.nan
    elif how == "names":
        atac.var = pd.DataFrame(index=[f"ENSG{i}" for i in range(atac.n_vars)])
    elif how == "duplicates":
        atac.var_names = [atac.var_names[1], *atac.var_names[1:]]
    elif how == "genome":
        atac.var = atac.var.assign(chrom="Q" + atac.var["chrom"].astype(str))
    elif how == "no X":
        atac.X = None


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("negative", "non-negative counts: found -1.0 in cell"),
        ("nan", "found nan in cell"),
        ("names", "not genomic intervals, first 'ENSG0'"),
        ("duplicates", "Duplicate peak names: 1 of 600, first 'chr1:12000-12500'"),
        ("genome", r"None of the 600 peaks of the data overlaps.*hg38.*Qchr1:10000-10500"),
        ("no X", "no `X`"),
    ],
)
def test_bad_data_is_refused_and_unchanged(mdata, model, how, message):
    break_data(mdata, how)
    before = written(mdata)
    with pytest.raises(ValueError, match=message):
        ep.tl.embed(mdata, model)
    assert written(mdata) == before


def test_bad_arguments_are_refused(mdata, model):
    with pytest.raises(ValueError, match=r"No modality 'peaks'.*\['atac', 'rna'\]"):
        ep.tl.embed(mdata, model, modality="peaks")
    with pytest.raises(ValueError, match=r"No modality 'gex'.*`rna_modality=`"):
        ep.tl.embed(mdata, model, rna_modality="gex")
    with pytest.raises(TypeError, match="AnnData or MuData object, got ndarray"):
        ep.tl.embed(np.ones((2, 2)), model)
    with pytest.raises(TypeError, match="`model` must be"):
        ep.tl.embed(mdata, 3)
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1, got 0"):
        ep.tl.embed(mdata, model, batch_size=0)
    with pytest.raises(ValueError, match="`key_added`"):
        ep.tl.embed(mdata, model, key_added="")
    with pytest.raises(ValueError, match="Unknown model"):
        ep.tl.embed(mdata, "nonesuch")


def test_views_become_actual_with_the_results(mdata, model, expected):
    view = mdata["atac"][:10]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", anndata.ImplicitModificationWarning)
        ep.tl.embed(view, model)
        both = mdata[:10]
        ep.tl.embed(both, model)
    np.testing.assert_allclose(view.obsm[KEY], expected[:10], atol=1e-5, rtol=0)
    np.testing.assert_allclose(both["atac"].obsm[KEY], expected[:10], atol=1e-5, rtol=0)
    assert both["rna"].layers["epifoundation"].shape == (10, 40)
    assert KEY not in mdata["atac"].obsm
    assert "epifoundation" not in mdata["rna"].layers


def test_barcodes_that_repeat_in_concatenated_samples_are_fine(simulated, model, expected):
    atac = simulated["atac"].copy()
    atac.obs_names = ["AAAC"] * 200 + list(atac.obs_names[200:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ep.tl.embed(atac, model)
    np.testing.assert_array_equal(atac.obsm[KEY], expected)
    assert len(atac.obsm["epifoundation_expression"]) == 400


def test_no_cells_are_no_error(simulated, model):
    atac = simulated["atac"][:0].copy()
    ep.tl.embed(atac, model)
    assert atac.obsm[KEY].shape == (0, model.network.dim)
