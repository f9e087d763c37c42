"""Cells that change between two calls, or during one: results are never of other cells."""

import contextlib
import os

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from stored_cells import StopError, bytes_of, interrupt, read, write

import epifoundation as ep
from epifoundation.inference import grafts, plan, reader, targets

KINDS = ["values", "order", "names", "peaks", "batch"]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(plan, "BLOCK_CELLS", 64)


def changed(adata, kind):
    """Other cells of the same number."""
    adata = adata.copy()
    if kind == "values":
        adata.X[7, :40] = 1 - (adata.X[7, :40].toarray() > 0)
    elif kind == "order":
        adata = adata[np.r_[1, 0, 2 : adata.n_obs]].copy()
    elif kind == "names":
        adata.obs_names = [f"new{name}" for name in adata.obs_names]
    elif kind == "peaks":
        adata = adata[:, np.roll(np.arange(adata.n_vars), 1)].copy()
        adata.X = sp.csr_matrix(np.roll(adata.X.toarray(), -1, axis=1))
    else:
        adata.obs["batch"] = adata.obs["batch"].to_numpy()[::-1].copy()
    return adata


def place(adata, kind, path):
    """The object, or a file of it."""
    if kind == "memory":
        return adata
    return write(adata, path.with_suffix(f".{kind}"))


def embed(data, model, **options):
    with (
        pytest.warns(UserWarning, match="computed again")
        if options.pop("warns", False)
        else contextlib.nullcontext()
    ):
        return ep.tl.embed(data, model, batch_key="batch", **options)


@pytest.mark.filterwarnings("ignore:.*efficient:scipy.sparse.SparseEfficiencyWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["memory", "h5ad", "zarr"])
def test_finished_results_of_other_cells_are_not_returned(mdata, model, tmp_path, kind, where):
    atac, output = mdata["atac"], tmp_path / "out.h5ad"
    embed(place(atac, where, tmp_path / "a"), model, output=output)
    before = output.read_bytes()
    embed(place(atac, where, tmp_path / "a"), model, output=output)  # written again: the same cells
    assert output.read_bytes() == before
    data = place(changed(atac, kind), where, tmp_path / "a")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        embed(data, model, output=output)
    embed(data, model, output=output, overwrite=True)
    embed(data, model, output=tmp_path / "expected.h5ad")
    assert bytes_of(output) == bytes_of(tmp_path / "expected.h5ad") != before


@pytest.mark.filterwarnings("ignore:.*efficient:scipy.sparse.SparseEfficiencyWarning")
@pytest.mark.parametrize("kind", [*KINDS, "nothing"])
@pytest.mark.parametrize("where", ["memory", "h5ad", "zarr", "into h5ad", "into zarr"])
def test_a_run_does_not_go_on_from_other_cells(mdata, model, tmp_path, monkeypatch, kind, where):
    atac, into = mdata["atac"], where.startswith("into")
    where = where.removeprefix("into ")
    data = place(atac, where, tmp_path / "a")
    options = {} if into else {"output": tmp_path / "out.h5ad"}
    go_on = interrupt(monkeypatch, 4)
    with pytest.raises(StopError):
        embed(data, model, **options)
    go_on()
    computed, compute = [], reader.Reader.compute
    monkeypatch.setattr(
        reader.Reader,
        "compute",
        lambda self, block, mapping: computed.append(1) or compute(self, block, mapping),
    )
    if kind == "nothing":
        place(atac, where, tmp_path / "a")  # another file of the same cells
        found = embed(data, model, **options)
        assert len(computed) == 7 - 4
    else:
        data = place(changed(atac, kind), where, tmp_path / "a")
        found = embed(data, model, warns=True, **options)
        n_changed = {"values": 1, "order": 1, "names": 4, "peaks": 4, "batch": 4}[kind]
        assert len(computed) == 7 - 4 + n_changed
    fresh = atac if kind == "nothing" else changed(atac, kind)
    expected = place(fresh, where, tmp_path / "fresh")
    options = {} if into else {"output": tmp_path / "expected.h5ad"}
    assert bytes_of(found) == bytes_of(embed(expected, model, **options))


def rewrite(adata, path):
    """Write a file beside it, and put that in its place."""
    new = write(adata, path.with_name(f"new{path.suffix}"))
    if path.is_dir():
        path.rename(path.with_name("old"))
    new.replace(path)


def set_in_place(path, key, value):
    """Change one value of a stored array, whatever wrote it, and set the time back."""
    file = path if path.is_file() else next((path / key).glob("c/0"))
    status = file.stat()
    root = h5py.File(path, "r+") if path.is_file() else zarr.open_group(path, mode="r+")
    root[key][3] = value
    if path.is_file():
        root.close()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("where", ["h5ad", "zarr"])
def test_an_array_changed_in_place(mdata, model, tmp_path, where):
    path = place(mdata["atac"], where, tmp_path / "a")
    embed(path, model, output=tmp_path / "out.h5ad")
    set_in_place(path, "X/data", 0)
    with pytest.raises(FileExistsError):
        embed(path, model, output=tmp_path / "out.h5ad")


@pytest.mark.filterwarnings("ignore:.*efficient:scipy.sparse.SparseEfficiencyWarning")
@pytest.mark.parametrize("output", [True, False])
@pytest.mark.parametrize("where", ["h5ad", "zarr"])
def test_a_file_rewritten_during_a_run(mdata, model, tmp_path, monkeypatch, where, output):
    path = place(mdata["atac"], where, tmp_path / "a")
    other = changed(mdata["atac"], "values")
    options = {"output": tmp_path / "out.h5ad"} if output else {}
    compute, done = reader.Reader.compute, []

    def rewrite_once(self, block, mapping):
        if not done:
            done.append(1)
            rewrite(other, path)
        return compute(self, block, mapping)

    monkeypatch.setattr(reader.Reader, "compute", rewrite_once)
    with pytest.raises(OSError, match="changed while|could not be read"):
        embed(path, model, **options)
    assert bytes_of(path) == bytes_of(write(other, tmp_path / f"other.{where}"))
    found = embed(path, model, **options)
    expected = place(other, where, tmp_path / "b")
    options = {"output": tmp_path / "expected.h5ad"} if output else {}
    assert bytes_of(found) == bytes_of(embed(expected, model, **options))


@pytest.mark.parametrize("where", ["h5ad", "zarr"])
def test_a_file_rewritten_while_results_are_written_into_it(
    mdata, model, tmp_path, monkeypatch, where
):
    path = place(mdata["atac"], where, tmp_path / "a")
    other = mdata["atac"].copy()
    other.obs["note"] = "added by another program"
    build = targets.build_file

    def rewrite_first(*args, **kwargs):
        rewrite(other, path)
        return build(*args, **kwargs)

    monkeypatch.setattr(targets, "build_file", rewrite_first)
    with pytest.raises(OSError, match="was changed while its results were computed"):
        embed(path, model)
    monkeypatch.setattr(targets, "build_file", build)
    embed(path, model)
    found = read(path)
    assert (found.obs["note"] == "added by another program").all()
    assert "X_epifoundation" in found.obsm


def test_a_file_does_not_grow_with_each_run(mdata, model, tmp_path):
    path = write(mdata["atac"], tmp_path / "a.h5ad")
    seen = []
    for _ in range(4):
        embed(path, model)
        seen.append(path.read_bytes())
    assert len(set(seen)) == 1


@pytest.mark.parametrize("where", ["h5ad", "zarr"])
@pytest.mark.parametrize("into", [True, False])
def test_links_stay(mdata, model, tmp_path, where, into):
    (tmp_path / "store").mkdir()
    real = place(mdata["atac"], where, tmp_path / "store" / "a")
    link = tmp_path / f"donor.{where}"
    if into:
        link.symlink_to(real)
        embed(link, model)
    else:
        link.symlink_to(tmp_path / "store" / f"out.{where}")  # not there yet
        for _ in range(2):
            assert embed(real, model, output=link, overwrite=True) == link
    assert link.is_symlink()
    assert "X_epifoundation" in read(link.resolve()).obsm
    assert sorted(path.name for path in tmp_path.iterdir()) == [link.name, "store"]


@pytest.mark.parametrize("step", [0, 1, 5, 12, 19, 26, 33])
def test_a_store_can_be_read_and_completed_wherever_a_call_was_stopped(
    mdata, model, tmp_path, monkeypatch, step
):
    """Moving results in is stopped between two steps, with results of an earlier run there."""
    path = write(mdata["atac"], tmp_path / "a.zarr")
    embed(path, model)
    expected = bytes_of(path)
    steps, rename, order = [], grafts.Path.rename, grafts._order

    def count():
        steps.append(1)
        if len(steps) == step + 1:
            raise StopError

    def counted_rename(self, target):
        if path in (self, *self.parents) or path in grafts.Path(target).parents:
            count()
        return rename(self, target)

    def counted_order(*args, **kwargs):
        count()
        order(*args, **kwargs)

    monkeypatch.setattr(grafts.Path, "rename", counted_rename)
    monkeypatch.setattr(grafts, "_order", counted_order)
    with contextlib.suppress(StopError):
        embed(path, model)
    monkeypatch.setattr(grafts.Path, "rename", rename)
    monkeypatch.setattr(grafts, "_order", order)
    ad.read_zarr(path)
    embed(path, model)
    assert bytes_of(path) == expected
    assert [each.name for each in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("output", ["out.h5ad", "out.zarr", None])
@pytest.mark.parametrize("moment", ["before", "during"])
def test_the_same_call_after_it_was_stopped_while_it_cleaned_up(
    mdata, model, tmp_path, monkeypatch, output, moment
):
    """Results are in place, and the folder of blocks was not, or not wholly, deleted."""
    from epifoundation.inference import block_store

    path = write(mdata["atac"], tmp_path / "a.h5ad")
    options = {"output": tmp_path / output} if output else {}
    delete, rmtree = block_store._delete, block_store.shutil.rmtree

    def stop(folder, **options):
        if moment == "before" or folder.suffix == ".deleted":
            raise StopError
        rmtree(folder, **options)

    if moment == "before":
        monkeypatch.setattr(block_store, "_delete", stop)
    else:
        monkeypatch.setattr(block_store.shutil, "rmtree", stop)
    with pytest.raises(StopError):
        embed(path, model, **options)
    monkeypatch.setattr(block_store, "_delete", delete)
    monkeypatch.setattr(block_store.shutil, "rmtree", rmtree)
    before = bytes_of(options.get("output", path))
    assert bytes_of(embed(path, model, **options)) == before
    assert len(list(tmp_path.iterdir())) == 1 + bool(output)
