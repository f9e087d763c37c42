"""The table of peaks of a file. Of cells x peaks only ``var`` is read, so the size of the matrix does not matter."""

from __future__ import annotations

import contextlib
from pathlib import Path

import h5py
import pandas as pd

from .._files import read_columns
from .._formats import open_group, read_element

HDF5 = (".h5ad", ".h5mu", ".h5")


def read_var(path: str | Path, modality: str) -> pd.DataFrame:
    """Read the peaks of a h5ad or h5mu file, a zarr store or a BED file, told by their content.

    Parameters
    ----------
    path
        The file, or the directory of a zarr store.
    modality
        Name of the ATAC modality, where the file holds a MuData.

    Returns
    -------
    ``var``; of a BED file its columns, by the names that bioframe gives them: up to ``strand``, of a narrowPeak also ``fc``, ``-log10p``,
    ``-log10q`` and ``relSummit``.

    Raises
    ------
    FileNotFoundError
        It is not there.
    ValueError
        It is damaged, of another kind, or has no such modality.
    """
    path = Path(path)
    if not path.exists():
        msg = f"The file {str(path)!r} is not there."
        raise FileNotFoundError(msg)
    if path.is_file() and path.suffix not in HDF5 and not h5py.is_hdf5(path):
        return _read_bed(path)
    try:
        store = open_group(path)
        with contextlib.closing(store) if isinstance(store, h5py.File) else contextlib.nullcontext():
            modalities = list(store["mod"]) if "mod" in store else None  # that of an AnnData has none
            place = "var" if modalities is None else f"mod/{modality}/var"
            var = read_element(store, place, repr(str(path))) if place in store else None
    except OSError as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # h5py and zarr raise many types on damaged files
        msg = f"{str(path)!r} cannot be read as h5ad, h5mu or zarr; is it whole? {type(error).__name__}: {error}"
        raise ValueError(msg) from error
    if modalities is not None and modality not in modalities:
        msg = f"No modality {modality!r} in {str(path)!r}; it has {modalities}. Name one with `modality=`."
        raise ValueError(msg)
    if not isinstance(var, pd.DataFrame):  # such as the files of 10x
        msg = (
            f"{str(path)!r} has no table `{place}`, as h5ad, h5mu and zarr have; read it into an AnnData and pass that."
        )
        raise ValueError(msg)
    return var


def _read_bed(path: Path) -> pd.DataFrame:
    from bioframe import SCHEMAS

    rows = read_columns(path, 3, at_most=11)
    n_columns = min(map(len, rows), default=3)
    # BED12 and others go on otherwise after the strand
    names = SCHEMAS["narrowPeak"][: n_columns if n_columns == 10 else min(n_columns, 6)]
    return pd.DataFrame([row[: len(names)] for row in rows], columns=names)
