"""Cells written to files and read again, and runs that are stopped on the way."""

import warnings

import anndata as ad
import mudata

from epifoundation.inference import block_store


def write(data, path):
    """A file of the format that its name tells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what anndata and mudata say about their next versions
        if path.suffix == ".zarr":
            data.write_zarr(path)
        elif path.suffix == ".h5mu":
            data.write(path)
        else:
            data.write_h5ad(path)
    return path


def combined(mdata, atac, rna):
    """A MuData of some cells of each modality, by row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mudata.MuData({"rna": mdata["rna"][rna].copy(), "atac": mdata["atac"][atac].copy()})


def bytes_of(path):
    """Content of a file, or of each file of a store."""
    if path.is_file():
        return path.read_bytes()
    files = [file for file in path.rglob("*") if file.is_file()]
    assert files
    return {file.relative_to(path): file.read_bytes() for file in files}


def read(path):
    if path.suffix == ".h5mu" or (path / "mod").exists():
        return mudata.read_zarr(path) if path.is_dir() else mudata.read(path)
    return ad.read_zarr(path) if path.is_dir() else ad.read_h5ad(path)


class StopError(Exception):
    """An interruption."""


def interrupt(monkeypatch, after):
    """Stop once a number of blocks is saved; blocks in progress are lost."""
    save = block_store.BlockStore.save

    def stop(self, number, arrays, tally, origin):
        if len(list(self.folder.glob("*.npz"))) == after:
            raise StopError
        save(self, number, arrays, tally, origin)

    monkeypatch.setattr(block_store.BlockStore, "save", stop)
    return lambda: monkeypatch.setattr(block_store.BlockStore, "save", save)
