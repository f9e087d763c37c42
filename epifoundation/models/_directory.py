"""The directory format of a model: written whole, checked file by file when read."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.torch import load, save
from torch import Tensor

from .._version import __version__
from ..nn import ModelConfig, Network, Sizes
from ..peaks.counted import CountedCells
from ..peaks.vocabulary import GeneVocabulary, PeakVocabulary
from ._adapter import Adapter
from ._model import EpiFoundation, revision_of

FORMAT_VERSION = 2
FILES = CONFIG, WEIGHTS, PEAKS, GENES, LABELS, CARD, ADAPTER, CELLS = (
    "config.json",
    "model.safetensors",
    "peaks.bed.gz",
    "genes.tsv",
    "labels.json",
    "README.md",
    "adapter.safetensors",
    "cells.safetensors",
)
REQUIRED = (WEIGHTS, PEAKS, GENES, CARD)


def write(
    model: EpiFoundation, directory: Path, *, overwrite: bool, adapter: Adapter | None = None
) -> Path:
    """Write `model`, or what its adapter says of it; see :meth:`EpiFoundation.save_pretrained` and `save_adapter`."""
    directory = directory.resolve()
    check_target(directory, overwrite=overwrite)
    if adapter is not None and (directory / CONFIG).is_file():
        there = _read_config(directory)
        if adapter.revision in (there.get("revision"), _revision(there)):
            msg = f"{str(directory)!r} holds the model that the adapter belongs to, without which it is worth nothing; choose another directory."
            raise FileExistsError(msg)
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = directory.parent / f".{directory.name}-{uuid4().hex[:8]}"
    staging.mkdir()
    try:
        _fill(model, staging, adapter)
        _swap(staging, directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return directory


def check_target(directory: Path, *, overwrite: bool) -> None:
    """Raise unless a model can be written to `directory` without loss of anything but a model."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    is_model = directory.is_dir() and _is_model_alone(directory)
    if not (overwrite and is_model):
        cure = (
            "pass `overwrite=True` or choose another"
            if is_model
            else "it holds other files; choose another directory"
        )
        msg = f"{str(directory)!r} exists and is not empty; {cure}."
        raise FileExistsError(msg)


def _is_model_alone(directory: Path) -> bool:
    try:
        listed = {CONFIG, *_read_config(directory)["sha256"]}
    except (OSError, ValueError):
        return False
    return {file.name for file in directory.iterdir()} <= listed


def base_of(directory: Path) -> dict[str, str] | None:
    """Name and revision of the model that an adapter in `directory` belongs to; None for a whole model."""
    return _read_config(directory).get("adapter_of")


def read(directory: Path, *, name: str, base: EpiFoundation | None = None) -> EpiFoundation:
    """Read and check the model in `directory`; where it is an adapter, that of `base`."""
    config = _read_config(directory)
    for file, expected in config["sha256"].items():
        _check_file(directory, file, expected)
    if base is None:
        peaks = PeakVocabulary.read_bed(directory / PEAKS, genome=config["genome"])
        genes = GeneVocabulary.read_tsv(directory / GENES)
    else:
        peaks, genes = base.peaks, base.genes
    labels = (
        json.loads((directory / LABELS).read_text(encoding="utf-8"))
        if LABELS in config["sha256"]
        else []
    )
    sizes = Sizes(**config["sizes"])
    found = replace(sizes, n_peaks=len(peaks), n_genes=len(genes), n_labels=len(labels))
    if found != sizes:
        msg = f"The model in {str(directory)!r} contradicts itself: config.json says {sizes}, its files {found}."
        raise ValueError(msg)
    version = config["format_version"]
    model_config, adapter = ModelConfig.from_dict(config["model"], format_version=version), None
    if base is None:
        with torch.random.fork_rng():
            network = Network(model_config, sizes)
        _load_strictly(network, directory / WEIGHTS)
        revision = _revision(config)  # known already: a large file is not hashed twice
    else:
        adapter = Adapter(base.name, base.revision, _read_tensors(directory / ADAPTER))
        network = adapter.apply(base.network, model_config, sizes)
        revision = config["revision"]  # of what was saved, whatever this machine's sums round to
    card = (directory / CARD).read_text(encoding="utf-8")
    cells = _read_cells(directory) if CELLS in config["sha256"] else {}
    if base is not None and "labels" not in cells and labels == base.labels:
        cells = dict(base.cells) | cells
    elif base is not None:
        cells = {block: each for block, each in base.cells.items() if block != "labels"} | cells
    model = EpiFoundation(
        network, peaks, genes, labels, config["training"], name, card, adapter, cells
    )
    model.__dict__["revision"] = revision
    return model


def _fill(model: EpiFoundation, directory: Path, adapter: Adapter | None) -> None:
    if adapter is None:
        (directory / WEIGHTS).write_bytes(model.weights)
        model.peaks.write_bed(directory / PEAKS)
        model.genes.write_tsv(directory / GENES)
    else:
        (directory / ADAPTER).write_bytes(
            save({name: part.contiguous() for name, part in adapter.tensors.items()})
        )
    (directory / CARD).write_text(model.card or _default_card(model), encoding="utf-8")
    cells = model.cell_bytes if adapter is None else adapter.cell_bytes(model)
    if cells:
        (directory / CELLS).write_bytes(cells)
    if model.labels:
        (directory / LABELS).write_text(json.dumps(model.labels), encoding="utf-8")
    config = {
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "genome": model.peaks.genome,
        "model": model.config.to_dict(),
        "sizes": model.network.sizes.to_dict(),
        "training": model.training,
        "sha256": {file.name: _sha256(file) for file in sorted(directory.iterdir())},
    }
    if adapter is not None:
        config |= {
            "adapter_of": {"model": adapter.base, "revision": adapter.revision},
            "revision": model.revision,
        }
    (directory / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")


def _swap(staging: Path, directory: Path) -> None:
    """Put `staging` in the place of `directory`; an interruption leaves one of the two there."""
    old = staging.with_name(f"{staging.name}-old")
    try:
        if directory.exists():
            directory.rename(old)
        staging.rename(directory)
    except BaseException:
        if old.exists() and not directory.exists():
            old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    if not (directory / WEIGHTS).is_file() and any(directory.glob("*.pth")):
        msg = f"{str(directory)!r} holds a checkpoint of the original implementation; read it with `ep.models.convert_original(checkpoint, vocabularies)`."
        raise ValueError(msg)
    if not path.is_file():
        present = sorted(file.name for file in directory.iterdir())
        msg = f"{str(directory)!r} is no model directory: it has no {CONFIG} (files there: {present})."
        raise FileNotFoundError(msg)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version = config["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{str(path)!r} is damaged ({type(error).__name__}: {error}); fetch or save the model again."
        raise ValueError(msg) from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        msg = (
            f"The model in {str(directory)!r} has format version {version!r}, this epifoundation ({__version__}) reads up to "
            f"{FORMAT_VERSION}; upgrade with `pip install -U epifoundation`."
        )
        raise ValueError(msg)
    wanted = {"genome": str, "model": dict, "sizes": dict, "training": dict, "sha256": dict}
    wrong = [key for key, kind in wanted.items() if not isinstance(config.get(key), kind)]
    required: tuple[str, ...] = REQUIRED
    if "adapter_of" in config:
        told = config["adapter_of"]
        is_told = (
            isinstance(told, dict) and {"model", "revision"} <= set(told) and "revision" in config
        )
        wrong, required = wrong if is_told else [*wrong, "adapter_of"], (ADAPTER, CARD)
    wrong = wrong or sorted(set(required) - set(config["sha256"]))
    # Sizes that came later have defaults; these four were there from the beginning.
    wrong = wrong or sorted({"n_peaks", "n_genes", "n_labels", "n_batches"} - set(config["sizes"]))
    wrong = wrong or sorted(set(config["sizes"]) - {field.name for field in fields(Sizes)})
    if wrong:
        msg = f"{str(path)!r} is damaged at {wrong}; fetch or save the model again."
        raise ValueError(msg)
    return config


def _check_file(directory: Path, file: str, expected: str) -> None:
    path = directory / file
    if not path.is_file():
        msg = f"The model in {str(directory)!r} lacks {file!r}; fetch or save it again."
        raise FileNotFoundError(msg)
    found = _sha256(path)
    if found != expected:
        msg = (
            f"{str(path)!r} is truncated or altered: its sha256 is {found[:12]}…, {CONFIG} says {expected[:12]}… "
            f"({path.stat().st_size:,} bytes); fetch or save the model again."
        )
        raise ValueError(msg)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        msg = f"{str(path)!r} is no safetensors file ({error}); fetch or save the model again."
        raise ValueError(msg) from error


def _load_strictly(network: Network, path: Path) -> None:
    """Load weights; each missing, unexpected or ill-shaped tensor is named."""
    tensors = _read_tensors(path)
    wanted = network.state_dict()
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in wanted]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)} rather than {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        msg = f"The weights in {str(path)!r} do not fit config.json: {'; '.join(problems)}."
        raise ValueError(msg)
    network.load_state_dict(
        {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }
    )


def _read_cells(directory: Path) -> dict[str, CountedCells]:
    try:
        arrays = load_arrays((directory / CELLS).read_bytes())
    except SafetensorError as error:
        msg = f"{str(directory / CELLS)!r} is not a safetensors file ({error}); fetch or save the model again."
        raise ValueError(msg) from error
    blocks = sorted({name.split(".")[0] for name in arrays})
    try:
        return {
            block: CountedCells(
                *(arrays[f"{block}.{name}"] for name in ("hashes", "codes", "weights"))
            )
            for block in blocks
        }
    except KeyError as error:
        msg = f"{str(directory / CELLS)!r} lacks {error}; fetch or save the model again."
        raise ValueError(msg) from error


def _revision(config: dict[str, Any]) -> str:
    return revision_of(config["sha256"].get(WEIGHTS, ""), config["sha256"].get(CELLS))


def _default_card(model: EpiFoundation) -> str:
    rows = "".join(
        f"| {key} | {value} |\n"
        for key, value in model.training.items()
        if not isinstance(value, dict | list)
    )
    return (
        "# EpiFoundation model\n\n"
        f"Encoder `{model.config.encoder}` (d = {model.config.dim}), {len(model.peaks):,} peaks ({model.peaks.genome}), "
        f"{len(model.genes):,} genes (objective `{model.config.objective}`), {len(model.labels)} labels. "
        "Embeds scATAC-seq with `epifoundation.tl.embed`.\n\n"
        f"{_about_cells(model)}"
        f"## Training\n\n| | |\n|---|---|\n{rows}"
    )


def _about_cells(model: EpiFoundation) -> str:
    if not model.config.is_measured:
        return ""
    n = max((len(cells) for cells in model.cells.values()), default=0)
    if n:
        return (
            f"It recognizes the {n:,} cells that it was measured on, by a hash of their open peaks, and leaves each out of the "
            "vectors of its own peaks.\n\n"
        )
    return (
        "It was saved without the cells that it was measured on (`cells=False`): if these come again they are not recognized, "
        "and lie apart from new cells.\n\n"
    )
