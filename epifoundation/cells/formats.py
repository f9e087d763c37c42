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
from .foreign import foreign_kind
from .groups import EXPECTED
from .source import InMemory, Located, Source
from .stored import OnDisk, read_hdf5, read_zarr
from .tenx import is_tenx, read_tenx

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


def _reader(read: Callable[[Path], Data]) -> Callable[[Path, str], Source]:
    """Open a file by reading it into memory."""
    return lambda path, modality: InMemory(read(path), modality, repr(str(path)))


# These match every HDF5 file and every folder, also those of other tools
ANNDATA = (
    Format("h5ad or h5mu", _is_hdf5, OnDisk.open, read_hdf5),
    Format("zarr", Path.is_dir, OnDisk.open, read_zarr),
)
# The first that matches: put formats inside HDF5 or a folder before them
FORMATS = [Format("10x .h5", is_tenx, _reader(read_tenx), read_tenx), *ANNDATA]


def find_format(path: str | Path) -> Format | None:
    """The format of a path; None if it is not a file of cells."""
    return next((each for each in FORMATS if each.matches(Path(path))), None)


def _format_of(path: Path) -> Format:
    if not path.exists():
        msg = f"The file {str(path)!r} does not exist."
        raise FileNotFoundError(msg)
    found = find_format(path)
    kind = foreign_kind(path) if found is None or found in ANNDATA else None
    if found and kind is None:
        return found
    what = "not a file of cells" if kind is None else kind.what
    msg = f"{str(path)!r} is {what}; expected {EXPECTED}. {kind.cure if kind else ''}".strip()
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
    """Read a file of cells into memory.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    OSError, ValueError
        The file cannot be read, or has no AnnData or MuData.
    """
    found = _format_of(Path(path))
    try:
        return found.read(Path(path))
    except (OSError, ValueError) as error:
        if str(path) in str(error):
            raise
        raise _unreadable(path, error) from error
    except (TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: Exception) -> OSError:
    return OSError(
        f"{str(path)!r} could not be read into memory ({type(error).__name__}: {error}). "
        "Is it truncated, or of an old version? Then write it again with the version of anndata or "
        "mudata that wrote it."
    )
