"""The files of an original checkpoint: the pickle, the vocabularies, the configuration."""

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

# What the original calls each vocabulary, and what it names
KINDS = {
    "atac": "peaks",
    "rna": "genes",
    "chr": "chromosomes",
    "cell": "cell types",
    "batch": "batches",
    "gene2chr": "the chromosome of each gene",
}
PAPER_HEADS = 8


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content of the file, and its state dict without the prefixes of parallel training."""
    if not path.is_file():
        what = "is a directory; pass the .pth file in it" if path.is_dir() else "is not there"
        msg = f"The checkpoint {str(path)!r} {what}."
        raise FileNotFoundError(msg)
    try:
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except UnpicklingError as error:
        reason = str(error).strip().split("\n")
        detail = next(
            (line.strip() for line in reason if "Unsupported" in line or "GLOBAL" in line),
            reason[0],
        )
        msg = (
            f"{str(path)!r} is refused: it is no torch checkpoint, or unpickling it would run code ({detail}). "
            "Save it again with tensors, numbers and strings alone: `torch.save({'model': model.state_dict()}, path)`."
        )
        raise ValueError(msg) from error
    except Exception as error:  # of bytes that are no pickle, almost any
        first = str(error).split("\n")[0] or type(error).__name__
        msg = f"{str(path)!r} is no torch checkpoint, or is truncated ({path.stat().st_size:,} bytes): {first}"
        raise ValueError(msg) from error
    if not isinstance(content, Mapping):
        msg = f"{str(path)!r} holds a {type(content).__name__}; expected a dictionary with the weights under 'model'."
        raise ValueError(msg)
    state = content.get("model", content)
    is_state = (
        isinstance(state, Mapping)
        and state
        and all(isinstance(value, Tensor) for value in state.values())
    )
    if not is_state:
        msg = (
            f"{str(path)!r} holds no weights: its entries are {sorted(map(str, content))}; expected a state dict under 'model'. "
            "A checkpoint with the state of the training alone cannot be converted."
        )
        raise ValueError(msg)
    return dict(content), {
        re.sub(r"^((module|_orig_mod)\.)+", "", str(name)): tensor for name, tensor in state.items()
    }


def find(vocabularies: Any) -> dict[str, Any]:
    """Where each vocabulary is: a path or its content."""
    if isinstance(vocabularies, Mapping):
        unknown = sorted(set(vocabularies) - set(KINDS))
        if unknown:
            msg = f"Unknown vocabularies {unknown}; the names are {list(KINDS)}."
            raise ValueError(msg)
        return {
            kind: value if isinstance(value, Mapping) else Path(value)
            for kind, value in vocabularies.items()
        }
    directory = Path(vocabularies)
    if not directory.is_dir():
        what = (
            "is a file; pass the directory that holds it, or a mapping"
            if directory.is_file()
            else "is not there"
        )
        msg = f"The directory of vocabularies {str(directory)!r} {what}."
        raise FileNotFoundError(msg)
    return dict(find_vocabularies(directory.glob("*.json")))


def find_vocabularies(paths: Iterable[Path]) -> dict[str, Path]:
    """Tell vocabularies by the names of their files: ``atac_vocab.json``, or the only one with ``atac`` in it."""
    paths = sorted(paths)
    found = {}
    for kind in KINDS:
        exact = [path for path in paths if path.name == file_of(kind)]
        like = [
            path
            for path in paths
            if kind in path.name and ("gene2chr" in path.name) == (kind == "gene2chr")
        ]
        candidates = exact or like
        if len(candidates) == 1:
            found[kind] = candidates[0]
    return found


def file_of(kind: str) -> str:
    """The original's name of the file."""
    return f"{kind}.json" if kind == "gene2chr" else f"{kind}_vocab.json"


def read_vocabulary(sources: dict[str, Any], kind: str, given: Any) -> dict[str, Any]:
    """A vocabulary by ascending index."""
    if kind not in sources:
        place = "the mapping" if isinstance(given, Mapping) else repr(str(given))
        cure = ", or pass `labels=False`" if kind == "cell" else ""
        msg = f"No {file_of(kind)!r} ({KINDS[kind]}) in {place}, and the checkpoint needs it; add it{cure}."
        raise FileNotFoundError(msg)
    source, named = sources[kind], source_of(sources, kind)
    if isinstance(source, Mapping):
        table = dict(source)
    else:
        if not source.is_file():
            msg = f"The vocabulary {str(source)!r} ({KINDS[kind]}) is not there."
            raise FileNotFoundError(msg)
        try:
            table = json.loads(source.read_text(encoding="utf-8"))
        except ValueError as error:
            msg = f"{named} is no JSON, or is truncated: {error}"
            raise ValueError(msg) from error
    if not isinstance(table, dict):
        msg = f"{named} holds a {type(table).__name__}; expected one JSON object."
        raise ValueError(msg)
    if kind == "gene2chr":
        return table
    if sorted(table.values(), key=repr) != sorted(range(len(table)), key=repr):
        msg = f"{named} must number its {len(table):,} tokens from 0 without gaps or copies."
        raise ValueError(msg)
    return dict(sorted(table.items(), key=lambda item: item[1]))


def source_of(sources: dict[str, Any], kind: str) -> str:
    source = sources.get(kind)
    return repr(str(source)) if isinstance(source, Path) else f"The vocabulary {kind!r}"


def read_heads(folders: list[Path], path: Path) -> int:
    """Heads as a configuration beside the files says, else the paper's."""
    for folder in [*folders, path.parent]:
        try:
            found = json.loads((folder / "config.json").read_text(encoding="utf-8"))["head_num"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return found
    return PAPER_HEADS
