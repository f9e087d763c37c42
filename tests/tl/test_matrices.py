"""Matrices of every kind: each tool gives what it gives for float32 CSR, or says what to do."""

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr

import epifoundation as ep

GENES = ["gene3", "gene4"]
LABELS = {"label_key": "cell_type", "batch_key": "batch"}


@pytest.fixture(scope="module")
def mdata():
    """Counts that all dtypes can hold."""
    mdata = ep.datasets.simulate_multiome(200, 150, 12, rng=0)
    for modality in mdata.mod.values():
        modality.X.data = np.minimum(modality.X.data, 127).astype(np.float32)
    return mdata


@pytest.fixture(scope="module")
def model(mdata):
    return ep.tl.pretrain(mdata, genome="hg38", **LABELS)


def embed(data, model):
    ep.tl.embed(data, model)
    return data["atac"].obsm["X_epifoundation"]


def annotate(data, model):
    ep.tl.annotate(data, model, reference=data, label_key="cell_type")
    return data["atac"].obsm["epifoundation_probabilities"]


def predict_expression(data, model):
    ep.tl.predict_expression(data, model)
    return data["rna"].layers["epifoundation"]


def link_peaks(data, model):
    ep.tl.link_peaks(data, model, genes=GENES, max_distance=20_000)
    return data["atac"].uns["epifoundation_links"][["effect", "n_cells"]]


def gene_activity(data, model):
    return ep.tl.gene_activity(data).X.toarray()


def knock_out(data, model):
    found = ep.tl.knock_out(data, model, peaks=data["atac"].var_names[0], genes=GENES)
    return np.column_stack([found.expression, found.n_removed])


def scan_knock_outs(data, model):
    pieces = ep.tl.scan_knock_outs(data, model, genes=GENES, peaks=data["atac"].var_names[0])
    return np.concatenate([piece.change for piece in pieces])


def impute_accessibility(data, model):
    ep.tl.impute_accessibility(data, model, groupby="cell_type")
    return data["atac"].varm["epifoundation_accessibility"]


def map_peaks(data, model):
    ep.pp.map_peaks(data, model)
    return data["atac"].obsm["epifoundation_peaks"].toarray()


def score_integration(data, model):
    embed(data, model)
    ep.tl.score_integration(data, **LABELS)
    return data["atac"].uns["epifoundation_integration"]


def pretrain(data, model):
    return embed(data, ep.tl.pretrain(data, genome="hg38", **LABELS))


def finetune(data, model):
    return embed(data, ep.tl.finetune(data, model, **LABELS))


TOOLS = [
    embed,
    annotate,
    predict_expression,
    link_peaks,
    gene_activity,
    knock_out,
    scan_knock_outs,
    impute_accessibility,
    map_peaks,
    score_integration,
    pretrain,
    finetune,
]


@pytest.fixture(autouse=True)
def quick_scores(monkeypatch):
    """Integration metrics, which take a minute to compile, are replaced by the LSI."""
    monkeypatch.setattr(
        ep.tl._score_integration, "_benchmark", lambda scored, *_: scored.obsm["LSI"]
    )


@pytest.fixture(scope="module")
def expected(mdata, model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ep.tl._score_integration, "_benchmark", lambda scored, *_: scored.obsm["LSI"])
        return {tool: np.asarray(tool(mdata.copy(), model), float) for tool in TOOLS}


def sparse(data, indices, indptr, like):
    return sp.csr_matrix((data, indices, indptr), shape=like.shape)


def with_data(matrix, dtype):
    """scipy takes values of any dtype, and fails later."""
    return sparse(matrix.data.astype(dtype), matrix.indices, matrix.indptr, matrix)


def duplicated(matrix):
    """Each value as the sum of two entries at the same place, out of order."""
    order = np.concatenate([np.arange(a, b)[::-1] for a, b in zip(*bounds(matrix), strict=True)])
    twice = np.repeat(order, 2)
    data, indices = matrix.data[twice].astype(np.uint8), matrix.indices[twice]
    data[::2] -= 1
    data[1::2] = 1
    return sparse(data, indices, 2 * matrix.indptr, matrix)


def bounds(matrix):
    return matrix.indptr[:-1], matrix.indptr[1:]


def with_zeros(matrix):
    dense = matrix.toarray()
    _, column = np.indices(dense.shape)
    indptr = np.arange(0, dense.size + 1, dense.shape[1])
    return sparse(dense.ravel(), column.ravel(), indptr, matrix)


KINDS = {
    "dense": lambda x: x.toarray(),
    **{
        f"dense {dtype}": lambda x, dtype=dtype: x.toarray().astype(dtype)
        for dtype in ("float16", ">f4", ">i4", ">f2", "longdouble", "uint64", "int8")
    },
    **{
        f"CSR {dtype}": lambda x, dtype=dtype: with_data(x, dtype)
        for dtype in ("float16", ">f4", ">i4", "longdouble", "uint8", "uint16", "uint64", ">f8")
    },
    "CSC": lambda x: x.tocsc(),
    "CSC array": lambda x: sp.csc_array(x),
    "CSC float16": lambda x: with_data(x.T.tocsr(), "float16").T,
    "CSC >f4": lambda x: with_data(x.T.tocsr(), ">f4").T,
    "CSR array": lambda x: sp.csr_array(x),
    "duplicates": duplicated,
    "explicit zeros": with_zeros,
    "fortran": lambda x: np.asfortranarray(x.toarray()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_tool_takes_every_kind(kind, mdata, model, expected):
    for tool in TOOLS:
        data = mdata.copy()
        for modality in data.mod.values():
            modality.X = KINDS[kind](modality.X)
        found = np.asarray(tool(data, model), float)
        np.testing.assert_allclose(found, expected[tool], rtol=1e-4, atol=1e-5, err_msg=str(tool))


def test_open_or_not(mdata, model):
    """Peaks as booleans are as good as counts where only open peaks matter."""
    data = mdata.copy()
    data["atac"].X = data["atac"].X > 0
    for tool in (embed, link_peaks, knock_out, impute_accessibility, map_peaks, finetune):
        np.testing.assert_allclose(
            np.asarray(tool(data.copy(), model), float),
            np.asarray(tool(mdata.copy(), model), float),
            rtol=1e-5,
        )


REFUSED = {
    "complex64": (lambda x: x.toarray().astype("complex64"), r"complex64.*adata\.X\.real"),
    "CSR complex128": (lambda x: with_data(x, "complex128"), r"complex128.*adata\.X\.real"),
    "object": (lambda x: x.toarray().astype(object), r"object.*astype\('float32'\)"),
    "text": (lambda x: x.toarray().astype(str), r"<U32.*astype\('float32'\)"),
    "masked": (lambda x: np.ma.masked_greater(x.toarray(), 1), r"masked.*filled\(0\)"),
}
OF_RNA = [link_peaks, pretrain, finetune]


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("modality", ["atac", "rna"])
def test_other_values_are_refused_by_name(kind, modality, mdata, model):
    convert, match = REFUSED[kind]
    data = mdata.copy()
    embed(data, model)  # for integration
    data[modality].X = convert(data[modality].X)
    for tool in TOOLS if modality == "atac" else OF_RNA:
        if tool is score_integration:
            continue
        with pytest.raises(ValueError, match=match):
            tool(data, model)
    if modality == "atac":
        with pytest.raises(ValueError, match=match):
            ep.tl.score_integration(data, **LABELS)


@pytest.mark.parametrize("modality", ["atac", "rna"])
@pytest.mark.parametrize("value", [np.nan, -1, -np.inf])
def test_impossible_values_are_named_with_their_cell(modality, value, mdata, model):
    data = mdata.copy()
    embed(data, model)
    row = 7
    data[modality].X.data[data[modality].X.indptr[row]] = value
    tools = TOOLS if modality == "atac" else OF_RNA
    name = data.obs_names[row]
    for tool in tools:
        if tool is not score_integration:
            with pytest.raises(ValueError, match=f"{modality.upper()}.*") as error:
                tool(data, model)
            # Link effects need counts, and can do without RNA
            is_named = f"in cell '{name}'" in str(error.value)
            assert is_named or (tool is link_peaks and "`measured=False`" in str(error.value))


def damage(matrix, part, value):
    """`matrix` with another value in its arrays, unseen by scipy."""
    matrix = matrix.copy()
    getattr(matrix, part)[3] = value
    return matrix


DAMAGES = [
    ("indices", -1),
    ("indices", -(10**8)),
    ("indices", 150),
    ("indices", 2**31 - 1),
    ("indptr", -5),
    ("indptr", 0),
    ("indptr", 2**31 - 1),
]


@pytest.mark.parametrize(("part", "value"), DAMAGES)
@pytest.mark.parametrize("kind", ["csr", "csc", "h5ad", "h5ad csc", "zarr", "zarr csc", "backed"])
def test_damage_is_named_and_nothing_computed(kind, part, value, mdata, model, tmp_path):
    """Column numbers are never counted from the end, and no other memory is read."""
    data = mdata.copy()
    atac = data["atac"]
    value = atac.n_obs if value == 150 and "csc" in kind else value
    if kind in ("csr", "csc"):
        atac.X = damage(atac.X.asformat(kind), part, value)
        with pytest.raises(ValueError, match=r"`X` of the data is damaged|the data are damaged"):
            embed(data, model)
        return
    if "csc" in kind:
        atac.X = atac.X.tocsc()
    path = tmp_path / ("a.zarr" if "zarr" in kind else "a.h5ad")
    atac.write_zarr(path) if path.suffix == ".zarr" else atac.write_h5ad(path)
    if path.suffix == ".zarr":
        zarr.open_group(path, mode="r+")["X"][part][3] = value
    else:
        with h5py.File(path, "r+") as file:
            file["X"][part][3] = value
    places = {"output": tmp_path / "out.h5ad"}
    if kind == "backed":
        path, places = anndata.read_h5ad(path, backed="r"), {}
    with pytest.raises((OSError, ValueError), match=r"of the data|a\.(h5ad|zarr)") as error:
        ep.tl.embed(path, model, **places)
    assert (
        "entries" in str(error.value)
        or "Rows 0 to" in str(error.value)
        or "numbers" in str(error.value)
    )
    assert not (tmp_path / "out.h5ad").exists()


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.parametrize("dtype", ["float16", ">i4"])
@pytest.mark.parametrize("form", ["dense", "CSR"])
def test_dtypes_in_files(kind, dtype, form, mdata, model, expected, tmp_path):
    data = mdata.copy()
    path = tmp_path / ("a.zarr" if kind == "zarr" else "a.h5mu")
    data.write_zarr(path) if kind == "zarr" else data.write(path)
    root = zarr.open_group(path, mode="r+") if kind == "zarr" else h5py.File(path, "r+")
    for name, modality in data.mod.items():
        group, key = root["mod"][name], "X"
        values = modality.X.toarray()
        if form == "CSR":
            group, key, values = group["X"], "data", modality.X.data
            index = group["indices"][:].astype(">i8" if kind == "h5ad" else "int64")
            write(group, "indices", index)
        write(group, key, values.astype(dtype))
    if kind != "zarr":
        root.close()
    ep.tl.embed(path, model, output=tmp_path / "out.h5ad")
    found = anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_epifoundation"]
    np.testing.assert_allclose(found, expected[embed], rtol=1e-5)
    again = ep.tl.pretrain(path, genome="hg38", **LABELS)
    np.testing.assert_allclose(embed(data, again), expected[pretrain], rtol=1e-4, atol=1e-6)


def write(group, key, values):
    attributes = {} if key in ("data", "indices") else {"encoding-type": "array"}
    del group[key]
    if isinstance(group, zarr.Group):
        array = group.create_array(key, shape=values.shape, dtype=values.dtype)
        array[...] = values
    else:
        group[key] = values
    group[key].attrs.update(attributes)


@pytest.mark.parametrize("path", ["a.h5mu", "a.zarr"])
def test_a_matrix_of_another_size(path, mdata, model, tmp_path):
    path = tmp_path / path
    mdata.write_zarr(path) if path.suffix == ".zarr" else mdata.write(path)
    root = zarr.open_group(path, mode="r+") if path.suffix == ".zarr" else h5py.File(path, "r+")
    root["mod/atac/X"].attrs["shape"] = (200, 140)
    if path.suffix == ".h5mu":
        root.close()
    with pytest.raises(OSError, match=r"`X` of .*a\.\w+' has 200 x 140 values, but .* 150 columns"):
        ep.tl.embed(path, model, output=tmp_path / "out.h5ad")
