"""Files of an original checkpoint: the pickle, the vocabularies, the configuration."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

# Name of each vocabulary in the original, and what it numbers
KINDS = {
    "atac": "peaks",
    "rna": "genes",
    "chr": "chromosomes",
    "cell": "cell types",
    "batch": "batches",
    "gene2chr": "the chromosome of each gene",
}
SPECIAL = ("<pad>", "<mask>", "<cls>", "<eos>")
PAPER_HEADS = 8


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content of the file, and its state dict without the prefixes of parallel training."""
    if not path.is_file():
        what = "is a directory; pass the .pth file in it" if path.is_dir() else "does not exist"
        msg = f"The checkpoint {str(path)!r} {what}."
        raise FileNotFoundError(msg)
    is_mapped = zipfile.is_zipfile(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except UnpicklingError as error:
        lines = str(error).strip().split("\n")
        reasons = [line.strip() for line in lines if "Unsupported" in line or "GLOBAL" in line]
        msg = (
            f"{str(path)!r} is refused: it is not a torch checkpoint, or unpickling it would run "
            f"code ({[*reasons, lines[0]][0]}). Save it with tensors, numbers and strings only: "
            "`torch.save({'model': model.state_dict()}, path)`."
        )
        raise ValueError(msg) from error
    except Exception as error:  # torch raises many types on other files
        reason = str(error).split("\n")[0] or type(error).__name__
        msg = f"{str(path)!r} is not a torch checkpoint, or is truncated "
        msg += f"({path.stat().st_size:,} bytes): {reason}"
        raise ValueError(msg) from error
    if not isinstance(content, Mapping):
        msg = f"{str(path)!r} contains a {type(content).__name__}; "
        msg += "expected a dictionary with the weights under 'model'."
        raise ValueError(msg)
    state = content.get("model", content)
    is_state = isinstance(state, Mapping) and len(state) > 0
    if not is_state or not all(isinstance(value, Tensor) for value in state.values()):
        msg = (
            f"{str(path)!r} contains no weights: its entries are {sorted(map(str, content))}; "
            "expected a state dict under 'model'. A checkpoint with only the state of the training "
            "cannot be converted."
        )
        raise ValueError(msg)
    prefix = r"^((module|_orig_mod)\.)+"
    return dict(content), {re.sub(prefix, "", str(name)): part for name, part in state.items()}


class Vocabularies:
    """The vocabularies of a checkpoint: a directory, or a mapping to files or their content."""

    def __init__(self, given: Any) -> None:
        self.given = given
        if isinstance(given, Mapping):
            if unknown := sorted(set(given) - set(KINDS)):
                msg = f"Unknown vocabularies {unknown}; the names are {list(KINDS)}."
                raise ValueError(msg)
            self.sources: dict[str, Any] = {
                kind: source if isinstance(source, Mapping) else Path(source)
                for kind, source in given.items()
            }
            return
        directory = Path(given)
        if not directory.is_dir():
            what = "does not exist"
            if directory.is_file():
                what = "is a file; pass the directory that contains it, or a mapping"
            msg = f"The directory of vocabularies {str(directory)!r} {what}."
            raise FileNotFoundError(msg)
        self.sources = dict(find_vocabularies(directory.glob("*.json")))

    @property
    def folders(self) -> list[Path]:
        """Folders of the files."""
        paths = [source.parent for source in self.sources.values() if isinstance(source, Path)]
        return [*dict.fromkeys(paths)]

    def name(self, kind: str) -> str:
        """Name of a vocabulary in errors."""
        source = self.sources.get(kind)
        return repr(str(source)) if isinstance(source, Path) else f"The vocabulary {kind!r}"

    def read(self, kind: str) -> dict[str, Any]:
        """Index by token, ascending; for ``gene2chr`` the chromosome by gene."""
        if kind not in self.sources:
            place = "the mapping" if isinstance(self.given, Mapping) else repr(str(self.given))
            cure = ", or pass `labels=False`" if kind == "cell" else ""
            msg = f"No {file_of(kind)!r} ({KINDS[kind]}) in {place}, "
            msg += f"but the checkpoint needs it; add it{cure}."
            raise FileNotFoundError(msg)
        source, name = self.sources[kind], self.name(kind)
        if isinstance(source, Path):
            if not source.is_file():
                msg = f"The vocabulary {name} ({KINDS[kind]}) does not exist."
                raise FileNotFoundError(msg)
            try:
                source = json.loads(source.read_text(encoding="utf-8"))
            except ValueError as error:
                msg = f"{name} is not JSON, or is truncated: {error}"
                raise ValueError(msg) from error
            if not isinstance(source, dict):
                msg = f"{name} contains a {type(source).__name__}; expected one JSON object."
                raise ValueError(msg)
        table = dict(source)
        if kind == "gene2chr":
            return table
        if sorted(table.values(), key=repr) != sorted(range(len(table)), key=repr):
            msg = f"{name} must number its {len(table):,} tokens from 0 without gaps or copies."
            raise ValueError(msg)
        return dict(sorted(table.items(), key=lambda item: item[1]))


def find_vocabularies(paths: Iterable[Path]) -> dict[str, Path]:
    """Files by vocabulary: ``atac_vocab.json``, or the only one with ``atac`` in its name."""
    paths = sorted(paths)
    found = {}
    for kind in KINDS:
        exact = [path for path in paths if path.name == file_of(kind)]
        is_map = kind == "gene2chr"  # contains "chr"
        similar = [p for p in paths if kind in p.name and ("gene2chr" in p.name) == is_map]
        candidates = exact or similar
        if len(candidates) == 1:
            found[kind] = candidates[0]
    return found


def file_of(kind: str) -> str:
    """Name of the file of a vocabulary in the original."""
    return f"{kind}.json" if kind == "gene2chr" else f"{kind}_vocab.json"


def read_n_heads(folders: list[Path]) -> Any:
    """Number of heads in the first ``config.json`` of the folders, else the paper's."""
    for folder in folders:
        try:
            return json.loads((folder / "config.json").read_text(encoding="utf-8"))["head_num"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return PAPER_HEADS
