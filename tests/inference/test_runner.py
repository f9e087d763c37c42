"""Cells by blocks: the results of cells in memory, from any file, whatever happens on the way."""

import shutil
import signal
import textwrap
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from stored_cells import StopError, bytes_of, interrupt, read, write

import epifoundation as ep
from epifoundation.inference import block_store, plan, reader


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(plan, "BLOCK_CELLS", 64)


def assert_results(found, expected, *, expression=True):
    """Results of a file are those of cells in memory, to the rounding of other chunks."""
    assert list(found.obs_names) == list(expected.obs_names)
    np.testing.assert_allclose(
        found.obsm["X_epifoundation"], expected.obsm["X_epifoundation"], atol=1e-5
    )
    pd.testing.assert_frame_equal(
        found.obsm["epifoundation_probabilities"],
        expected.obsm["epifoundation_probabilities"],
        check_names=False,
        atol=1e-5,
    )
    for name in ("cell_type", "confidence", "coverage"):
        key = f"epifoundation_{name}"
        pd.testing.assert_series_equal(
            found.obs[key], expected.obs[key], check_names=False, atol=1e-5
        )
    if expression:
        values = expected.obsm["epifoundation_expression"]
        assert list(found.var_names) == list(values.columns)
        np.testing.assert_allclose(found.layers["epifoundation"], values.to_numpy(), atol=1e-4)


@pytest.fixture
def embedded(mdata, model):
    atac = mdata["atac"].copy()
    ep.tl.embed(atac, model)
    return atac


@pytest.mark.parametrize("output", ["results.h5ad", "results.zarr"])
@pytest.mark.parametrize("source", ["atac.h5ad", "atac.zarr", "both.h5mu", "both.zarr"])
def test_results_are_those_of_cells_in_memory(mdata, model, embedded, tmp_path, source, output):
    path = write(mdata if source.startswith("both") else mdata["atac"], tmp_path / source)
    before = sorted(tmp_path.iterdir())
    assert ep.tl.embed(path, model, output=tmp_path / output) == tmp_path / output
    found = read(tmp_path / output)
    assert_results(found, embedded)
    assert found.obsm["X_epifoundation"].dtype == found.layers["epifoundation"].dtype == np.float32
    report, expected = found.uns["epifoundation"], embedded.uns["epifoundation"]
    assert report["revision"] == model.revision
    assert report["expression_scale"] == expected["expression_scale"]
    for name, value in expected["peaks"].items():
        assert report["peaks"][name] == pytest.approx(value), name
    # Nothing else is left
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / output])


@pytest.mark.parametrize("kind", ["memory", "backed", "dense", "csc", "int64"])
def test_any_matrix(mdata, model, embedded, tmp_path, kind):
    atac = mdata["atac"].copy()
    if kind == "dense":
        atac.X = atac.X.toarray()
    elif kind == "csc":
        atac.X = atac.X.tocsc()
    elif kind == "int64":
        atac.X = atac.X.astype(np.int64)
    if kind != "memory":
        write(atac, tmp_path / "a.h5ad")
        atac = (
            ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
            if kind == "backed"
            else tmp_path / "a.h5ad"
        )
    ep.tl.embed(atac, model, output=tmp_path / "out.zarr")
    assert_results(read(tmp_path / "out.zarr"), embedded)


@pytest.mark.parametrize(
    ("cells", "entries"), [(1, 2**24), (7, 2**24), (10_000, 2**24), (64, 500), (64, 1)]
)
def test_blocks_do_not_matter(mdata, model, embedded, tmp_path, monkeypatch, cells, entries):
    monkeypatch.setattr(plan, "BLOCK_CELLS", cells)
    monkeypatch.setattr(plan, "BLOCK_ENTRIES", entries)
    atac = mdata["atac"][:90].copy()
    ep.tl.embed(atac, model, output=tmp_path / "out.h5ad")
    assert_results(read(tmp_path / "out.h5ad"), embedded[:90].copy())


def test_a_block_has_a_limit_of_predicted_values(mdata, model, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "BLOCK_VALUES", 30 * len(model.genes))
    sizes = {True: [], False: []}
    compute = reader.Reader.compute
    for expression, seen in sizes.items():
        monkeypatch.setattr(
            reader.Reader,
            "compute",
            lambda self, block, mapping, seen=seen: (
                seen.append(len(block.names)) or compute(self, block, mapping)
            ),
        )
        ep.tl.embed(
            mdata["atac"], model, expression=expression, output=tmp_path / f"{expression}.zarr"
        )
    assert max(sizes[True]) == 30
    assert max(sizes[False]) == 64
    assert sum(sizes[True]) == sum(sizes[False]) == mdata["atac"].n_obs


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_threads_do_not_matter(mdata, model, tmp_path, n_threads):
    """Blocks are computed in as many threads, each with its part of those that torch has."""
    before = torch.get_num_threads()
    path = write(mdata["atac"], tmp_path / "a.h5ad")
    ep.tl.embed(path, model, output=tmp_path / "expected.h5ad")
    try:
        torch.set_num_threads(n_threads)
        ep.tl.embed(path, model, output=tmp_path / "out.h5ad")
        assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "out.h5ad").read_bytes() == (tmp_path / "expected.h5ad").read_bytes()


def test_several_files_with_other_peaks(mdata, model, tmp_path):
    atac = mdata["atac"]
    shuffled = np.random.default_rng(0).permutation(atac.n_vars)
    parts = [atac[:150].copy(), atac[150:].copy()[:, shuffled[:500]].copy()]
    paths = [write(parts[0], tmp_path / "a.h5ad"), write(parts[1], tmp_path / "b.zarr")]
    ep.tl.embed(paths, model, output=tmp_path / "out.zarr")
    found = read(tmp_path / "out.zarr")
    for part, rows in zip(parts, (slice(0, 150), slice(150, 400)), strict=True):
        ep.tl.embed(part, model)
        assert_results(found[rows].copy(), part)
    assert list(found.obs["epifoundation_file"]) == [str(paths[0])] * 150 + [str(paths[1])] * 250
    table = found.uns["epifoundation_files"]
    assert list(table.index) == [str(path) for path in paths]
    assert list(table["data"]) == [600, 500]
    counts = [part.uns["epifoundation"]["peaks"]["open_fraction_matched"] for part in parts]
    assert (
        min(counts) <= found.uns["epifoundation"]["peaks"]["open_fraction_matched"] <= max(counts)
    )


def test_samples_by_name(mdata, model, tmp_path):
    path = write(mdata["atac"], tmp_path / "a.h5ad")
    ep.tl.embed(
        {"one": path, "two": mdata["atac"]}, model, output=tmp_path / "out.h5ad", expression=False
    )
    found = read(tmp_path / "out.h5ad")
    names = list(mdata["atac"].obs_names)
    assert list(found.obs_names) == [f"one_{name}" for name in names] + [
        f"two_{name}" for name in names
    ]
    assert list(found.obs["epifoundation_file"].cat.categories) == ["one", "two"]
    np.testing.assert_array_equal(
        found.obsm["X_epifoundation"][:400], found.obsm["X_epifoundation"][400:]
    )


def test_names_in_two_files(mdata, model, tmp_path):
    paths = [
        write(mdata["atac"][:30].copy(), tmp_path / "a.h5ad"),
        write(mdata["atac"][29:60].copy(), tmp_path / "b.h5ad"),
    ]
    with pytest.raises(
        ValueError,
        match=rf"1 names of cells.*first {mdata['atac'].obs_names[29]!r}.*Pass a mapping",
    ):
        ep.tl.embed(paths, model, output=tmp_path / "out.h5ad")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5ad", "b.h5ad"]


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr", "both.h5mu", "both.zarr"])
def test_into_the_file_itself(mdata, model, tmp_path, name):
    data = mdata if name.startswith("both") else mdata["atac"]
    path = write(data, tmp_path / name)
    assert ep.tl.embed(path, model, key_added="other") == path
    assert ep.tl.embed(path, model) == path
    ep.tl.embed(data, model, key_added="other")
    ep.tl.embed(data, model)
    found, expected = read(path), data
    if name.startswith("both"):
        for key in ("epifoundation", "other"):
            np.testing.assert_allclose(
                found["rna"].layers[key], expected["rna"].layers[key], atol=1e-4
            )
        found, expected = found["atac"], expected["atac"]
    else:
        pd.testing.assert_frame_equal(
            found.obsm["other_expression"],
            expected.obsm["other_expression"],
            check_names=False,
            atol=1e-4,
        )
    assert_results(found, expected, expression=False)
    assert (found.X != expected.X).nnz == 0
    pd.testing.assert_frame_equal(found.var, expected.var, check_names=False)
    assert sorted(found.obs.columns) == sorted(expected.obs.columns)
    pd.testing.assert_series_equal(found.obs["batch"], expected.obs["batch"], check_names=False)
    assert sorted(found.obsm) == sorted(expected.obsm)
    assert sorted(found.uns) == sorted(expected.uns)
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_into_a_store_of_either_format(mdata, model, embedded, tmp_path, zarr_format):
    """Results are of the format of the store that they are moved into."""
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=zarr_format)
    ad.io.write_elem(root, "/", mdata["atac"])
    ep.tl.embed(tmp_path / "a.zarr", model)
    assert_results(read(tmp_path / "a.zarr"), embedded, expression=False)


# This option is what is tested
@pytest.mark.filterwarnings("ignore:The 'future.infer_string' option:DeprecationWarning")
@pytest.mark.parametrize("nullable", [None, True, False])
@pytest.mark.parametrize("infer_string", [True, False])
@pytest.mark.parametrize("output", ["out.h5ad", "out.zarr", None])
def test_text_is_written_whatever_the_settings(
    mdata, model, embedded, tmp_path, output, infer_string, nullable
):
    """Names, labels and sets as plain or nullable strings, in a new and in the same file."""
    path = write(mdata["atac"], tmp_path / "a.h5ad")
    with (
        pd.option_context("future.infer_string", infer_string),
        ad.settings.override(allow_write_nullable_strings=nullable),
    ):
        target = ep.tl.annotate(path, model, output=output and tmp_path / output)
        found = read(target)
        expected = ep.tl.annotate(mdata["atac"], model, copy=True)
        # Otherwise anndata itself refuses to write nullable strings
        if infer_string or nullable is not None:
            write(found, tmp_path / "again.h5ad")
            assert list(read(tmp_path / "again.h5ad").obs) == list(found.obs)
    assert list(found.obs_names) == list(embedded.obs_names)
    for name in ("cell_type", "set"):
        assert list(found.obs[f"epifoundation_{name}"]) == list(
            expected.obs[f"epifoundation_{name}"]
        )


def test_results_of_an_earlier_model_are_removed_from_the_file(mdata, model, tmp_path):
    atac = mdata["atac"]
    ep.tl.annotate(atac, model)
    ep.tl.predict_expression(atac, model)
    paths = [write(atac, tmp_path / name) for name in ("a.h5ad", "a.zarr")]
    other = ep.tl.pretrain(atac, objective="peaks")
    ep.tl.embed(atac, other)
    for path in paths:
        ep.tl.embed(path, other)
        found = read(path)
        assert sorted(found.obs.columns) == sorted(atac.obs.columns)
        assert sorted(found.obsm) == sorted(atac.obsm) == ["X_epifoundation"]
        assert sorted(found.uns) == sorted(atac.uns)


def test_annotate_files(mdata, model, tmp_path):
    atac = mdata["atac"].copy()
    path = write(atac, tmp_path / "a.zarr")
    for options in ({}, {"reference": mdata, "label_key": "cell_type"}):
        ep.tl.annotate(path, model, output=tmp_path / "out.zarr", overwrite=True, **options)
        expected = ep.tl.annotate(atac, model, copy=True, **options)
        found = read(tmp_path / "out.zarr")
        assert_results(found, expected, expression=False)
        assert list(found.obs["epifoundation_set"]) == list(expected.obs["epifoundation_set"])
        np.testing.assert_allclose(
            found.obs["epifoundation_novelty"], expected.obs["epifoundation_novelty"], atol=1e-3
        )
        report, wanted = (each.uns["epifoundation_annotation"] for each in (found, expected))
        assert sorted(report) == sorted(wanted)
        assert report["n_unknown"] == wanted["n_unknown"]


def test_predict_expression_of_files(mdata, model, tmp_path):
    path = write(mdata["atac"], tmp_path / "a.h5ad")
    expected = ep.tl.predict_expression(
        mdata["atac"], model, genes=["gene3", "gene1"], batch_key="batch", copy=True
    ).obsm["epifoundation_expression"]
    ep.tl.predict_expression(
        path, model, genes=["gene3", "gene1"], batch_key="batch", output=tmp_path / "out.zarr"
    )
    found = read(tmp_path / "out.zarr")
    assert list(found.var_names) == ["gene3", "gene1"]
    np.testing.assert_allclose(found.layers["epifoundation"], expected.to_numpy(), atol=1e-4)
    assert list(found.uns["epifoundation_expression"]["genes"]) == ["gene3", "gene1"]


def test_empty_cells_and_unknown_batches_raise_one_warning_each(mdata, model, tmp_path):
    atac = mdata["atac"].copy()
    X = atac.X.tolil()
    X[[3, 200]] = 0
    atac.X = X.tocsr()
    atac.obs["batch"] = np.where(np.arange(400) < 10, "new", atac.obs["batch"].astype(str))
    path = write(atac, tmp_path / "a.h5ad")
    with pytest.warns(UserWarning, match="cells") as caught:
        ep.tl.embed(path, model, batch_key="batch", output=tmp_path / "out.h5ad")
    messages = [str(each.message) for each in caught if issubclass(each.category, UserWarning)]
    assert len(messages) == 2
    assert "10 of 400 cells are from batches" in messages[0]
    assert "2 of 400 cells have no open peak" in messages[1]
    found = read(tmp_path / "out.h5ad")
    assert np.isnan(found.obsm["X_epifoundation"]).all(axis=1).nonzero()[0].tolist() == [3, 200]
    assert found.obs["epifoundation_cell_type"].isna().sum() == 2
    assert list(found.uns["epifoundation"]["parameters"]["unseen_batches"]) == ["new"]


@pytest.mark.parametrize("output", ["out.h5ad", "out.zarr"])
def test_resume_gives_the_same_bytes(mdata, model, tmp_path, monkeypatch, output):
    path = write(mdata["atac"], tmp_path / "a.h5ad")
    ep.tl.embed(path, model, output=tmp_path / "whole" / output)
    go_on = interrupt(monkeypatch, 3)
    with pytest.raises(StopError):
        ep.tl.embed(path, model, output=tmp_path / "again" / output)
    assert not (tmp_path / "again" / output).exists()
    go_on()
    computed = []
    compute = reader.Reader.compute
    monkeypatch.setattr(
        reader.Reader,
        "compute",
        lambda self, block, mapping: computed.append(1) or compute(self, block, mapping),
    )
    ep.tl.embed(path, model, output=tmp_path / "again" / output)
    assert len(computed) == 7 - 3
    assert bytes_of(tmp_path / "whole" / output) == bytes_of(tmp_path / "again" / output)
    # The same call again has nothing to do
    ep.tl.embed(path, model, output=tmp_path / "again" / output)
    assert len(computed) == 4


def test_blocks_of_another_run_are_in_the_way(mdata, model, tmp_path, monkeypatch):
    path = write(mdata["atac"], tmp_path / "a.h5ad")
    go_on = interrupt(monkeypatch, 2)
    with pytest.raises(StopError):
        ep.tl.embed(path, model, output=tmp_path / "out.h5ad")
    go_on()
    with pytest.raises(
        ValueError, match=r"unfinished results of another run: annotation was true, is false"
    ):
        ep.tl.embed(path, model, output=tmp_path / "out.h5ad", annotation=False)
    other = ep.tl.pretrain(mdata)
    with pytest.raises(ValueError, match="unfinished results of another run: model was"):
        ep.tl.embed(path, other, output=tmp_path / "out.h5ad")
    write(mdata["atac"][:399].copy(), path)
    with pytest.raises(
        ValueError, match="unfinished results of another run: cells was 400, is 399"
    ):
        ep.tl.embed(path, model, output=tmp_path / "out.h5ad")
    shutil.rmtree(tmp_path / "out.h5ad.partial")
    ep.tl.embed(path, model, output=tmp_path / "out.h5ad")
    assert read(tmp_path / "out.h5ad").n_obs == 399


def test_output_is_not_written_over(mdata, model, tmp_path):
    for name in ("out.h5ad", "out.zarr"):
        write(mdata["atac"][:5].copy(), tmp_path / name)
        with pytest.raises(FileExistsError, match="overwrite=True"):
            ep.tl.embed(mdata["atac"], model, output=tmp_path / name)
        assert read(tmp_path / name).n_obs == 5
        ep.tl.embed(mdata["atac"], model, output=tmp_path / name, overwrite=True)
        assert read(tmp_path / name).n_obs == 400


def test_bad_places(mdata, model, tmp_path):
    atac = mdata["atac"]
    path = write(atac, tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=r"must end in .zarr or .h5ad, got 'out.csv'"):
        ep.tl.embed(path, model, output="out.csv")
    with pytest.raises(FileNotFoundError, match="nowhere.h5ad' does not exist"):
        ep.tl.embed(tmp_path / "nowhere.h5ad", model)
    with pytest.raises(ValueError, match=r"Results of a list \(2\) need a file: pass `output=`"):
        ep.tl.embed([path, write(atac, tmp_path / "b.h5ad")], model)
    with pytest.raises(ValueError, match="named twice"):
        ep.tl.embed([path, path], model, output=tmp_path / "out.zarr")
    with pytest.raises(ValueError, match="`copy=True` is for cells in memory"):
        ep.tl.embed(path, model, copy=True)
    with pytest.raises(OSError, match="Cannot write to .*finished blocks are kept there"):
        ep.tl.embed(path, model, output=path / "out.zarr")  # below a file there is no folder
    with pytest.raises(TypeError, match="got none"):
        ep.tl.embed([], model, output=tmp_path / "out.zarr")
    (tmp_path / "text.h5ad").write_text("no HDF5")
    with pytest.raises(ValueError, match="text.h5ad' is a text file, which begins with 'no HDF5'"):
        ep.tl.embed(tmp_path / "text.h5ad", model)
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    with pytest.raises(ValueError, match="empty.zarr' is a zarr store without content"):
        ep.tl.embed(tmp_path / "empty.zarr", model)
    with pytest.raises(
        ValueError, match=r"`batch_key='donor'` is not a column of `obs` of .*a.h5ad'; available:"
    ):
        ep.tl.embed(path, model, batch_key="donor", output=tmp_path / "out.zarr")
    with pytest.raises(ValueError, match="No modality 'gex'"):
        ep.tl.embed(write(mdata, tmp_path / "m.h5mu"), model, modality="gex")
    nothing = write(atac[:0].copy(), tmp_path / "nothing.h5ad")
    with pytest.raises(ValueError, match="There are no cells"):
        ep.tl.embed(nothing, model, output=tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()
    assert not (tmp_path / "out.zarr.partial").exists()


def test_a_file_of_another_build_is_named(mdata, model, tmp_path):
    atac = mdata["atac"]
    path = write(atac, tmp_path / "a.h5ad")
    far = atac[:20].copy()
    far.obs_names = [f"far{i}" for i in range(20)]
    # Past the end of chr1 of hg38
    far.var["start"] = far.var["start"] + 240_000_000
    far.var["end"] = far.var["end"] + 240_000_000
    far = write(far, tmp_path / "far.h5ad")
    with pytest.raises(ValueError, match=r"^'.*far.h5ad': "):
        ep.tl.embed([path, far], model, output=tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr.partial").exists()


def test_a_file_that_is_cut_off(mdata, model, tmp_path, monkeypatch):
    path = write(mdata["atac"], tmp_path / "a.h5ad")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match=r"a.h5ad' cannot be opened .*truncated"):
        ep.tl.embed(path, model, output=tmp_path / "out.h5ad")

    store = write(mdata["atac"], tmp_path / "a.zarr")
    chunk = next(
        file
        for file in (store / "X" / "indices").rglob("*")
        if file.name.isdigit() and file.is_file()
    )
    chunk.rename(tmp_path / "chunk")
    with pytest.raises(OSError, match="1 of the .* chunks of `X/indices` are missing"):
        ep.tl.embed(store, model, output=tmp_path / "out.zarr")


def test_a_file_that_disappears(mdata, model, tmp_path, monkeypatch):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    ad.io.write_elem(root, "/", mdata["atac"])
    for part in ("data", "indices"):  # in many chunks
        values = root[f"X/{part}"][:]
        attributes = dict(root[f"X/{part}"].attrs)
        del root[f"X/{part}"]
        array = root.create_array(
            f"X/{part}", shape=values.shape, dtype=values.dtype, chunks=(500,)
        )
        array[:] = values
        array.attrs.update(attributes)
    save = block_store.BlockStore.save

    def lose(self, number, arrays, tally, origin):
        save(self, number, arrays, tally, origin)
        if number == 1 and (tmp_path / "a.zarr" / "X").exists():
            last = sorted(
                (tmp_path / "a.zarr" / "X" / "data").glob("[0-9]*"), key=lambda file: int(file.name)
            )[-1]
            last.rename(tmp_path / "lost")

    monkeypatch.setattr(block_store.BlockStore, "save", lose)
    with pytest.raises(
        OSError,
        match=r"a.zarr' is not whole: 1 of .*rows 384 to 399.*"
        r"finished blocks are kept.*the same call resumes",
    ):
        ep.tl.embed(tmp_path / "a.zarr", model, output=tmp_path / "out.zarr")
    monkeypatch.setattr(block_store.BlockStore, "save", save)
    data = tmp_path / "a.zarr" / "X" / "data"
    (tmp_path / "lost").rename(data / str(len(list(data.glob("[0-9]*")))))
    ep.tl.embed(tmp_path / "a.zarr", model, output=tmp_path / "out.zarr")
    ep.tl.embed(mdata["atac"], model)
    assert_results(read(tmp_path / "out.zarr"), mdata["atac"])


SCRIPT = """
import resource, signal, sys, time
from pathlib import Path
import torch
import epifoundation as ep
from epifoundation.inference import plan, reader
ep.settings.progress = False
torch.set_num_threads(1)
plan.BLOCK_CELLS = 20
folder, output, most = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
model = ep.models.from_pretrained(folder / "model")
n_computed = 0
compute = reader.Reader.compute
def counted(self, block, mapping):
    global n_computed
    n_computed += 1
    time.sleep(0.02)
    return compute(self, block, mapping)
reader.Reader.compute = counted
if most:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
Path(f"{folder}/ready{sys.argv[4]}").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
ep.tl.embed(folder / "a.h5ad", model, output=None if output == "-" else folder / output)
print(n_computed)
"""


@pytest.fixture
def folder(mdata, model, tmp_path):
    """What the script reads."""
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    model.save_pretrained(tmp_path / "model")
    write(mdata["atac"], tmp_path / "a.h5ad")
    return tmp_path


@pytest.fixture
def start(folder, forks):
    """Begin to embed the cells in another process."""

    def begin(output, *, most=0, number=0):
        process = forks.start(folder / "script.py", folder, output, most, number)
        while not (folder / f"ready{number}").exists() and process.poll() is None:
            time.sleep(0.01)
        (folder / f"ready{number}").unlink(missing_ok=True)
        return process

    return begin


@pytest.mark.slow
@pytest.mark.parametrize("output", ["out.h5ad", "out.zarr", "-"])
def test_killed_at_any_moment(folder, start, model, monkeypatch, output):
    """Ten kills: results are right or marked as incomplete, and in the end those of one run."""
    monkeypatch.setattr(plan, "BLOCK_CELLS", 20)
    original = (folder / "a.h5ad").read_bytes()
    expected = ep.tl.embed(folder / "a.h5ad", model, output=folder / "expected.zarr")
    wanted = read(expected)
    path = folder / ("a.h5ad" if output == "-" else output)
    (folder / "go").touch()
    rng = np.random.default_rng(0)
    n_killed = 0
    while n_killed < 10 // 3 + 1:  # of each kind of file
        process = start(output, number=n_killed)
        time.sleep(rng.uniform(0, 0.9))
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        n_killed += 1
        if path.exists() and path.name != "a.h5ad":
            np.testing.assert_array_equal(
                read(path).obsm["X_epifoundation"], wanted.obsm["X_epifoundation"]
            )
            assert process.returncode != 1, errors
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif path.name == "a.h5ad" and path.read_bytes() != original:
            np.testing.assert_array_equal(
                read(path).obsm["X_epifoundation"], wanted.obsm["X_epifoundation"]
            )
            path.write_bytes(original)
            shutil.rmtree(f"{path}.partial", ignore_errors=True)  # of the file as it was before
    process = start(output, number=n_killed)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    found = read(path)
    np.testing.assert_array_equal(found.obsm["X_epifoundation"], wanted.obsm["X_epifoundation"])
    assert list(found.obs["epifoundation_cell_type"]) == list(wanted.obs["epifoundation_cell_type"])
    assert not list(folder.glob("*.partial*"))


@pytest.mark.slow
def test_processes_share_the_blocks(folder, start, monkeypatch):
    monkeypatch.setattr(plan, "BLOCK_CELLS", 20)
    model = ep.models.from_pretrained(folder / "model")  # the name is in the results
    ep.tl.embed(folder / "a.h5ad", model, output=folder / "expected.h5ad")
    processes = [start("out.h5ad", number=i) for i in range(2)]
    (folder / "go").touch()
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    computed = [int(out) for out, _ in outputs]
    assert sum(computed) == 20
    assert min(computed) >= 2
    assert (folder / "out.h5ad").read_bytes() == (folder / "expected.h5ad").read_bytes()


@pytest.mark.slow
def test_one_of_two_processes_is_killed(folder, start):
    processes = [start("out.h5ad", number=i) for i in range(2)]
    (folder / "go").touch()
    time.sleep(0.3)
    processes[0].send_signal(signal.SIGKILL)
    processes[0].communicate()
    _, errors = processes[1].communicate()
    assert processes[1].returncode == 0, errors
    assert read(folder / "out.h5ad").n_obs == 400


@pytest.mark.slow
def test_a_full_disk_keeps_the_finished_blocks(folder, start):
    """A limit on file size stands for a full disk: first only blocks fit, then not even these."""
    (folder / "go").touch()
    process = start("out.h5ad", most=40_000)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "OSError" in errors
    assert not (folder / "out.h5ad").exists()
    n_blocks = len(list((folder / "out.h5ad.partial").glob("*.npz")))
    assert n_blocks == 20
    process = start("out.h5ad")
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    assert int(out) == 0  # none was lost
    process = start("more.h5ad", most=2_000)
    _, errors = process.communicate()
    assert "could not be written" in errors
    assert "is the disk full?" in errors
    assert not list((folder / "more.h5ad.partial").glob("*.tmp"))


def test_a_broken_block_is_not_taken_for_results(mdata, model, tmp_path, monkeypatch):
    path = write(mdata["atac"], tmp_path / "a.h5ad")
    go_on = interrupt(monkeypatch, 3)
    with pytest.raises(StopError):
        ep.tl.embed(path, model, output=tmp_path / "out.h5ad")
    go_on()
    block = tmp_path / "out.h5ad.partial" / "00000001.npz"
    content = bytearray(block.read_bytes())
    content[len(content) // 2] ^= 0xFF
    block.write_bytes(bytes(content))
    with pytest.raises(OSError, match=r"00000001.npz' is damaged.*delete it"):
        ep.tl.embed(path, model, output=tmp_path / "out.h5ad")
    block.unlink()
    ep.tl.embed(path, model, output=tmp_path / "out.h5ad")
    assert read(tmp_path / "out.h5ad").n_obs == 400
