"""Open HDF5 files and zarr stores; errors say what the file is and what to install."""

from __future__ import annotations

import contextlib
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

EXPECTED = "an .h5ad, .h5mu or .zarr of an AnnData or MuData, or a 10x .h5"
# Registered HDF5 filters that are used for count matrices
HDF5_FILTERS = {
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32026: "blosc2",
}
ZARR_FORMATS = (2, 3)


def open_group(path: Path, mode: Literal["r", "r+"] = "r") -> Any:
    """The root of an HDF5 file or zarr store.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    OSError
        The file is damaged, of a newer format, or compressed with a filter that is not installed.
    """
    if not path.exists():
        msg = f"The file {str(path)!r} does not exist."
        raise FileNotFoundError(msg)
    return _open_zarr(path, mode) if path.is_dir() else _open_hdf5(path, mode)


def close(root: Any) -> None:
    """Close an HDF5 file; zarr stores need not be closed."""
    if hasattr(root, "close"):
        root.close()


def read_element(parent: Any, key: str, name: str) -> Any:
    """Read an element of an open file with anndata; `name` is the file's name, for errors."""
    from anndata.io import read_elem

    try:
        return read_elem(parent[key])
    except Exception as error:
        # anndata's IORegistryError is not public
        if type(error).__name__ != "IORegistryError":
            msg = f"`{key}` of {name} cannot be read ({type(error).__name__}: {error}). "
            msg += "Is the file truncated?"
            raise OSError(msg) from error
        spec = re.search(r"encoding_type='([^']*)', encoding_version='([^']*)'", str(error))
        encoding = "an encoding" if spec is None else f"the encoding {spec[1]!r} {spec[2]}".rstrip()
        msg = (
            f"`{parent[key].name.strip('/')}` of {name} is stored in {encoding}, which anndata "
            f"{version('anndata')} does not know: upgrade it (`pip install -U anndata`) or write "
            "the file with another version."
        )
        raise OSError(msg) from error


def check_encoding(element: Any, known: tuple[str, ...], name: str) -> str:
    """The encoding of an element; OSError if it is named and not one of the known ones."""
    encoding = str(element.attrs.get("encoding-type", ""))
    if encoding and encoding not in known:
        msg = (
            f"`{element.name.strip('/')}` of {name} is stored in the encoding {encoding!r}; "
            f"expected one of {list(known)}. Read the file with anndata (if that fails too, "
            "`pip install -U anndata`) and pass the object."
        )
        raise OSError(msg)
    return encoding


def _open_hdf5(path: Path, mode: Literal["r", "r+"]) -> Any:
    import h5py

    try:
        file = h5py.File(path, mode)
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_open(path, error) from error
    if (code := _missing_filter(file)) is None:
        return file
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401 # registers its filters
    if (code := _missing_filter(file)) is None:
        return file
    file.close()
    msg = (
        f"{str(path)!r} is compressed with {HDF5_FILTERS.get(code, 'a filter')} (HDF5 filter "
        f"{code}), which is not installed: `pip install hdf5plugin`, or write the file again with "
        "`compression='gzip'`."
    )
    raise OSError(msg)


def _missing_filter(file: Any) -> int | None:
    """Number of the first filter that a dataset needs and HDF5 lacks."""
    import h5py
    from h5py import h5z

    def missing(name: str, element: Any) -> int | None:
        if not isinstance(element, h5py.Dataset):
            return None
        created = element.id.get_create_plist()
        codes = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
        return next((code for code in codes if not h5z.filter_avail(code)), None)

    return file.visititems(missing)


def _open_zarr(path: Path, mode: Literal["r", "r+"]) -> Any:
    import zarr

    try:
        return zarr.open_group(path, mode=mode)
    except Exception as error:  # zarr raises many types on damaged or unknown metadata
        found = _zarr_format(path)
        if found is not None and found not in ZARR_FORMATS:
            msg = (
                f"{str(path)!r} is a zarr store of format {found}; zarr {version('zarr')} reads "
                f"{list(ZARR_FORMATS)}: upgrade it (`pip install -U zarr`) or write the store "
                "again in an older format."
            )
            raise OSError(msg) from error
        if type(error).__name__ == "UnknownCodecError":
            msg = f"{str(path)!r} is compressed with a codec that is not installed: {error}"
            raise OSError(msg) from error
        if not isinstance(error, OSError | ValueError | KeyError | TypeError):
            raise
        raise _cannot_open(path, error) from error


def _zarr_format(path: Path) -> Any:
    for name in ("zarr.json", ".zgroup"):
        try:
            return json.loads((path / name).read_text())["zarr_format"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _cannot_open(path: Path, error: Exception) -> OSError:
    name = repr(str(path))
    msg = f"{name} cannot be opened as {EXPECTED} ({error}). Is it truncated, or of another kind?"
    return OSError(msg)
