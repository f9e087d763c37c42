"""HDF5 files, zarr stores and folders of other tools: what they are, and what to do with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from .._file_kinds import EXPORT, FileKind, folder_kind, kind_of, text_kind
from .groups import open_group

ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")
FRAGMENTS = "Count the fragments file that it was made from: `ep.pp.count_fragments`."
# Names that are all in the root of a file
ROOTS = [
    ({"AM", "HD"}, FileKind("a .snap file of SnapATAC", FRAGMENTS)),
    ({"ArchRVersion"}, FileKind("an Arrow file of ArchR", FRAGMENTS)),
    (
        {"row_attrs", "col_attrs", "matrix"},
        FileKind(
            "a .loom file",
            "Convert it, with the names of the peaks as `var_names`: "
            "`anndata.io.read_loom(path).write_h5ad(new)`.",
        ),
    ),
    ({"assays", "meta.data"}, FileKind("an .h5seurat file of Seurat", EXPORT)),
    (
        {"barcode_idx", "count"},
        FileKind("a 10x file of molecules", "Pass filtered_peak_bc_matrix.h5 of the same output."),
    ),
    (
        {"images", "tables"},
        FileKind("a SpatialData store", "Pass one of its tables: the folder `tables/NAME` in it."),
    ),
]
DATA_SET = FileKind(
    "an .h5ads data set of SnapATAC2, which names files of cells",
    "Pass those .h5ad files as a list, or `snapatac2.read_dataset(path).to_adata()`.",
)
NO_PEAKS = FileKind(
    "an AnnData of SnapATAC2 with fragments and without peaks",
    "Count on peaks with `snapatac2.pp.make_peak_matrix`, or count the fragments file: "
    "`ep.pp.count_fragments`.",
)
GENES = FileKind("a 10x matrix of genes (CellRanger 2), without peaks", "Pass that of the peaks.")


def foreign_kind(path: Path) -> FileKind | None:
    """What a path is that has no AnnData or MuData; None if it may have one, or is damaged."""
    if path.is_file() and not h5py.is_hdf5(path):
        return kind_of(path) or text_kind(path)
    if path.is_dir() and not any((path / name).exists() for name in ZARR_FILES):
        return folder_kind(path)
    try:
        root = open_group(path)
    except OSError:
        return None
    try:
        return _kind_of_root(root)
    except (OSError, KeyError, ValueError, RuntimeError):
        return None
    finally:
        if hasattr(root, "close"):
            root.close()


def _kind_of_root(root: Any) -> FileKind | None:
    names = set(root)
    for some, kind in ROOTS:
        if some <= names:
            return kind
    if "AnnDataSet" in root.get("uns", {}):
        return DATA_SET
    has_fragments = any(key.startswith("fragment_") for key in root.get("obsm", {}))
    if has_fragments and not names & {"X", "var"}:
        return NO_PEAKS
    if names & {"obs", "var", "X", "mod"}:
        return None
    if any("gene_names" in root[name] for name in names if isinstance(root[name], Mapping)):
        return GENES
    if "matrix-v" in str(root.attrs.get("version", "")):
        return FileKind("a matrix of BPCells", EXPORT)
    if any(name.startswith("count_hdf5_") for name in names):
        return FileKind("a matrix of ChrAccR (HDF5Array of R)", EXPORT)
    shown = f"with {sorted(names)[:5]}" if names else "without content"
    return FileKind(
        f"{'a zarr store' if hasattr(root, 'store') else 'an HDF5 file'} {shown}", EXPORT
    )
