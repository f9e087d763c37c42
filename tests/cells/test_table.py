"""Files of anndata before 0.8: names of categories, not codes, for every column."""

import warnings

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import zarr

import epifoundation as ep
from epifoundation.cells.formats import open_source

COLUMNS = ["cell_type", "batch", "codes", "n", "share", "is_good", "text", "single"]


@pytest.fixture(scope="module")
def atac():
    """Cells with columns of every kind."""
    atac = ep.datasets.simulate_multiome(300, 80, 5, rng=0)["atac"].copy()
    n = atac.n_obs
    kinds = pd.Categorical(np.resize(["B cell", "NK", "gd T"], n), ["NK", "gd T", "B cell"])
    kinds = pd.Categorical.from_codes(
        np.where(np.arange(n) == 7, -1, kinds.codes), kinds.categories
    )
    atac.obs = pd.DataFrame(
        {
            "cell_type": kinds,
            "batch": pd.Categorical(np.resize([3, 1, 2], n)),
            "codes": pd.Categorical(np.resize(["low", "high"], n), ["low", "high"], ordered=True),
            "n": np.arange(n),
            "share": np.linspace(0, 1, n),
            "is_good": np.arange(n) % 2 == 0,
            "text": [f"α {i % 4}" for i in range(n)],
            "single": pd.Categorical(["one"] * n),
        },
        index=[f"cell {i}" for i in range(n)],
    )
    atac.var = atac.var[["chrom", "start", "end"]].astype({"chrom": "category"})
    return atac


def records(frame):
    """A table as anndata 0.6 wrote it, and the names of categories for `uns`."""
    fields, categories = {"index": frame.index.to_numpy(object)}, {}
    for name, column in frame.items():
        fields[name] = column.to_numpy(object) if column.dtype.kind in "OTU" else column.to_numpy()
        if isinstance(column.dtype, pd.CategoricalDtype):
            fields[name] = column.cat.codes.to_numpy()
            categories[f"{name}_categories"] = column.cat.categories.to_numpy()
    text = h5py.string_dtype()
    kinds = [(name, text if one.dtype == object else one.dtype) for name, one in fields.items()]
    array = np.empty(len(frame), dtype=kinds)
    for name, one in fields.items():
        array[name] = [str(value) for value in one] if one.dtype == object else one
    return array, categories


def fixed(values):
    """Text of a fixed length; numbers as they are."""
    return np.char.encode(values.astype(str)) if values.dtype == object else values


def write_06(group, adata, *, length=None):
    """As anndata 0.6: arrays of records; text may have a fixed length."""
    for part in ("obs", "var"):
        array, categories = records(getattr(adata, part))
        if length is not None:
            kinds = [
                (n, f"S{length}" if array[n].dtype == object else array[n].dtype)
                for n in array.dtype.names
            ]
            shorter = np.empty(len(array), dtype=kinds)
            for name in array.dtype.names:
                shorter[name] = fixed(array[name])
            array = shorter
        group.create_dataset(part, data=array)
        for name, values in categories.items():
            group.require_group("uns")[name] = fixed(values)
    matrix = group.create_group("X")
    matrix.attrs.update({"h5sparse_format": "csr", "h5sparse_shape": adata.shape})
    for name in ("data", "indices", "indptr"):
        matrix[name] = getattr(adata.X, name)


def write_07(group, adata):
    """As anndata 0.7: codes as columns, names in ``__categories``."""
    is_zarr = isinstance(group, zarr.Group)

    def write(where, name, values):
        if is_zarr:
            dtype = "str" if values.dtype == object else values.dtype
            array = where.create_array(name, shape=values.shape, dtype=dtype)
            array[:] = values.astype("str") if values.dtype == object else values
        else:
            where.create_dataset(
                name, data=values, dtype=h5py.string_dtype() if values.dtype == object else None
            )
        return where[name]

    for part in ("obs", "var"):
        frame, table = getattr(adata, part), group.create_group(part)
        table.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0"})
        table.attrs.update({"_index": "_index", "column-order": list(frame.columns)})
        write(table, "_index", frame.index.to_numpy(object))
        for name, column in frame.items():
            if not isinstance(column.dtype, pd.CategoricalDtype):
                is_text = column.dtype.kind in "OTU"
                write(table, name, column.to_numpy(object) if is_text else column.to_numpy())
                continue
            codes = write(table, name, column.cat.codes.to_numpy())
            kept = table.require_group("__categories")
            names = write(kept, name, column.cat.categories.to_numpy())
            names.attrs["ordered"] = bool(column.cat.ordered)
            codes.attrs["categories"] = f"__categories/{name}" if is_zarr else names.ref
    anndata.io.write_elem(group, "X", adata.X)


def write(kind, path, adata):
    if kind == "0.6, fixed":  # ASCII
        adata = adata.copy()
        adata.obs["text"] = adata.obs["text"].str.replace("α", "a")
    if kind == "0.6":
        with h5py.File(path, "w") as file:
            write_06(file, adata)
    elif kind == "0.6, fixed":
        with h5py.File(path, "w") as file:
            write_06(file, adata, length=30)
    elif kind == "0.7":
        with h5py.File(path, "w") as file:
            write_07(file, adata)
    elif kind == "0.7, h5mu":
        modality = adata.copy()
        modality.obs = modality.obs[["n"]]
        mudata.MuData({"atac": modality}).write(path)
        with h5py.File(path, "r+") as file:
            del file["mod/atac"], file["obs"]
            for group in (file.create_group("mod/atac"), file.create_group("other")):
                group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
                write_07(group, adata)
            file.move("other/obs", "obs")
            del file["other"]
    elif kind == "0.7, zarr":
        write_07(zarr.open_group(path, mode="w", zarr_format=2), adata)
    return path, adata


SUFFIX = {
    "0.6": "h5ad",
    "0.6, fixed": "h5ad",
    "0.7": "h5ad",
    "0.7, h5mu": "h5mu",
    "0.7, zarr": "zarr",
}


@pytest.fixture(params=SUFFIX)
def old(request, atac, tmp_path):
    """A file of an older version, and what anndata reads from it."""
    path, _ = write(request.param, tmp_path / f"old.{SUFFIX[request.param]}", atac)
    readers = {
        ".h5ad": anndata.read_h5ad,
        ".h5mu": lambda path: mudata.read_h5mu(path)["atac"],
        ".zarr": anndata.read_zarr,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return path, readers[path.suffix](path)


def test_columns_and_rows_are_those_that_anndata_reads(old, atac):
    path, expected = old
    source = open_source(path, "atac")
    assert list(source.names(3, 9)) == list(expected.obs_names[3:9])
    assert list(source.var.index) == list(expected.var_names)
    assert ep.genome.read_intervals(source.var).equals(ep.genome.read_intervals(expected.var))
    np.testing.assert_array_equal(source.read(5, 20).toarray(), atac.X[5:20].toarray())
    for name in COLUMNS:
        found, given = source.column(name, "label_key"), expected.obs[name]
        assert found.dtype.kind == given.dtype.kind or found.dtype == object, name
        assert found.isna().sum() == given.isna().sum() == (name == "cell_type"), name
        assert list(found.dropna()) == list(given.dropna()), name
        if isinstance(given.dtype, pd.CategoricalDtype):
            assert found.cat.ordered == given.cat.ordered
    with pytest.raises(
        ValueError, match=r"`label_key='_index'` is not a column.*available: \['batch'"
    ):
        source.column("_index", "label_key")
    source.close()


def test_labels_and_batches_of_older_files_have_their_names(old, atac, tmp_path):
    path, _ = old
    options = {"objective": "peaks", "label_key": "cell_type", "batch_key": "batch"}
    model, expected = ep.tl.pretrain(path, **options), ep.tl.pretrain(atac, **options)
    assert model.labels == expected.labels == ["B cell", "NK", "gd T"]
    assert model.training["batches"] == expected.training["batches"] == ["1", "2", "3"]
    assert model.revision == expected.revision
    ep.tl.embed(path, model, output=tmp_path / "out.h5ad")
    data = atac.copy()
    ep.tl.embed(data, model)
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert list(found.obs_names) == list(atac.obs_names)
    np.testing.assert_allclose(found.obsm["X_epifoundation"], data.obsm["X_epifoundation"])


def test_one_column_of_a_mudata_and_of_its_modality(atac, tmp_path):
    path, _ = write("0.7, h5mu", tmp_path / "old.h5mu", atac)
    with h5py.File(path, "r+") as file:
        table = file["mod/atac/obs"]
        table.attrs["column-order"] = [name for name in COLUMNS if name != "cell_type"]
    source = open_source(path, "atac")
    assert list(source.column("cell_type", "label_key").dropna()) == list(
        atac.obs["cell_type"].dropna()
    )
    assert list(source.column("atac:batch", "batch_key")) == list(atac.obs["batch"])
    source.close()


def test_results_are_not_written_into_records(atac, tmp_path):
    """Nothing is computed before."""
    path, _ = write("0.6", tmp_path / "old.h5ad", atac)
    model = ep.tl.pretrain(atac, objective="peaks")
    with pytest.raises(ValueError, match=r"cannot be written into .*old\.h5ad': pass `output=`"):
        ep.tl.embed(path, model)
    assert sorted(tmp_path.iterdir()) == [path]
