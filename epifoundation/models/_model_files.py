"""Files of a model directory: their names, and reading them with checks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.torch import load as load_tensors
from torch import Tensor

from .._files import sha256
from .._version import __version__
from ..nn import Network, Sizes
from ..peaks.counted import CountedCells
from ._model import revision_of

FORMAT_VERSION = 2
MODEL_FILES = CONFIG, WEIGHTS, PEAKS, GENES, LABELS, CARD, ADAPTER, CELLS = (
    "config.json",
    "model.safetensors",
    "peaks.bed.gz",
    "genes.tsv",
    "labels.json",
    "README.md",
    "adapter.safetensors",
    "cells.safetensors",
)
TYPES = {"genome": str, "model": dict, "sizes": dict, "training": dict, "sha256": dict}
REQUIRED_SIZES = {"n_peaks", "n_genes", "n_labels", "n_batches"}  # later ones have defaults


def read_config(directory: Path) -> dict[str, Any]:
    """The content of ``config.json``, checked."""
    path = directory / CONFIG
    if not (directory / WEIGHTS).is_file() and any(directory.glob("*.pth")):
        msg = f"{str(directory)!r} contains a checkpoint of the original implementation; "
        msg += "read it with `ep.models.convert_original(checkpoint, vocabularies)`."
        raise ValueError(msg)
    if not path.is_file():
        present = sorted(file.name for file in directory.iterdir())
        msg = f"{str(directory)!r} is not a model directory: it has no {CONFIG}; "
        msg += f"it contains {present}."
        raise FileNotFoundError(msg)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version = config["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{str(path)!r} is damaged ({type(error).__name__}: {error}); "
        msg += "download or save the model again."
        raise ValueError(msg) from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        msg = (
            f"The model in {str(directory)!r} has format version {version!r}; epifoundation "
            f"{__version__} reads up to version {FORMAT_VERSION}. Upgrade with "
            "`pip install -U epifoundation`."
        )
        raise ValueError(msg)
    if wrong := _damaged_keys(config):
        msg = (
            f"{str(path)!r} is damaged: missing or wrong {wrong}; download or save the model again."
        )
        raise ValueError(msg)
    return config


def _damaged_keys(config: dict[str, Any]) -> list[str]:
    wrong = [key for key, kind in TYPES.items() if not isinstance(config.get(key), kind)]
    required = {WEIGHTS, PEAKS, GENES, CARD}
    if "adapter_of" in config:
        base = config["adapter_of"]
        is_whole = isinstance(base, dict) and {"model", "revision"} <= set(base)
        wrong += [] if is_whole and "revision" in config else ["adapter_of"]
        required = {ADAPTER, CARD}
    return (
        wrong
        or sorted(required - set(config["sha256"]))
        or sorted(REQUIRED_SIZES - set(config["sizes"]))
        or sorted(set(config["sizes"]) - {field.name for field in fields(Sizes)})
    )


def revision_in(config: dict[str, Any]) -> str:
    """The revision of a whole model, from the checksums in its configuration."""
    return revision_of(config["sha256"].get(WEIGHTS, ""), config["sha256"].get(CELLS))


def check_hash(directory: Path, file: str, expected: str) -> None:
    """Raise an error unless the file exists and has the expected sha256."""
    path = directory / file
    if not path.is_file():
        msg = f"The model in {str(directory)!r} lacks {file!r}; download or save it again."
        raise FileNotFoundError(msg)
    found = sha256(path)
    if found != expected:
        msg = (
            f"{str(path)!r} is truncated or altered: its sha256 is {found[:12]}…, expected "
            f"{expected[:12]}… ({path.stat().st_size:,} bytes); download or save the model again."
        )
        raise ValueError(msg)


def _load[T](path: Path, load: Callable[[bytes], T]) -> T:
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        msg = f"{str(path)!r} is not a safetensors file ({error}); "
        msg += "download or save the model again."
        raise ValueError(msg) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    return _load(path, load_tensors)


def load_weights(network: Network, path: Path) -> None:
    """Load weights; the error lists missing and unexpected tensors, and wrong shapes."""
    tensors, expected = read_tensors(path), network.state_dict()
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in expected]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)} rather than {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        msg = f"The weights in {str(path)!r} do not fit config.json: {'; '.join(problems)}."
        raise ValueError(msg)
    network.load_state_dict(
        {name: part.float() if part.is_floating_point() else part for name, part in tensors.items()}
    )


def read_counted_cells(path: Path) -> dict[str, CountedCells]:
    """The cells that a model recognizes, by block of columns."""
    arrays = _load(path, load_arrays)
    blocks, parts = sorted({name.split(".")[0] for name in arrays}), ("hashes", "codes", "weights")
    try:
        return {
            block: CountedCells(*(arrays[f"{block}.{part}"] for part in parts)) for block in blocks
        }
    except KeyError as error:
        msg = f"{str(path)!r} lacks {error}; download or save the model again."
        raise ValueError(msg) from error
