"""The directory format of a model: written whole, checked file by file when read."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from .._version import __version__
from ..nn import ModelConfig, Network, Sizes
from ..vocabulary import GeneVocabulary, PeakVocabulary
from ._model import EpiFoundation, revision_of

FORMAT_VERSION = 1
CONFIG, WEIGHTS, PEAKS, GENES, LABELS, CARD = (
    "config.json",
    "model.safetensors",
    "peaks.bed.gz",
    "genes.tsv",
    "labels.json",
    "README.md",
)
REQUIRED = (WEIGHTS, PEAKS, GENES, CARD)


def write(model: EpiFoundation, directory: Path, *, overwrite: bool) -> Path:
    """Write `model`; see :meth:`EpiFoundation.save_pretrained`."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        is_model = (directory / CONFIG).is_file() and (directory / WEIGHTS).is_file()
        if not (overwrite and is_model):
            cure = "pass `overwrite=True`" if is_model else "choose another directory"
            msg = f"{str(directory)!r} exists and is not empty; {cure}."
            raise FileExistsError(msg)
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        _fill(model, staging)
        staging.chmod(0o755)
        _swap(staging, directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return directory


def read(directory: Path, *, name: str) -> EpiFoundation:
    """Read and check the model in `directory`."""
    config = _read_config(directory)
    for file, expected in config["sha256"].items():
        _check_file(directory, file, expected)
    peaks = PeakVocabulary.read_bed(directory / PEAKS, genome=config["genome"])
    genes = GeneVocabulary.read_tsv(directory / GENES)
    labels = json.loads((directory / LABELS).read_text()) if LABELS in config["sha256"] else []
    sizes = Sizes(**config["sizes"])
    found = Sizes(len(peaks), len(genes), len(labels), sizes.n_batches)
    if found != sizes:
        msg = f"The model in {str(directory)!r} contradicts itself: config.json says {sizes}, its files {found}."
        raise ValueError(msg)
    network = Network(ModelConfig.from_dict(config["model"]), sizes)
    _load_strictly(network, directory / WEIGHTS)
    model = EpiFoundation(network, peaks, genes, labels, config["training"], name, (directory / CARD).read_text())
    model.__dict__["revision"] = revision_of(
        config["sha256"][WEIGHTS]
    )  # known already: a large file is not hashed twice
    return model


def _fill(model: EpiFoundation, directory: Path) -> None:
    (directory / WEIGHTS).write_bytes(model.weights)
    model.peaks.write_bed(directory / PEAKS)
    model.genes.write_tsv(directory / GENES)
    (directory / CARD).write_text(model.card or _default_card(model))
    if model.labels:
        (directory / LABELS).write_text(json.dumps(model.labels))
    config = {
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "genome": model.peaks.genome,
        "model": model.config.to_dict(),
        "sizes": asdict(model.network.sizes),
        "training": model.training,
        "sha256": {file.name: _sha256(file) for file in sorted(directory.iterdir())},
    }
    (directory / CONFIG).write_text(json.dumps(config, indent=2))


def _swap(staging: Path, directory: Path) -> None:
    """Put `staging` in the place of `directory`; an interruption leaves one of the two whole."""
    if not directory.exists():
        staging.rename(directory)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{directory.name}-old-", dir=directory.parent))
    directory.rename(old / "model")
    try:
        staging.rename(directory)
    except BaseException:
        (old / "model").rename(directory)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    if not path.is_file():
        present = sorted(file.name for file in directory.iterdir())
        msg = f"{str(directory)!r} is no model directory: it has no {CONFIG} (files there: {present})."
        raise FileNotFoundError(msg)
    try:
        config = json.loads(path.read_text())
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
    missing = {"genome", "model", "sizes", "training", "sha256"} - set(config)
    unlisted = set(REQUIRED) - set(config.get("sha256", {}))
    if missing or unlisted:
        msg = f"{str(path)!r} is damaged: it lacks {sorted(missing | unlisted)}; fetch or save the model again."
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


def _load_strictly(network: Network, path: Path) -> None:
    """Load weights; each missing, unexpected or ill-shaped tensor is named."""
    try:
        tensors = load(path.read_bytes())
    except SafetensorError as error:
        msg = f"{str(path)!r} is no safetensors file ({error}); fetch or save the model again."
        raise ValueError(msg) from error
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
    network.load_state_dict({name: tensor.to(torch.float32) for name, tensor in tensors.items()})


def _default_card(model: EpiFoundation) -> str:
    rows = "".join(
        f"| {key} | {value} |\n" for key, value in model.training.items() if not isinstance(value, dict | list)
    )
    return (
        "# EpiFoundation model\n\n"
        f"Encoder `{model.config.encoder}` (d = {model.config.dim}), {len(model.peaks):,} peaks ({model.peaks.genome}), "
        f"{len(model.genes):,} genes (objective `{model.config.objective}`), {len(model.labels)} labels. "
        "Embeds scATAC-seq with `epifoundation.tl.embed`.\n\n"
        f"## Training\n\n| | |\n|---|---|\n{rows}"
    )
