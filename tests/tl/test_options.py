"""Names that users pass: of columns, batches, genes, peaks and results."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from mudata import MuData

import epifoundation as ep


@pytest.fixture(scope="module")
def mdata():
    mdata = ep.datasets.simulate_multiome(300, 200, 15, rng=0)
    mdata["atac"].obs["donor"] = mdata["atac"].obs["batch"].str[-1].astype(int)
    return mdata


@pytest.fixture(scope="module")
def model(mdata):
    return ep.tl.pretrain(mdata, label_key="cell_type", batch_key="batch", genome="hg38")


GENES = ["gene3", "gene4"]
READS_A_COLUMN = {
    "label_key": lambda d, m, key: ep.tl.pretrain(d, objective="peaks", label_key=key),
    "batch_key": lambda d, m, key: ep.tl.pretrain(d, objective="peaks", batch_key=key),
    "finetune": lambda d, m, key: ep.tl.finetune(d, m, label_key=key),
    "reference": lambda d, m, key: ep.tl.annotate(d, m, reference=d, label_key=key),
    "of embed": lambda d, m, key: ep.tl.embed(d, m, batch_key=key),
    "of links": lambda d, m, key: ep.tl.link_peaks(
        d, m, genes=GENES, groupby=key, max_distance=20_000
    ),
    "of groups": lambda d, m, key: ep.tl.impute_accessibility(d, m, groupby=key),
    "integration": lambda d, m, key: ep.tl.score_integration(
        d, batch_key="batch", label_key=key, embeddings="X"
    ),
    "composition": lambda d, m, key: ep.pl.composition(d, color="batch", batch_key=key),
    "umap": lambda d, m, key: ep.pl.umap(d, color=["batch", key], show=False),
}
FROM_FILES = ["label_key", "batch_key", "finetune", "reference", "of embed"]


def with_obs(mdata, obs):
    """The data with other columns, and coordinates."""
    data = mdata.copy()
    data["atac"].obs = obs
    data["atac"].obsm["X"] = data["atac"].obsm["X_umap"] = np.zeros((data.n_obs, 2), np.float32)
    return data


@pytest.mark.parametrize("tool", READS_A_COLUMN)
def test_a_column_that_is_there_twice_is_named(tool, mdata, model):
    obs = mdata["atac"].obs
    data = with_obs(mdata, pd.concat([obs, obs[["cell_type"]]], axis=1))
    data = data["atac"] if tool in ("composition", "umap") else data
    with pytest.raises(ValueError, match="`obs`.* has 2 columns 'cell_type': rename or drop"):
        READS_A_COLUMN[tool](data, model, "cell_type")


@pytest.mark.parametrize("tool", [name for name in READS_A_COLUMN if name != "umap"])
def test_columns_may_be_numbers_beside_a_key_that_is_not_found(tool, mdata, model):
    data = with_obs(mdata, mdata["atac"].obs.assign(x=1).rename(columns={"x": 0}))
    with pytest.raises(ValueError, match=r"'nothing'` is not a column of.*available: \[0, 'batch'"):
        READS_A_COLUMN[tool](data, model, "nothing")
    with pytest.raises(TypeError, match=r"must be .*, got 0 \(int\)"):
        READS_A_COLUMN[tool](data, model, 0)


def test_a_column_twice_in_a_file(mdata, model, tmp_path):
    mdata.write(tmp_path / "a.h5mu")
    with h5py.File(tmp_path / "a.h5mu", "r+") as file:
        attributes = file["mod/atac/obs"].attrs
        attributes["column-order"] = [*attributes["column-order"], "cell_type"]
    with pytest.raises(ValueError, match=r"`obs` of '.*a\.h5mu' has 2 columns 'cell_type'"):
        ep.tl.finetune(tmp_path / "a.h5mu", model, label_key="cell_type")


@pytest.mark.parametrize("blank", ["", "  ", "\t"])
@pytest.mark.parametrize("kind", [str, object, "category"])
@pytest.mark.parametrize("place", ["memory", "file"])
def test_blank_labels_are_missing_labels(blank, kind, place, mdata, tmp_path):
    atac = mdata["atac"].copy()
    is_blank = (atac.obs["cell_type"] == "type0").to_numpy()
    labels = atac.obs["cell_type"].astype(object)
    expected, given = atac.copy(), atac
    expected.obs["cell_type"] = labels.mask(is_blank)
    given.obs["cell_type"] = labels.mask(is_blank, blank).astype(kind)
    source = given
    if place == "file":
        source = tmp_path / "a.h5ad"
        given.write_h5ad(source)
    before = given.obs.copy()
    options = {"objective": "peaks", "label_key": "cell_type"}
    message = rf"`label_key='cell_type'` is blank for {is_blank.sum()} of 300 cells.*as missing"
    with pytest.warns(UserWarning, match=message):
        model = ep.tl.pretrain(source, **options)
    assert model.revision == ep.tl.pretrain(expected, **options).revision
    assert model.labels == ["type1", "type2", "type3", "type4"]
    pd.testing.assert_frame_equal(given.obs, before)
    with pytest.warns(UserWarning, match=message):
        tuned = ep.tl.finetune(source, model, label_key="cell_type")
    assert tuned.training["unlabelled_cells"] == is_blank.sum()
    with pytest.warns(UserWarning, match=message):
        ep.tl.annotate(given, model, reference=source, label_key="cell_type")
    assert "" not in given.obs["epifoundation_cell_type"].cat.categories
    given.write_h5ad(tmp_path / "b.h5ad")


def test_blank_batches_are_missing_batches(mdata):
    atac = mdata["atac"].copy()
    atac.obs["batch"] = atac.obs["batch"].astype(object).where(atac.obs["donor"] != 1, " ")
    n = (atac.obs["donor"] == 1).sum()
    with (
        pytest.warns(UserWarning, match=f"is blank for {n} of 300 cells"),
        pytest.raises(ValueError, match=f"`batch_key='batch'` is missing for {n} of 300 cells"),
    ):
        ep.tl.pretrain(atac, objective="peaks", batch_key="batch")


@pytest.mark.parametrize(
    "given",
    [1, np.int64(1), np.array(1), [1], (np.int8(1),), {1}, np.array([1]), pd.Series([1]), "1",
     np.str_("1"), iter(["1"])],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_batches_may_be_numbers(given, mdata):
    model = ep.tl.pretrain(mdata["atac"], objective="peaks", batch_key="donor", validation=given)
    assert model.training["validation"] == ["1"]


@pytest.mark.parametrize(
    "given", [1, np.int64(1), [1], (1,)], ids=lambda value: type(value).__name__
)
def test_batches_of_finetuning_and_calibration_may_be_numbers(given, mdata, model):
    options = {"label_key": "cell_type", "batch_key": "donor"}
    tuned = ep.tl.finetune(mdata["atac"], model, validation=given, **options)
    assert tuned.training["validation"] == ["1"]
    data = mdata["atac"].copy()
    ep.tl.annotate(data, model, reference=data, calibration=given, **options)
    assert list(data.uns["epifoundation_annotation"]["calibration"]) == ["1"]


def test_other_validation_is_refused_by_name(mdata, model):
    def train(**options):
        ep.tl.pretrain(mdata["atac"], objective="peaks", **options)

    with pytest.raises(TypeError, match="`validation` must be a fraction .* or names of batches"):
        train(validation=object())
    with pytest.raises(ValueError, match=r"`validation=\['1'\]` names batches: pass `batch_key=`"):
        train(validation=1)
    for wrong in (1.0, 0.0, np.float32(-1), float("nan")):
        with pytest.raises(ValueError, match="`validation` must be a fraction between 0 and 1"):
            train(validation=wrong, batch_key="batch")
    with pytest.raises(TypeError, match="`calibration` must be a fraction"):
        ep.tl.annotate(
            mdata.copy(), model, reference=mdata, label_key="cell_type", calibration=object()
        )


def predicted(data, model, genes):
    data = data["atac"].copy()
    ep.tl.predict_expression(data, model, genes=genes)
    return list(data.obsm["epifoundation_expression"].columns)


def linked(data, model, genes):
    data = data.copy()
    ep.tl.link_peaks(data, model, genes=genes, max_distance=20_000)
    return sorted(data["atac"].uns["epifoundation_links"]["gene"].unique())


def knocked(data, model, genes):
    peak = data["atac"].var_names[0]
    return list(ep.tl.knock_out(data, model, genes=genes, peaks=peak).expression.columns)


NAMES_GENES = [predicted, linked, knocked]


@pytest.mark.parametrize("tool", NAMES_GENES)
def test_genes_in_every_collection(tool, mdata, model):
    for genes in (
        GENES,
        tuple(GENES),
        set(GENES),
        dict.fromkeys(GENES),
        np.array(GENES),
        pd.Index(GENES),
        pd.Series(GENES, index=[5, 6]),
        (name for name in GENES),
        [np.str_(name) for name in GENES],
    ):
        assert tool(mdata, model, genes) == GENES
    assert tool(mdata, model, "gene3") == ["gene3"]
    for wrong in (3, 2.5, [3], ["gene3", None], np.array(3), object()):
        with pytest.raises(TypeError, match="`genes` must be a name or a sequence of names, got"):
            tool(mdata, model, wrong)
    for none in ([], (), iter([])):
        with pytest.raises(ValueError, match="`genes` is empty"):
            tool(mdata, model, none)


def test_peaks_in_every_collection(mdata, model):
    names = list(mdata["atac"].var_names[:2])
    for peaks in (names, set(names), pd.Index(names), iter(names)):
        assert ep.tl.knock_out(mdata, model, peaks=peaks, genes=GENES).peaks == names
    for wrong in (3, [3], object()):
        with pytest.raises(TypeError, match="`peaks` must be a name or a sequence of names, got"):
            ep.tl.knock_out(mdata, model, peaks=wrong)
        with pytest.raises(TypeError, match="`peaks` must be a name or a sequence of names, got"):
            ep.tl.impute_accessibility(mdata.copy(), model, peaks=wrong)


WRITES = {
    "map_peaks": lambda d, m, key: ep.pp.map_peaks(d, m, key_added=key),
    "embed": lambda d, m, key: ep.tl.embed(d, m, key_added=key),
    "annotate": lambda d, m, key: ep.tl.annotate(d, m, key_added=key),
    "predict": lambda d, m, key: ep.tl.predict_expression(d, m, key_added=key),
    "link": lambda d, m, key: ep.tl.link_peaks(d, m, genes=GENES, key_added=key),
    "impute": lambda d, m, key: ep.tl.impute_accessibility(d, m, groupby="batch", key_added=key),
    "score": lambda d, m, key: ep.tl.score_integration(
        d, batch_key="batch", label_key="cell_type", key_added=key
    ),
    "links": lambda d, m, key: ep.tl.write_links(d, path="a.bedpe", key_added=key),
    "network": lambda d, m, key: ep.get.network(
        d, motifs=pd.DataFrame({"tf": "a", "peak": d["atac"].var_names[:1]}), key_added=key
    ),
}


@pytest.mark.parametrize("key", ["", " ", "a/b", "/", ".", "..", "a\0", "a\n", "\ud800", 3, ("a",)])
def test_names_that_files_cannot_have_are_refused_before_work(key, mdata, model):
    for tool in WRITES.values():
        with pytest.raises(ValueError, match="`key_added` must be None or a string of printable"):
            tool(mdata.copy(), model, key)


@pytest.mark.parametrize("key", ["run 2", "γ", "a.b", "X|Y"])
def test_other_names_are_written_and_read(key, mdata, model, tmp_path):
    data = mdata["atac"].copy()
    ep.tl.embed(data, model, key_added=key)
    data.write_h5ad(tmp_path / "a.h5ad")
    data.write_zarr(tmp_path / "a.zarr")
    assert f"X_{key}" in anndata.read_h5ad(tmp_path / "a.h5ad").obsm
    assert f"X_{key}" in anndata.read_zarr(tmp_path / "a.zarr").obsm


def test_barcodes_of_data(tmp_path):
    adata = anndata.AnnData(np.ones((2, 1), np.float32), obs=pd.DataFrame(index=["c1", "c0"]))
    lines = "chr1\t120\t180\tc0\t1\nchr1\t120\t180\tc1\t1\n"
    (tmp_path / "fragments.tsv").write_text(lines)
    peaks = ep.PeakVocabulary.from_names(["chr1:100-200"])
    for barcodes in (adata, MuData({"atac": adata}), adata.obs, adata.obs_names):
        found = ep.pp.count_fragments(tmp_path / "fragments.tsv", peaks=peaks, barcodes=barcodes)
        assert list(found.obs_names) == ["c1", "c0"]
    with pytest.raises(
        TypeError, match=r"`barcodes` must be a list of names, an AnnData, or a file.*got int"
    ):
        ep.pp.count_fragments(tmp_path / "fragments.tsv", peaks=peaks, barcodes=3)


def test_batches_that_are_missing_are_not_called_unknown(mdata, model):
    data = mdata.copy()
    data["atac"].obs["batch"] = data["atac"].obs["batch"].astype(object)
    data["atac"].obs.loc[data["atac"].obs_names[:5], "batch"] = None
    with pytest.warns(
        UserWarning, match=r"5 of 300 cells.*`batch_key='batch'` is missing for them"
    ):
        ep.tl.predict_expression(data, model, batch_key="batch")
