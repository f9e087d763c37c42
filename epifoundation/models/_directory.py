"""Write a model to a directory, all or nothing, and read it with checks."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import torch
from safetensors.torch import save

from .._files import sha256
from .._version import __version__
from ..nn import ModelConfig, Network, Sizes
from ..peaks.vocabulary import GeneVocabulary, PeakVocabulary
from ._adapter import Adapter
from ._model import EpiFoundation
from ._model_files import (
    ADAPTER,
    CARD,
    CELLS,
    CONFIG,
    FORMAT_VERSION,
    GENES,
    LABELS,
    PEAKS,
    WEIGHTS,
    check_hash,
    load_weights,
    read_config,
    read_counted_cells,
    read_tensors,
    revision_in,
)


def write(
    model: EpiFoundation, directory: Path, *, overwrite: bool, adapter: Adapter | None = None
) -> Path:
    """Write `model`, or only its adapter; see :meth:`EpiFoundation.save_pretrained`."""
    directory = directory.resolve()
    check_target(directory, overwrite=overwrite)
    if adapter is not None and (directory / CONFIG).is_file():
        present = read_config(directory)
        # An adapter states its revision; that of a whole model follows from its checksums
        if adapter.revision in (present.get("revision"), revision_in(present)):
            msg = f"{str(directory)!r} contains the base model of the adapter, which the adapter "
            msg += "needs; choose another directory."
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
    """Raise FileExistsError if writing to `directory` would delete anything but a model."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    is_model = directory.is_dir() and _has_only_a_model(directory)
    if not (overwrite and is_model):
        cure = "pass `overwrite=True` or choose another"
        if not is_model:
            cure = "it contains other files; choose another directory"
        msg = f"{str(directory)!r} exists and is not empty; {cure}."
        raise FileExistsError(msg)


def _has_only_a_model(directory: Path) -> bool:
    try:
        listed = {CONFIG, *read_config(directory)["sha256"]}
    except (OSError, ValueError):
        return False
    return {file.name for file in directory.iterdir()} <= listed


def base_of(directory: Path) -> dict[str, str] | None:
    """Name and revision of the base model of an adapter; None for a whole model."""
    return read_config(directory).get("adapter_of")


def read(directory: Path, *, name: str, base: EpiFoundation | None = None) -> EpiFoundation:
    """Read and check the model in `directory`, which is an adapter of `base` if that is given."""
    config = read_config(directory)
    for file, expected in config["sha256"].items():
        check_hash(directory, file, expected)
    if base is None:
        peaks = PeakVocabulary.read_bed(directory / PEAKS, genome=config["genome"])
        genes = GeneVocabulary.read_tsv(directory / GENES)
    else:
        peaks, genes = base.peaks, base.genes
    labels = []
    if LABELS in config["sha256"]:
        labels = json.loads((directory / LABELS).read_text(encoding="utf-8"))
    sizes = Sizes(**config["sizes"])
    found = replace(sizes, n_peaks=len(peaks), n_genes=len(genes), n_labels=len(labels))
    if found != sizes:
        msg = f"The model in {str(directory)!r} is inconsistent: {CONFIG} has {sizes}, "
        msg += f"its files {found}. Download or save it again."
        raise ValueError(msg)
    version = config["format_version"]
    model_config, adapter = ModelConfig.from_dict(config["model"], format_version=version), None
    cells = read_counted_cells(directory / CELLS) if CELLS in config["sha256"] else {}
    if base is None:
        with torch.random.fork_rng():
            network = Network(model_config, sizes)
        load_weights(network, directory / WEIGHTS)
        revision = revision_in(config)  # the files were hashed above
    else:
        adapter = Adapter(base.name, base.revision, read_tensors(directory / ADAPTER))
        network = adapter.apply(base.network, model_config, sizes)
        revision = config["revision"]  # sums may be rounded differently on this machine
        has_base_labels = "labels" not in cells and labels == base.labels
        kept = {k: each for k, each in base.cells.items() if k != "labels" or has_base_labels}
        cells = kept | cells
    card = (directory / CARD).read_text(encoding="utf-8")
    model = EpiFoundation(
        network, peaks, genes, labels, config["training"], name, card, adapter, cells
    )
    model.__dict__["revision"] = revision  # fills the cached property
    return model


def _fill(model: EpiFoundation, directory: Path, adapter: Adapter | None) -> None:
    saved_cells = dict(model.cells)
    if adapter is None:
        (directory / WEIGHTS).write_bytes(model.weights)
        model.peaks.write_bed(directory / PEAKS)
        model.genes.write_tsv(directory / GENES)
    else:
        tensors = {name: part.contiguous() for name, part in adapter.tensors.items()}
        (directory / ADAPTER).write_bytes(save(tensors))
        saved_cells = {block: each for block, each in saved_cells.items() if block == "labels"}
    (directory / CARD).write_text(model.card or _default_card(model), encoding="utf-8")
    if saved_cells:
        (directory / CELLS).write_bytes(replace(model, cells=saved_cells).cell_bytes)
    if model.labels:
        (directory / LABELS).write_text(json.dumps(model.labels), encoding="utf-8")
    config = {
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "genome": model.peaks.genome,
        "model": model.config.to_dict(),
        "sizes": model.network.sizes.to_dict(),
        "training": model.training,
        "sha256": {file.name: sha256(file) for file in sorted(directory.iterdir())},
    }
    if adapter is not None:
        config["adapter_of"] = {"model": adapter.base, "revision": adapter.revision}
        config["revision"] = model.revision
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


def _default_card(model: EpiFoundation) -> str:
    """The README of a model that has none."""
    rows = [
        f"| {key} | {value} |\n"
        for key, value in model.training.items()
        if not isinstance(value, dict | list)
    ]
    about_cells = ""
    n_cells = max((len(cells) for cells in model.cells.values()), default=0)
    if model.config.is_measured and n_cells:
        about_cells = (
            f"It recognizes its {n_cells:,} training cells by a hash of their open peaks, and "
            "leaves each out of the vectors of its own peaks.\n\n"
        )
    elif model.config.is_measured:
        about_cells = (
            "It was saved without its training cells (`cells=False`): if they are embedded again, "
            "they are not recognized and are separated from new cells.\n\n"
        )
    return (
        f"# EpiFoundation model\n\nEncoder `{model.config.encoder}` (d = {model.config.dim}), "
        f"{len(model.peaks):,} peaks ({model.peaks.genome}), {len(model.genes):,} genes "
        f"(objective `{model.config.objective}`), {len(model.labels)} labels. "
        "Embeds scATAC-seq with `epifoundation.tl.embed`.\n\n"
        f"{about_cells}## Training\n\n| | |\n|---|---|\n{''.join(rows)}"
    )
