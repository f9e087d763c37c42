"""Files with the results of commands whose functions return an object."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CELLS, TABLES = (".h5ad", ".zarr"), (".tsv", ".tsv.gz")
BROWSERS = (".bedpe", ".longrange", ".interact")
SUFFIXES = {
    "count": CELLS,
    "cellxgene": CELLS,
    "knock-out": CELLS,
    "link-peaks": (*TABLES, *BROWSERS),
}


@dataclass(frozen=True)
class ResultFile:
    """A file of results.

    Parameters
    ----------
    output
        File for the results: ``.h5ad`` or ``.zarr`` for cells; for links ``.tsv`` or ``.tsv.gz``,
        or ``.bedpe``, ``.longrange`` or ``.interact`` for genome browsers.
    overwrite
        Replace an existing file.
    """

    output: str | Path
    overwrite: bool = False

    def check(self, command: str) -> None:
        """Raise an error, before any work, if the file cannot be written."""
        path = Path(self.output)
        if not path.name.endswith(SUFFIXES[command]):
            msg = f"`output` must end in {', '.join(SUFFIXES[command])}, got {str(path)!r}."
            raise ValueError(msg)
        if path.exists() and not self.overwrite:
            msg = f"{str(path)!r} exists: pass `overwrite` or another `output`."
            raise FileExistsError(msg)
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            msg = f"The folder {str(path.parent)!r} does not exist, or cannot be written to."
            raise FileNotFoundError(msg)

    def write(self, command: str, result: Any, arguments: dict[str, Any]) -> Path:
        """Write the result of a function that was called with these arguments."""
        path = Path(self.output)
        if command == "link-peaks":
            return _write_links(path, arguments)
        if command == "knock-out":
            result = _changes(result)
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
            made = Path(folder) / path.name
            if path.suffix == ".h5ad":
                result.write_h5ad(made, compression="gzip")
            else:
                result.write_zarr(made)
            if path.is_dir():
                shutil.rmtree(path)
            return made.replace(path)


def _changes(result: Any) -> Any:
    """A :class:`.tl._knock_out.KnockOut` as an AnnData of cells x genes."""
    from anndata import AnnData

    changes = AnnData(result.expression)
    changes.obs["n_removed"] = result.n_removed
    changes.obsm["probabilities"] = result.probabilities
    changes.uns["epifoundation_knock_out"] = {"peaks": result.peaks, "scale": result.scale}
    return changes


def _write_links(path: Path, arguments: dict[str, Any]) -> Path:
    from ._link_table import links_of
    from .tl import write_links

    modality, key_added = arguments.get("modality", "atac"), arguments.get("key_added")
    if path.name.endswith(BROWSERS):
        return write_links(
            arguments["data"], path=path, max_qvalue=None, modality=modality, key_added=key_added
        )
    links_of(arguments["data"], modality, key_added).to_csv(path, sep="\t", index=False)
    return path
