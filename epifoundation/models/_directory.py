"""Write a model to a directory, all or nothing, and read it with checks."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save

from .._files import sha256
from .._version import __version__
from ..nn import PROFILES
from ..peaks.vocabulary import GeneVocabulary, PeakVocabulary
from ._adapter import Adapter
from ._card import default_card
from ._checks import check_tensors
from ._config import (
    ADAPTER,
    CARD,
    CELLS,
    CONFIG,
    DIGEST,
    FORMAT_VERSION,
    GENES,
    LABELS,
    PEAKS,
    WEIGHTS,
    about,
    digest_of,
    parts_of,
    read_config,
)
from ._model import EpiFoundation
from ._model_files import (
    check_hash,
    read_card,
    read_counted_cells,
    read_genes,
    read_labels,
    read_network,
    read_peaks,
    read_tensors,
)
from ._revision import former_revision
from ._saving import COMPLETE, is_temporary, listed, locate, locked, replacing, steady


def write(
    model: EpiFoundation, directory: Path, *, overwrite: bool, adapter: Adapter | None = None
) -> Path:
    """Write `model`, or only its adapter; see :meth:`EpiFoundation.save_pretrained`."""
    directory = directory.resolve()
    with locked(directory):
        check_target(directory, overwrite=overwrite)
        if adapter is not None and _is_base(directory, adapter):
            msg = f"{str(directory)!r} contains the base model of the adapter, which the adapter "
            msg += "needs; choose another directory."
            raise FileExistsError(msg)
        with replacing(directory, CONFIG) as folder:
            _fill(model, folder, adapter)
    return directory


def check_target(directory: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError if writing to `directory` would delete anything but a model."""
    if not directory.exists():
        return
    if not directory.is_dir():
        msg = f"{str(directory)!r} is a file; choose a directory."
        raise FileExistsError(msg)
    names = {path.name for path in directory.iterdir() if not is_temporary(path)}
    if not names and not (directory / COMPLETE).is_dir():
        return
    is_model = _is_model(directory, names)
    if not (overwrite and is_model):
        cure = "pass `overwrite=True` or choose another"
        if not is_model:
            cure = "it contains other files, or a damaged model; choose another directory"
        msg = f"{str(directory)!r} exists and is not empty; {cure}."
        raise FileExistsError(msg)


def _is_model(directory: Path, names: set[str]) -> bool:
    """Whether `names`, the files of a directory, are those of a model, and no others."""
    try:
        read_config(directory)
    except (OSError, ValueError):
        return False
    configs = {directory / CONFIG, locate(directory, CONFIG)}
    return names <= {CONFIG}.union(*map(listed, configs))


def _is_base(directory: Path, adapter: Adapter) -> bool:
    """Whether a directory contains the base model of an adapter."""
    if not (directory / CONFIG).is_file():
        return False
    if Path(adapter.base).resolve() == directory:
        return True
    with suppress(OSError, ValueError):
        return base_of(directory) is None and (
            read(directory, name=str(directory)).revision == adapter.revision
        )
    return False  # damaged


def base_of(directory: Path) -> dict[str, str] | None:
    """Name and revision of the base model of an adapter; None for a whole model."""
    return steady(directory, CONFIG, read_config).get("adapter_of")


def read(directory: Path, *, name: str, base: EpiFoundation | None = None) -> EpiFoundation:
    """Read and check the model in `directory`, which is an adapter of `base` if that is given."""
    return steady(directory, CONFIG, lambda found: _read(found, name, base))


def _read(directory: Path, name: str, base: EpiFoundation | None) -> EpiFoundation:
    config = read_config(directory)
    files = config["sha256"]
    for file, expected in files.items():
        check_hash(directory, file, expected)
    architecture, sizes = parts_of(config)
    if base is None:
        is_atlas = architecture.encoder == PROFILES
        peaks = read_peaks(directory, config["genome"], sizes.n_peaks, is_atlas=is_atlas)
        genes = read_genes(directory)
    else:
        peaks, genes = base.peaks, base.genes
    labels, lineages, ontology = read_labels(directory) if LABELS in files else ([], {}, {})
    counts = {"n_peaks": len(peaks), "n_genes": len(genes), "n_labels": len(labels)}
    for size, found in counts.items():
        if found != getattr(sizes, size):
            msg = f"The model in {str(directory)!r} is inconsistent: `{size}` is "
            msg += f"{getattr(sizes, size):,} in {CONFIG}, but its files have {found:,}. "
            msg += "Download or save it again."
            raise ValueError(msg)
    cells = read_counted_cells(directory, architecture, len(labels)) if CELLS in files else {}
    adapter = None
    if base is None:
        network = read_network(directory, WEIGHTS, architecture, sizes)
    else:
        with about(locate(directory, ADAPTER)):
            adapter = Adapter(base.name, base.revision, read_tensors(directory, ADAPTER))
            network = adapter.apply(base.network, architecture, sizes)
            check_tensors(network)
        has_base_labels = "labels" not in cells and labels == base.labels
        kept = {k: each for k, each in base.cells.items() if k != "labels" or has_base_labels}
        cells = kept | cells
    card = read_card(directory)
    with about(directory):
        parts = network, peaks, genes, labels, config["training"], name, card, adapter, cells
        model = EpiFoundation(*parts, lineages=lineages, ontology=ontology)
    former = _former_revision(config)
    if former:
        model.__dict__["_former_revision"] = former  # fills the cached property
    return model


def _former_revision(config: dict[str, Any]) -> str:
    """The revision of a directory in earlier versions, if it is known without its weights."""
    if "adapter_of" in config:
        return str(config.get("revision", ""))
    return former_revision(config["sha256"][WEIGHTS], config["sha256"].get(CELLS))


def _fill(model: EpiFoundation, directory: Path, adapter: Adapter | None) -> None:
    saved_cells = dict(model.cells)
    if adapter is None:
        (directory / WEIGHTS).write_bytes(model.weights)
        _write_vocabularies(model, directory)
    else:
        tensors = {name: part.contiguous() for name, part in adapter.tensors.items()}
        (directory / ADAPTER).write_bytes(save(tensors))
        saved_cells = {block: each for block, each in saved_cells.items() if block == "labels"}
    (directory / CARD).write_text(model.card or default_card(model), encoding="utf-8")
    if saved_cells:
        (directory / CELLS).write_bytes(replace(model, cells=saved_cells).cell_bytes)
    if model.labels:
        terms = {"lineages": dict(model.lineages), "ontology": dict(model.ontology)}
        given = {name: by_label for name, by_label in terms.items() if by_label}
        content = {"labels": model.labels, **given} if given else model.labels
        (directory / LABELS).write_text(json.dumps(content), encoding="utf-8")
    config: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "genome": model.peaks.genome,
        "model": model.config.to_dict(),
        "sizes": model.network.sizes.to_dict(),
        "training": _as_json(model.training),
        "sha256": {file.name: sha256(file) for file in sorted(directory.iterdir())},
    }
    if adapter is not None:
        config["adapter_of"] = {"model": adapter.base, "revision": adapter.revision}
    config[DIGEST] = digest_of(config)
    (directory / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")


def _write_vocabularies(model: EpiFoundation, directory: Path) -> None:
    """Write peaks and genes; ValueError if their names do not come back from the files."""
    genome = model.peaks.genome
    # One peak of each chromosome is enough, and takes no time
    some = PeakVocabulary(model.peaks.intervals.drop_duplicates("chrom"), genome)
    some.write_bed(directory / PEAKS)
    model.genes.write_tsv(directory / GENES)
    try:
        is_same = PeakVocabulary.read_bed(directory / PEAKS).same_as(some.intervals)
        genes = GeneVocabulary.read_tsv(directory / GENES)
        is_same &= (genes.names, genes.ids) == (model.genes.names, model.genes.ids)
    except ValueError:
        is_same = False
    if not is_same:
        msg = "The names of chromosomes or genes cannot be written to a text file: rename those "
        msg += "with tabs, line breaks or control characters, and chromosomes called 'track'."
        raise ValueError(msg)
    model.peaks.write_bed(directory / PEAKS)


def _as_json(training: dict[str, Any]) -> Any:
    try:
        return json.loads(json.dumps(training))
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"`training` must have JSON types (numbers, strings, lists, dictionaries): {error}."
        raise TypeError(msg) from error
