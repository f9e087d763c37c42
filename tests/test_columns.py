"""Any names of labels and genes can be written and come back, in memory and by blocks."""

from dataclasses import replace

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st

import epifoundation as ep
from epifoundation._columns import MAX_BYTES, check_storable, column_keys, table_of, with_names

ODD = ["L2/3 IT", "L2_3 IT", "L2/3_IT", "/", "//", ".", "..", "_", "_index", "index", "codes"]
ODD += ["categories", "zarr.json", ".zattrs", "a\\b", "a\nb", "a\x7fb", "a", "A", "a ", " a", "\t"]
ODD += ["x" * 300, "x" * 299 + "/", "é" * 150, "é" * 151, "T | NK", "unknown", "c/0", "__x", "1"]
text = st.one_of(
    st.sampled_from(ODD), st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
)
READ = {"h5ad": anndata.read_h5ad, "zarr": anndata.read_zarr}


@given(st.lists(text, unique=True, max_size=40), st.none() | text)
@example(["a/b", "a_b", "a_b_1", "a\\b"], None)
@example(["x" * 201, "x" * 202, "x" * 203], "x" * 200)
def test_keys_are_accepted_unique_and_map_back(names, index):
    keys = column_keys(names, index)
    assert len(set(keys) | {index, "_index", "", ".", ".."}) == len(
        {index, "_index", "", ".", ".."}
    ) + len(names)
    for name, key in zip(names, keys, strict=True):
        assert not set(key) & set("/\\\0\n\t")
        assert len(key.encode()) < MAX_BYTES + 20
        plain = name.isprintable() and not set(name) & set("/\\") and name[0] not in "._"
        if plain and name != "zarr.json" and name != index and len(name.encode()) < MAX_BYTES:
            assert key == name
    table = table_of(np.ones((1, len(names))), pd.Index(["cell"], name=index), names)
    assert list(table) == keys
    assert list(with_names(table, names)) == names
    assert list(with_names(table.iloc[:, 1::2], names)) == names[1::2]
    assert list(with_names(table.rename_axis("other"), names)) == names


def test_tables_without_names_stay_as_they_are():
    """Of files of version 0.1."""
    table = pd.DataFrame({"a": [1.0], "b": [2.0]})
    assert list(with_names(table, [])) == ["a", "b"]


@pytest.mark.parametrize("suffix", READ)
def test_every_key_can_be_written(suffix, tmp_path):
    """The rule above is that of the libraries."""
    cells = anndata.AnnData(obs=pd.DataFrame(index=["c1", "c2"]))
    values = np.arange(2.0 * len(ODD)).reshape(2, -1)
    cells.obsm["table"] = table_of(values, cells.obs_names, ODD)
    path = tmp_path / f"cells.{suffix}"
    cells.write_h5ad(path) if suffix == "h5ad" else cells.write_zarr(path)
    found = with_names(READ[suffix](path).obsm["table"], ODD)
    pd.testing.assert_frame_equal(
        found, pd.DataFrame(values, cells.obs_names, ODD), check_column_type=False
    )
    root = h5py.File(path) if suffix == "h5ad" else zarr.open_group(path)
    assert len(root["obsm/table"]) == len(ODD) + 1


@pytest.fixture(scope="module")
def some(simulated):
    return simulated["atac"][:20].copy()


@pytest.mark.slow
@settings(max_examples=3)
@given(st.lists(text, unique=True, min_size=4, max_size=4))
@example(["L2/3 IT", "L2_3 IT", "codes", "categories"])
@example(["/", ".", "..", "_index"])
def test_labels_come_back_from_memory_and_blocks(tmp_path_factory, model, some, labels):
    folder = tmp_path_factory.mktemp("labels")
    named = replace(model, labels=labels)
    expected = some.copy()
    ep.tl.annotate(expected, named)
    likely = ep.get.probabilities(expected)
    assert list(likely) == labels == list(expected.uns["epifoundation_annotation"]["labels"])
    plain = ep.tl.annotate(some, model, copy=True).obsm["epifoundation_probabilities"]
    np.testing.assert_array_equal(likely, plain)
    some.write_h5ad(folder / "cells.h5ad")
    for suffix, read in READ.items():
        path = folder / f"memory.{suffix}"
        expected.write_h5ad(path) if suffix == "h5ad" else expected.write_zarr(path)
        out = ep.tl.annotate(folder / "cells.h5ad", named, output=folder / f"blocks.{suffix}")
        for each in (path, out):
            pd.testing.assert_frame_equal(
                ep.get.probabilities(each), likely, check_index_type=False, atol=1e-6
            )
            found = read(each)
            for key in ("epifoundation_cell_type", "epifoundation_set"):
                assert list(found.obs[key].astype(object)) == list(expected.obs[key].astype(object))
    ep.tl.annotate(folder / "cells.h5ad", named)  # into the file of the cells
    assert list(ep.get.probabilities(folder / "cells.h5ad")) == labels


@pytest.mark.slow
@settings(max_examples=1)
@given(st.lists(text.filter(str.strip), unique=True, min_size=40, max_size=40))
@example(([name for name in ODD if name.strip()] + [f"gene{i}" for i in range(40)])[:40])
def test_genes_come_back_from_memory_and_blocks(tmp_path_factory, model, some, genes):
    folder = tmp_path_factory.mktemp("genes")
    named = replace(model, genes=ep.GeneVocabulary(genes))
    atac = some.copy()
    ep.tl.embed(atac, named)
    expected = ep.get.expression(atac)
    assert list(expected.var_names) == genes == list(atac.uns["epifoundation"]["genes"])
    atac.write_zarr(folder / "memory.zarr")
    some.write_h5ad(folder / "cells.h5ad")
    out = ep.tl.embed(folder / "cells.h5ad", named, output=folder / "blocks.zarr")
    ep.tl.embed(folder / "cells.h5ad", named)
    for path in (folder / "memory.zarr", out, folder / "cells.h5ad"):
        found = ep.get.expression(path)
        assert list(found.var_names) == genes
        np.testing.assert_allclose(found.X, expected.X, atol=1e-6)
    few = ep.tl.predict_expression(some, named, genes=genes[3::7], copy=True)
    assert list(ep.get.expression(few).var_names) == genes[3::7]


@pytest.mark.parametrize("bad", ["a\0b", "\0", "half \ud800"])
def test_what_no_file_can_contain_is_refused_before_the_work(mdata, model, bad):
    with pytest.raises(ValueError, match=r"contains a character that h5ad and zarr cannot store"):
        check_storable(["good", bad], "label")
    with pytest.raises(ValueError, match="gene name"):
        ep.GeneVocabulary(["a", bad])
    with pytest.raises(ValueError, match="are not among the"):
        ep.tl.predict_expression(mdata, model, genes=[bad])
    with pytest.raises(ValueError, match="neither a peak of the data nor a region"):
        ep.tl.impute_accessibility(mdata, model, peaks=[bad])
    atac = mdata["atac"]
    atac.obs["label"] = pd.Series(["good", bad] * 200, atac.obs_names, dtype=object)
    query = atac.copy()
    with pytest.raises(ValueError, match=r"store|surrogates"):
        ep.tl.annotate(query, model, reference=atac, label_key="label")
    assert not query.obsm


@pytest.mark.parametrize("key", ["runs/1", "a\\b", "..", "x" * 300, "a\0"])
def test_keys_of_results_are_those_that_files_accept(mdata, model, key):
    with pytest.raises(ValueError, match="`key_added"):
        ep.tl.embed(mdata, model, key_added=key)


@pytest.mark.parametrize("suffix", READ)
def test_groups_with_slashes_of_imputed_peaks_come_back(mdata, model, suffix, tmp_path):
    atac = mdata["atac"]
    groups = {"type0": "CD4/CD8", "type1": "CD4_CD8", "type2": "..", "type3": "T"}
    atac.obs["group"] = atac.obs["cell_type"].astype(str).map(groups)
    ep.tl.impute_accessibility(atac, model, groupby="group")
    ep.tl.impute_accessibility(atac, model, peaks=list(atac.var_names[:3]))
    path = tmp_path / f"cells.{suffix}"
    atac.write_h5ad(path) if suffix == "h5ad" else atac.write_zarr(path)
    found = ep.get.accessibility(path)
    assert list(found) == sorted(groups.values())
    np.testing.assert_array_equal(found, ep.get.accessibility(atac))
    ep.tl.impute_accessibility(atac, model, groupby="cell_type", key_added="plain")
    plain = ep.get.accessibility(atac, key_added="plain").rename(columns=groups)
    np.testing.assert_array_equal(found[list(plain)], plain)
