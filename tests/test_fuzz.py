"""Public functions on damaged data and options of any type: a result, or an error of this package.

A few examples of each run with the other tests; ``EPIFOUNDATION_FUZZ=10000 pytest
tests/test_fuzz.py`` tries as many of each.
"""

import contextlib
import inspect
import os
import traceback
import warnings
from functools import cache
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from mudata import MuData

import epifoundation as ep

N_EXAMPLES = int(os.environ.get("EPIFOUNDATION_FUZZ", "12"))
ERRORS = (ValueError, TypeError, KeyError, OSError)
GENES = ["gene0", "gene1"]
LABELS = {"label_key": "cell_type", "batch_key": "batch"}


@cache
def base():
    """Cells of which some are drawn, and a model of all of them."""
    mdata = ep.datasets.simulate_multiome(200, 60, 8, rng=0)
    mdata["atac"].obs["n"] = np.arange(mdata.n_obs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ep.tl.pretrain(mdata, genome="hg38", **LABELS)
        rows = np.arange(0, 200, 5)
        small = MuData({name: one[rows].copy() for name, one in mdata.mod.items()})
        ep.tl.embed(small, model)
        ep.tl.annotate(small, model)
        ep.tl.link_peaks(small, model, genes=GENES, max_distance=20_000)
    small["atac"].obsm["X_umap"] = np.zeros((small.n_obs, 2), np.float32)
    return small, model


# Damage to matrices
DTYPES = ["float16", ">f4", ">i4", "int8", "uint8", "uint16", "int64", "uint64", "bool", "float64"]
DTYPES += ["longdouble", "complex64", "object", "U3", "M8[s]", "S3"]
VALUES = [np.nan, np.inf, -np.inf, -1.0, -0.0, 0.0, 0.5, 1e30, 3e38, 2.0**53]
FORMATS = {
    "dense": lambda x: x.toarray(),
    "csc": lambda x: x.tocsc(),
    "csr array": sp.csr_array,
    "csc array": sp.csc_array,
    "fortran": lambda x: np.asfortranarray(x.toarray()),
    "masked": lambda x: np.ma.masked_equal(x.toarray(), 1),
    "read-only": lambda x: np.broadcast_to(x.toarray()[:1], x.shape),
}


def change_dtype(draw, x):
    dtype = draw(st.sampled_from(DTYPES))
    with np.errstate(all="ignore"):
        if sp.issparse(x):
            x = x.copy()
            x.data = x.data.astype(dtype)
            return x
        return x.astype(dtype)


def change_values(draw, x):
    x, value = x.copy(), draw(st.sampled_from(VALUES))
    data = x.data if sp.issparse(x) else x.reshape(-1)
    if data.dtype.kind == "f" and len(data) and data.flags.writeable:
        with np.errstate(all="ignore"):
            data[draw(st.slices(len(data)))] = value
    return x


def change_index(draw, x):
    if not sp.issparse(x):
        return x
    x = x.copy()
    part = getattr(x, draw(st.sampled_from(["indices", "indptr"])))
    value = draw(st.sampled_from([-1, 0, 1, 2, 10**6, 2**31 - 1, -(2**31), *x.shape]))
    if len(part):
        part[draw(st.integers(0, len(part) - 1))] = value
    return x


def change_format(draw, x):
    if not sp.issparse(x) or x.dtype.str[1:] not in ("f4", "f8"):
        return x
    return FORMATS[draw(st.sampled_from(sorted(FORMATS)))](x)


def change_matrix(draw, data):
    adata = data.mod[draw(st.sampled_from(["atac", "rna"]))]
    x = adata.X
    changes = [change_values, change_format, change_dtype, change_index]
    # Indices last: numpy and scipy read past the end with wrong ones
    for change in sorted(draw(st.lists(st.sampled_from(changes), max_size=2)), key=changes.index):
        x = change(draw, x)
    adata.X = x


def remove_matrix(draw, data):
    data.mod[draw(st.sampled_from(["atac", "rna"]))].X = None


# Damage to tables
texts = st.one_of(
    st.sampled_from(["", " ", "a/b", ".", "..", "nan", "categories", "codes", "_index", "index"]),
    st.sampled_from(["\ud800", "x" * 3000, "a\tb", "a\nb", "a\0b", "unknown", "type0", " | ", "0"]),
    st.text(max_size=6),
)
scalars = st.one_of(
    texts,
    st.none(),
    st.booleans(),
    st.integers(-3, 2**40),
    st.floats(),
    st.sampled_from([b"x", (1, 2), pd.NaT, pd.NA, pd.Timestamp(0), 1j, frozenset(), np.int8(3)]),
)
junk = st.one_of(
    scalars,
    st.builds(list),
    st.builds(dict),
    st.builds(object),
    st.lists(scalars, max_size=3),
    st.sampled_from([np.float32(0.1), Path("nothing"), pd.DataFrame(), print, float]),
    st.builds(lambda value: np.array(value, dtype=object), st.lists(texts, max_size=3)),
    st.builds(lambda value: np.array(value), st.integers(0, 3)),
    st.builds(lambda value: iter(value), st.lists(texts, max_size=2)),
    st.builds(set, st.lists(texts, max_size=2)),
)


def change_column(draw, data):
    """Other values in a column of `obs`."""
    atac = data["atac"]
    key = draw(st.sampled_from(["cell_type", "batch", "n"]))
    values = draw(st.lists(st.one_of(scalars, texts), min_size=1, max_size=4))
    column = pd.Series(np.resize(np.arange(len(values)), atac.n_obs)).map(dict(enumerate(values)))
    if draw(st.booleans()):
        with contextlib.suppress(TypeError, ValueError):
            column = column.astype("category")
    atac.obs[key] = (
        column.to_numpy() if draw(st.booleans()) else pd.Series(column.array, index=atac.obs_names)
    )


def nested_column(draw, data):
    """Lists, arrays or mappings in a column."""
    one = draw(st.sampled_from([[1], {}, {"a"}, np.zeros(2)]))
    key = draw(st.sampled_from(["cell_type", "batch"]))
    data["atac"].obs[key] = pd.Series([one] * data.n_obs, index=data["atac"].obs_names)


def name_columns(draw, data):
    """Columns of other names, or twice."""
    table = draw(st.sampled_from(["obs", "var"]))
    adata = data.mod[draw(st.sampled_from(["atac", "rna"]))]
    frame = getattr(adata, table).copy()
    names = list(frame.columns)
    if names:
        names[draw(st.integers(0, len(names) - 1))] = draw(
            st.one_of(st.integers(0, 3), texts, st.sampled_from(["chrom", "cell_type"]))
        )
        frame.columns = pd.Index(names, dtype=object)
        setattr(adata, table, frame)


def change_peaks(draw, data):
    """Other values in columns of peaks and genes, or names in their place."""
    adata = data.mod[draw(st.sampled_from(["atac", "atac", "rna"]))]
    var = adata.var.copy()
    key = draw(st.sampled_from(["chrom", "start", "end", "interval", "feature_types", "strand"]))
    values = draw(
        st.one_of(
            st.lists(scalars, min_size=1, max_size=3),
            st.sampled_from([["chr1:5-9"], ["NA", "chr2:10-20"], ["Peaks"], ["Gene Expression"]]),
        )
    )
    filled = np.empty(len(var), dtype=object)
    filled[:] = [values[i % len(values)] for i in range(len(var))]
    keep = draw(st.booleans()) and key in var.columns
    var[key] = np.where(np.arange(len(var)) % 3 == 0, filled, var[key]) if keep else filled
    if draw(st.booleans()):
        var = var.drop(columns=draw(st.sampled_from(list(var.columns))))
    adata.var = var


def rename(draw, data):
    """Names of cells, peaks and genes."""
    adata = data.mod[draw(st.sampled_from(["atac", "rna"]))]
    which = draw(st.sampled_from(["obs_names", "var_names"]))
    names = list(getattr(adata, which))
    for name in draw(st.lists(texts, min_size=1, max_size=2)):
        names[draw(st.integers(0, len(names) - 1))] = name
    setattr(adata, which, pd.Index(names, dtype=object))


def change_uns(draw, data):
    """Results of other programs under our names."""
    atac = data["atac"]
    key = draw(st.sampled_from(["", "_links", "_annotation", "_links_report", "_integration"]))
    value = draw(junk)
    atac.uns[f"epifoundation{key}"] = draw(st.sampled_from([value, {"model": value}, {"peaks": 3}]))


def change_obsm(draw, data):
    value = draw(
        st.sampled_from([sp.csr_matrix(np.eye(40)), np.full((40, 3), np.nan), np.zeros((40, 0))])
    )
    data["atac"].obsm[draw(st.sampled_from(["X_epifoundation", "X_umap"]))] = value[: data.n_obs]


def drop(draw, data):
    """Few or no cells, peaks or genes; a missing modality."""
    n_obs, n_vars = draw(st.sampled_from([(0, None), (1, None), (3, None), (None, 0), (None, 1)]))
    name = draw(st.sampled_from(["atac", "rna"]))
    data.mod[name] = data.mod[name][:n_obs, :n_vars].copy()


CHANGES = [
    change_matrix,
    change_matrix,
    remove_matrix,
    change_column,
    nested_column,
    name_columns,
    change_peaks,
    rename,
    change_uns,
    change_obsm,
    drop,
]


class Parts(dict):
    """The modalities of a MuData, which takes long to build."""

    @property
    def mod(self):
        return self

    @property
    def n_obs(self):
        return self["atac"].n_obs


def data_to(draw):
    """Data with up to two changes: a MuData, or its ATAC alone."""
    small, _ = base()
    data = Parts({name: one.copy() for name, one in small.mod.items()})
    chosen = draw(st.lists(st.sampled_from(CHANGES), max_size=2))
    for change in sorted(chosen, key=lambda one: one is change_matrix):
        with contextlib.suppress(Exception):  # refused by anndata or pandas
            change(draw, data)
    with contextlib.suppress(Exception):  # refused by mudata
        return MuData(data) if draw(st.booleans()) else data["atac"]
    return data["atac"]


# Functions, with the options of a call that works
def consensus(data, **options):
    return ep.pp.consensus_peaks([data, data], **options)


def link_variants(data, **options):
    table = pd.DataFrame({"chrom": "chr1", "pos": [5, 60_000], "id": ["rs1", None]})
    return ep.tl.link_variants(options.pop("variants", table), data, **options)


def network(data, **options):
    atac = data["atac"] if isinstance(data, MuData) else data
    hits = pd.DataFrame({"tf": "A", "peak": atac.var_names[:50].astype(str)})
    return ep.get.network(data, **{"motifs": hits} | options)


@cache
def fragments():
    """A file with the fragments of the cells; once, in the folder of this module."""
    return ep.datasets.simulate_fragments(base()[0]["atac"], "fragments.tsv.gz").absolute()


def group_coverage(data, **options):
    atac = data["atac"] if isinstance(data, MuData) else data
    groups = options.pop("groups", None)
    groups = atac.obs.get("cell_type") if groups is None else groups
    return ep.pp.group_coverage(fragments(), groups, **{"genome": "hg38"} | options)


def scan(data, model, **options):
    return [*ep.tl.scan_knock_outs(data, model, **options)]


PEAK = "chr1:1-100000000"
TOOLS = {
    "map_peaks": (ep.pp.map_peaks, {}),
    "consensus_peaks": (consensus, {}),
    "embed": (ep.tl.embed, {}),
    "annotate": (ep.tl.annotate, {}),
    "annotate_by": (ep.tl.annotate, {"reference": ..., **LABELS}),
    "predict_expression": (ep.tl.predict_expression, {"genes": GENES}),
    "link_peaks": (
        ep.tl.link_peaks,
        {"genes": GENES, "max_distance": 20_000, "groupby": "cell_type"},
    ),
    "gene_activity": (ep.tl.gene_activity, {}),
    "impute_accessibility": (ep.tl.impute_accessibility, {"groupby": "cell_type"}),
    "knock_out": (ep.tl.knock_out, {"peaks": PEAK}),
    "scan_knock_outs": (scan, {"peaks": PEAK, "genes": GENES}),
    "score_integration": (ep.tl.score_integration, LABELS),
    "link_variants": (link_variants, {"max_qvalue": None, "groupby": "cell_type", "window": 10**7}),
    "write_links": (ep.tl.write_links, {"path": "a.bedpe", "max_qvalue": None}),
    "network": (network, {"max_qvalue": None}),
    "group_coverage": (group_coverage, {"directory": "tracks", "overwrite": True}),
    "pretrain": (ep.tl.pretrain, {"genome": "hg38", **LABELS}),
    "finetune": (ep.tl.finetune, LABELS),
}
ORIGINAL = {
    "consensus_peaks": ep.pp.consensus_peaks,
    "group_coverage": ep.pp.group_coverage,
    "link_variants": ep.tl.link_variants,
    "network": ep.get.network,
    "scan_knock_outs": ep.tl.scan_knock_outs,
}
# Would start processes, or look for hardware, or write to any place of the machine
FIXED = {
    "data",
    "fragments",
    "sources",
    "model",
    "engine",
    "device",
    "n_jobs",
    "checkpoint",
    "init",
    "n_workers",
}


def options_to(draw, name):
    tool, options = TOOLS[name]
    options = dict(options)
    parameters = set(inspect.signature(ORIGINAL.get(name, tool)).parameters) - FIXED
    for key in draw(st.lists(st.sampled_from(sorted(parameters)), max_size=2, unique=True)):
        options[key] = draw(st.one_of(junk, st.sampled_from(["cell_type", "batch", "n", "rna"])))
    return options


def contents(value):
    """Everything in an object, for comparison."""
    if isinstance(value, MuData):
        return {name: contents(one) for name, one in value.mod.items()} | {
            "obs": contents(value.obs), "var": contents(value.var)
        }  # fmt: skip
    if isinstance(value, anndata.AnnData):
        parts = ("obs", "var", "obsm", "varm", "obsp", "layers", "uns")
        return {name: contents(getattr(value, name)) for name in parts} | {"X": contents(value.X)}
    if isinstance(value, pd.DataFrame):
        columns = [
            (repr(name), str(value.dtypes.iloc[i]), repr(value.iloc[:, i].tolist()))
            for i, name in enumerate(value.columns)
        ]
        return columns, repr(value.index.tolist())  # fmt: skip
    if sp.issparse(value):
        arrays = value.data, value.indices, value.indptr
        return value.format, value.shape, [contents(array) for array in arrays]
    if isinstance(value, np.ndarray):
        raw = repr(value.tolist()) if value.dtype.kind == "O" else value.tobytes()
        return str(value.dtype), value.shape, raw
    if hasattr(value, "items"):
        return {str(key): contents(one) for key, one in value.items()}
    return repr(value)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Files are written here; integration metrics take a minute to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fuzz"))
        patch.setattr(
            ep.tl._score_integration, "_benchmark", lambda scored, *_: pd.DataFrame({"Total": [0]})
        )
        yield


@pytest.mark.parametrize("name", TOOLS)
@settings(
    max_examples=N_EXAMPLES,
    deadline=None,
    derandomize=N_EXAMPLES < 1000,
    suppress_health_check=list(HealthCheck),
)
@given(source=st.data())
def test_a_result_or_an_error_of_this_package(name, source):
    tool, _ = TOOLS[name]
    data, options = data_to(source.draw), options_to(source.draw, name)
    if options.get("reference") is ...:
        options["reference"] = base()[0]
    model = [base()[1]] if "model" in inspect.signature(tool).parameters else []
    before = contents(data)
    note(f"{name}(**{options!r}) of {data!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tool(data, *model, **options)
            return
        except ERRORS as caught:
            error = caught
    *_, last = traceback.extract_tb(error.__traceback__)
    package = str(Path(ep.__file__).parent)
    assert last.filename.startswith(package), f"{last.filename}:{last.lineno}: {error!r}"
    assert str(error)
    assert contents(data) == before, f"changed by {error!r}"
