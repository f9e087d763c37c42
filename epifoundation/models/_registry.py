"""Load models by name: bundled, from a directory, or from a Hugging Face repository."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path

import torch

from .._available import MODELS, PAPER
from .._hub import fetch
from ._config import CONFIG, MODEL_FILES
from ._directory import base_of, read
from ._model import EpiFoundation
from ._original_hub import fetch_original

DEFAULT_MODEL = "human-atlas"


def from_pretrained(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    base: EpiFoundation | str | Path | None = None,
    device: str | torch.device = "auto",
) -> EpiFoundation:
    """Load a model.

    Parameters
    ----------
    name_or_path
        A name of :func:`available`, a directory, or a Hugging Face repository (``"owner/name"``),
        in that order; ``"./name"`` or a :class:`~pathlib.Path` is a directory.
        ``"UCSC-VLAA/EpiFoundation"`` is the paper's checkpoint, converted by
        :func:`convert_original`; ``"UCSC-VLAA/EpiFoundation/name.pth"`` selects one of several.
    revision
        Branch, tag or commit of a Hugging Face repository.
    base
        Base model of an adapter (:meth:`~epifoundation.EpiFoundation.save_adapter`), its name or
        directory; if None, the name stored in the adapter.
    device
        ``"auto"`` (CUDA if available, else the CPU) or a torch device.

    Returns
    -------
    The model, ready for :mod:`epifoundation.tl`.

    Raises
    ------
    FileNotFoundError
        The directory is not a model or lacks a file.
    ValueError
        The name is unknown or gated, a file is truncated or altered (sha256), the weights do not
        fit, the format is newer than this package, or the base of an adapter is not found or is
        another model.
    ConnectionError
        The hub cannot be reached and the files are not in the cache of huggingface_hub; the error
        names the files and where to put them.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.models.from_pretrained("pbmc-51loci").peaks.genome
    'hg38'
    """
    return _load(name_or_path, revision, base, ()).to(resolve_device(device))


def _load(
    name_or_path: str | Path,
    revision: str | None,
    base: EpiFoundation | str | Path | None,
    adapters: tuple[Path, ...],
) -> EpiFoundation:
    """The model on the CPU; `adapters` are those whose base it is."""
    if not isinstance(name_or_path, str | Path):
        msg = f"`name_or_path` must be a string or a path, got {type(name_or_path).__name__}."
        raise TypeError(msg)
    if not isinstance(revision, str | None):
        msg = f"`revision` must be a string or None, got {type(revision).__name__}."
        raise TypeError(msg)
    name = str(name_or_path)
    # A Path is always a directory; a folder does not shadow a registered name
    is_name = isinstance(name_or_path, str)
    is_paper = is_name and (name == PAPER or name.startswith(f"{PAPER}/"))
    is_bundled = is_name and not is_paper and name in MODELS.index
    is_directory = not is_bundled and not is_paper and bool(name) and Path(name).is_dir()
    if revision is not None and (is_bundled or is_directory):
        msg = f"`revision` ({revision!r}) is for Hugging Face repositories; {name!r} is a "
        msg += f"{'directory' if is_directory else 'bundled model'}."
        raise ValueError(msg)
    if is_paper:
        file = name.removeprefix(PAPER).removeprefix("/")
        return fetch_original(PAPER, file or None, revision)
    if is_directory:
        directory = Path(name)
    elif is_bundled:
        directory = Path(str(files("epifoundation.models"))) / "bundled" / name
    else:
        directory = _download(name_or_path, revision)
    return read(directory, name=name, base=_base(directory, base, adapters))


def _base(
    directory: Path, base: EpiFoundation | str | Path | None, adapters: tuple[Path, ...]
) -> EpiFoundation | None:
    """The base model of an adapter; None for a whole model."""
    stored = base_of(directory)
    if stored is None:
        if base is not None:
            msg = f"{str(directory)!r} is a whole model, not an adapter: omit `base`."
            raise ValueError(msg)
        return None
    name, revision = stored["model"], stored["revision"]
    adapter = f"{str(directory)!r} is an adapter of the model {name!r} ({revision})"
    if directory.resolve() in adapters:
        msg = f"{adapter}, and thereby of itself; pass its base as `base=`."
        raise ValueError(msg)
    if not isinstance(base, EpiFoundation):
        above = (*adapters, directory.resolve())
        try:
            base = _load(name if base is None else base, None, None, above)
        except (ValueError, OSError) as error:
            msg = f"{adapter}, which was not found ({error}); pass it as `base=`."
            raise ValueError(msg) from error
    if revision not in (base.revision, base._former_revision):
        msg = f"{adapter}, but {base.name!r} has the revision {base.revision}. "
        msg += "Pass the right model as `base=`."
        raise ValueError(msg)
    return base


def resolve_device(device: str | torch.device) -> torch.device:
    """The torch device; ``"auto"`` is CUDA if available (one device per process), else the CPU."""
    if device == "auto":
        local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
        if torch.cuda.is_available() and local is not None:
            return torch.device("cuda", int(local) % torch.cuda.device_count())
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        msg = "`device` must be 'auto' or an available torch device, such as 'cpu' or 'cuda:0', "
        msg += f"got {device!r}: {error}"
        raise ValueError(msg) from error
    if resolved.type == "meta":
        msg = "`device` must be 'auto' or a torch device that has memory, got 'meta'."
        raise ValueError(msg)
    return resolved


def resolve_model(
    model: EpiFoundation | str | Path | None, device: str | torch.device | None
) -> EpiFoundation:
    """The model for a user's argument; None is the bundled one.

    With ``device=None`` a model is not moved, for functions that do not run it.
    """
    if isinstance(model, EpiFoundation):
        return model if device is None else model.to(resolve_device(device))
    if model is None or isinstance(model, str | Path):
        return from_pretrained(DEFAULT_MODEL if model is None else model, device=device or "cpu")
    msg = f"`model` must be an EpiFoundation, a name, a path or None, got {type(model).__name__}."
    raise TypeError(msg)


def _download(name: str | Path, revision: str | None) -> Path:
    known = list(MODELS.index)
    if isinstance(name, Path) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        msg = f"Unknown model {str(name)!r}: neither a directory nor one of {known}."
        raise ValueError(msg)

    def choose(paths: list[str]) -> list[str]:
        if CONFIG not in paths:
            msg = f"The Hugging Face model {name!r} is not a model of this package: "
            msg += f"it has no {CONFIG}; it contains {paths[:10]}."
            raise FileNotFoundError(msg)
        return [path for path in paths if path in MODEL_FILES]

    needed = f"the files of the model ({CONFIG}, ...)"
    try:
        found = fetch(name, choose, revision=revision, needed=needed)
    except (ConnectionError, ValueError) as error:
        msg = f"{name!r} is neither a directory nor one of {known}. {error}"
        raise type(error)(msg) from error
    return found[CONFIG].parent
