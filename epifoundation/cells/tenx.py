"""Read the .h5 files of 10x Genomics: filtered_peak_bc_matrix.h5, filtered_feature_bc_matrix.h5."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.utils import make_index_unique
from mudata import MuData

from .._validate import Data
from .groups import open_group

PEAKS, GENES = "Peaks", "Gene Expression"  # values of `feature_type`


def is_tenx(path: Path) -> bool:
    """Whether a path is an HDF5 file with the layout of 10x, from CellRanger 3 on."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path) as root:
            return "features" in root.get("matrix", {})
    except (OSError, KeyError, ValueError, RuntimeError):
        return False  # damaged: the error comes when it is opened


def read_tenx(path: Path) -> Data:
    """Cells x peaks; of a file that also has genes, a MuData of ``atac`` and ``rna``.

    Raises
    ------
    OSError
        The file is damaged.
    ValueError
        It has no peaks.
    """
    name = repr(str(path))
    with open_group(path) as root:
        try:
            matrix, features = root["matrix"], root["matrix/features"]
            parts = [matrix[part][:] for part in ("data", "indices", "indptr")]
            shape = matrix["shape"][:]
            cells, kinds, names, ids = (
                _text(each)
                for each in (
                    matrix["barcodes"],
                    features["feature_type"],
                    features["name"],
                    features["id"],
                )
            )
            X = sp.csr_matrix(tuple(parts), shape=(shape[1], shape[0]))
            if X.shape != (len(cells), len(names)) or len(names) != len(kinds):
                msg = f"shape {X.shape}, {len(cells)} barcodes, {len(names)} features"
                raise ValueError(msg)
            X.check_format()
        except (OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
            msg = f"{name} cannot be read as a 10x matrix ({error}). Is it truncated?"
            raise OSError(msg) from error
    is_peak = kinds == PEAKS
    if not is_peak.any():
        found = ", ".join(f"{n:,} of {kind!r}" for kind, n in Counter(kinds).items())
        msg = f"{name} is a 10x matrix without peaks: its features are {found or 'none'}. "
        msg += "Pass the matrix of the ATAC-seq, such as filtered_peak_bc_matrix.h5."
        raise ValueError(msg)
    obs = pd.DataFrame(index=pd.Index(cells, dtype=object))
    atac = _part(X, obs, is_peak, names[is_peak])
    atac.var["feature_types"] = PEAKS
    is_gene = kinds == GENES
    if not is_gene.any():
        return atac
    # Some symbols are those of several genes
    unique = make_index_unique(pd.Index(names[is_gene], dtype=object)).to_numpy()
    rna = _part(X, obs, is_gene, unique)
    rna.var["gene_ids"] = ids[is_gene]
    return MuData({"atac": atac, "rna": rna})


def _part(X: sp.csr_matrix, obs: pd.DataFrame, chosen: np.ndarray, names: np.ndarray) -> AnnData:
    var = pd.DataFrame(index=pd.Index(names, dtype=object))
    return AnnData(X[:, chosen], obs=obs.copy(), var=var)


def _text(element: Any) -> np.ndarray:
    """A dataset of fixed or variable bytes as text."""
    values = element[:].astype(object)
    return np.array([each.decode() if isinstance(each, bytes) else each for each in values], object)
