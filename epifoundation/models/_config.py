"""``config.json`` of a model directory: read with checks, and its digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from .._version import __version__
from ..nn import ModelConfig, Sizes
from ._checks import check_genome, check_training
from ._saving import is_temporary, locate

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
DIGEST = "config_sha256"
TYPES = {"genome": str, "model": dict, "sizes": dict, "training": dict, "sha256": dict}
JSON_TYPES = {str: "a string", dict: "an object"}
REQUIRED_SIZES = {"n_peaks", "n_genes", "n_labels", "n_batches"}  # later ones have defaults


def read_config(directory: Path) -> dict[str, Any]:
    """The content of ``config.json``, checked."""
    path = locate(directory, CONFIG)
    if not locate(directory, WEIGHTS).is_file() and any(directory.glob("*.pth")):
        msg = f"{str(directory)!r} contains a checkpoint of the original implementation; "
        msg += "read it with `ep.models.convert_original(checkpoint, vocabularies)`."
        raise ValueError(msg)
    if not path.is_file():
        present = sorted(file.name for file in directory.iterdir() if not is_temporary(file))
        msg = f"{str(directory)!r} is not a model directory: it has no {CONFIG}; "
        msg += f"it contains {present}."
        raise FileNotFoundError(msg)
    config = read_json(path)
    if not isinstance(config, dict) or "format_version" not in config:
        msg = f"{str(path)!r} is damaged: it must be an object with a `format_version`, "
        raise ValueError(f"{msg}got {config!r:.80}; download or save the model again.")
    version = config["format_version"]
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        msg = (
            f"The model in {str(directory)!r} has format version {version!r:.80}; epifoundation "
            f"{__version__} reads versions 1 to {FORMAT_VERSION}. Upgrade with "
            "`pip install -U epifoundation`."
        )
        raise ValueError(msg)
    with about(path):
        _check(config)
    return config


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        msg = f"{str(path)!r} is damaged ({type(error).__name__}: {error}); "
        msg += "download or save the model again."
        raise ValueError(msg) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for name in found if names.count(name) > 1)
        msg = f"the key {name!r} occurs twice"
        raise ValueError(msg)
    return found


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Errors of what was read from a file name it."""
    try:
        yield
    except (ValueError, TypeError) as error:
        # Some errors begin with the name of the file
        reason = re.sub(f"^{re.escape(repr(str(path)))} ", "it ", str(error)).rstrip(".")
        msg = f"{str(path)!r} is damaged: {reason}; download or save the model again."
        raise ValueError(msg) from error


def digest_of(config: dict[str, Any]) -> str:
    """The sha256 of a configuration, however it is formatted, without digests.

    Digests of the other files are not part of it, as each of them is compared with its file.
    """
    content = {key: value for key, value in config.items() if key != DIGEST}
    content["sha256"] = sorted(config["sha256"])
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check(config: dict[str, Any]) -> None:
    for key, kind in TYPES.items():
        if not isinstance(config.get(key), kind):
            got = f"got {config[key]!r:.80}" if key in config else "which is missing"
            msg = f"missing or wrong {[key]}: `{key}` must be {JSON_TYPES[kind]}, {got}"
            raise ValueError(msg)
    for name, digest in config["sha256"].items():
        if name not in MODEL_FILES or name == CONFIG:
            msg = f"`sha256` lists {name!r:.80}, which is not a file of a model"
            raise ValueError(msg)
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            msg = f"`sha256` of {name!r} must be 64 hexadecimal digits, got {digest!r:.80}"
            raise ValueError(msg)
    check_genome(config["genome"])
    required = {WEIGHTS, PEAKS, GENES, CARD}
    if "adapter_of" in config:
        base = config["adapter_of"]
        has_strings = isinstance(base, dict) and all(
            isinstance(base.get(key), str) and base[key] for key in ("model", "revision")
        )
        if not has_strings:
            msg = "missing or wrong ['adapter_of']: it must have the name of a `model` and its "
            msg += f"`revision`, got {base!r:.80}"
            raise ValueError(msg)
        required = {ADAPTER, CARD}
    sizes = config["sizes"]
    missing = sorted(required - set(config["sha256"])) or sorted(REQUIRED_SIZES - set(sizes))
    missing = missing or sorted(set(sizes) - {field.name for field in fields(Sizes)})
    if missing:
        msg = f"missing or wrong {missing}"
        raise ValueError(msg)
    check_training(config["training"], parts_of(config)[1])
    # Models saved by earlier versions have no digest of their configuration
    if DIGEST in config and digest_of(config) != config[DIGEST]:
        msg = f"it was altered: the sha256 of its content is {digest_of(config)[:12]}…, "
        msg += f"expected {config[DIGEST]!r:.14}…"
        raise ValueError(msg)


def parts_of(config: dict[str, Any]) -> tuple[ModelConfig, Sizes]:
    """Architecture and sizes."""
    version = config["format_version"]
    architecture = ModelConfig.from_dict(config["model"], format_version=version)
    return architecture, Sizes(**config["sizes"])
