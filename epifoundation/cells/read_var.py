"""Read the table of peaks of a file; of files with cells only ``var`` is read, not the matrix."""

from __future__ import annotations

import contextlib
from pathlib import Path

import h5py
import pandas as pd

from .._files import read_columns
from .formats import open_group, read_element

HDF5 = (".h5ad", ".h5mu", ".h5")


def read_var(path: str | Path, modality: str) -> pd.DataFrame:
    """Read the peaks of an h5ad or h5mu file, a zarr store or a BED file, recognized by content.

    Parameters
    ----------
    path
        The file, or the directory of a zarr store.
    modality
        Name of the ATAC modality of a MuData.

    Returns
    -------
    ``var``, or the columns of a BED file with the names of bioframe: up to ``strand``, and for
    narrowPeak also ``fc``, ``-log10p``, ``-log10q`` and ``relSummit``.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file is damaged, of another kind, or lacks the modality.
    """
    path = Path(path)
    if not path.exists():
        msg = f"The file {str(path)!r} is not there."
        raise FileNotFoundError(msg)
    if path.is_file() and path.suffix not in HDF5 and not h5py.is_hdf5(path):
        return _read_bed(path)
    try:
        store = open_group(path)
        is_hdf5 = isinstance(store, h5py.File)
        with contextlib.closing(store) if is_hdf5 else contextlib.nullcontext():
            modalities = list(store["mod"]) if "mod" in store else None  # None for an AnnData
            place = "var" if modalities is None else f"mod/{modality}/var"
            var = read_element(store, place, repr(str(path))) if place in store else None
    except OSError as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # h5py and zarr raise many types on damaged files
        msg = f"{str(path)!r} cannot be read as h5ad, h5mu or zarr; is it whole? "
        msg += f"{type(error).__name__}: {error}"
        raise ValueError(msg) from error
    if modalities is not None and modality not in modalities:
        msg = f"No modality {modality!r} in {str(path)!r}; it has {modalities}. "
        msg += "Name one with `modality=`."
        raise ValueError(msg)
    if not isinstance(var, pd.DataFrame):  # such as files of 10x
        msg = f"{str(path)!r} has no table `{place}`, as h5ad, h5mu and zarr have; "
        msg += "read it into an AnnData and pass that."
        raise ValueError(msg)
    return var


def _read_bed(path: Path) -> pd.DataFrame:
    from bioframe import SCHEMAS

    rows = read_columns(path, 3, at_most=11)
    n_columns = min(map(len, rows), default=3)
    # BED12 and other formats have other columns after the strand
    names = SCHEMAS["narrowPeak"][: n_columns if n_columns == 10 else min(n_columns, 6)]
    return pd.DataFrame([row[: len(names)] for row in rows], columns=names)
