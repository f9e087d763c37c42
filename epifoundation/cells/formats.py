"""The file formats of cells, and opening cells in any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import pandas as pd
from anndata import AnnData
from mudata import MuData

from .._validate import Data, check_unique, get_atac
from .source import InMemory, Located, Source
from .stored import OnDisk, read_hdf5, read_zarr

HDF5_SUFFIXES = (".h5ad", ".h5mu", ".h5")


@dataclass(frozen=True)
class Format:
    """A file format of cells.

    Parameters
    ----------
    name
        Name in errors.
    matches
        Whether a path has this format.
    open
        Open a path and the modality of that name: a :class:`Source` that reads rows, or
        :class:`InMemory` around the AnnData or MuData that was read.
    read
        Read a path into memory.
    """

    name: str
    matches: Callable[[Path], bool]
    open: Callable[[Path, str], Source]
    read: Callable[[Path], Data]


def _is_hdf5(path: Path) -> bool:
    return path.suffix in HDF5_SUFFIXES or (path.is_file() and h5py.is_hdf5(path))


# The first that matches. HDF5 matches every such file: put formats inside HDF5 before it
FORMATS = [
    Format("h5ad or h5mu", _is_hdf5, OnDisk.open, read_hdf5),
    Format("zarr", Path.is_dir, OnDisk.open, read_zarr),
]


def find_format(path: str | Path) -> Format | None:
    """The format of a path; None if it is not a file of cells."""
    return next((each for each in FORMATS if each.matches(Path(path))), None)


def _format_of(path: Path) -> Format:
    if not path.exists():
        msg = f"The file {str(path)!r} does not exist."
        raise FileNotFoundError(msg)
    if found := find_format(path):
        return found
    msg = f"{str(path)!r} is not a file of cells; expected {', '.join(f.name for f in FORMATS)}."
    raise ValueError(msg)


def open_source(data: Located, modality: str, *, name: str = "the data") -> Source:
    """Open the cells of an AnnData, or of a modality of a MuData, in memory or on disk.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    OSError, ValueError
        The file cannot be read, has no AnnData or MuData, or lacks the modality.
    """
    if isinstance(data, AnnData | MuData):
        get_atac(data, modality)
        return InMemory(data, modality, name)
    source = _format_of(Path(data)).open(Path(data), modality)
    if not len(source.var):
        msg = f"{source.name} has no peaks."
        raise ValueError(msg)
    check_unique(source.var.index, f"peak names in {source.name}", "drop or merge the copies")
    return source


@contextmanager
def opened(place: Located, modality: str, name: str) -> Iterator[Source]:
    """:func:`open_source` as a context manager."""
    with closing(open_source(place, modality, name=name)) as source:
        yield source


def read_var(path: str | Path, modality: str) -> pd.DataFrame:
    """The table of peaks of a file of cells; neither ``obs`` nor the matrix is read.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file cannot be read or lacks the modality.
    """
    try:
        with closing(_format_of(Path(path)).open(Path(path), modality)) as source:
            return source.var
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(str(error)) from error


def read_cells(path: str | Path) -> Data:
    """Read a file of cells into memory."""
    return _format_of(Path(path)).read(Path(path))
