"""Names of models, and where they are found: bundled, a directory, or a Hugging Face repository."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path

import pandas as pd
import torch

from .._hub import fetch
from ._directory import CONFIG, FILES, base_of, read
from ._model import EpiFoundation
from ._original_hub import fetch_original

DEFAULT = "pbmc-51loci"
PAPER = "UCSC-VLAA/EpiFoundation"

_MODELS = pd.DataFrame(
    [
        {
            "name": "pbmc-51loci",
            "source": "bundled",
            "genome": "hg38",
            "peaks": 5724,
            "genes": 51,
            "labels": 13,
            "description": "Human blood, 51 windows of 200 kb: for the demo and the tutorials",
        },
        {
            "name": PAPER,
            "source": "Hugging Face, converted",
            "genome": "hg38",
            "description": "The checkpoint of Wu et al. 2025 (Apache-2.0), fetched and converted on first use",
        },
    ]
).set_index("name")
_MODELS = _MODELS.astype(
    {"peaks": "Int64", "genes": "Int64", "labels": "Int64"}
)  # <NA>: not known before it is fetched


def available() -> pd.DataFrame:
    """List the models that :func:`from_pretrained` knows by name.

    Returns
    -------
    One row a model, indexed by name: ``source``, ``genome``, ``peaks``, ``genes``, ``labels``, ``description``.

    Examples
    --------
    >>> import epifoundation as ep
    >>> list(ep.models.available().index)
    ['pbmc-51loci', 'UCSC-VLAA/EpiFoundation']
    """
    return _MODELS.copy()


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
        A name of :func:`available`, a directory, or a Hugging Face repository (``"owner/name"``), in that order;
        ``"./name"`` or a :class:`~pathlib.Path` is a directory. ``"UCSC-VLAA/EpiFoundation"`` is the paper's checkpoint,
        converted by :func:`convert_original`; where there are several, ``"UCSC-VLAA/EpiFoundation/name.pth"`` is one of them.
    revision
        Branch, tag or commit of a Hugging Face repository.
    base
        The model that an adapter (:meth:`~epifoundation.EpiFoundation.save_adapter`) belongs to, its name or directory; None looks for it
        under the name that it had.
    device
        ``"auto"`` (CUDA where there is one, else the CPU) or a torch device.

    Returns
    -------
    The model, ready for :mod:`epifoundation.tl`.

    Raises
    ------
    FileNotFoundError
        The directory is no model or lacks a file.
    ValueError
        The name is unknown or gated, a file is truncated or altered (sha256), the weights do not fit, or the format is
        newer than this package; the base of an adapter is another model, or not found.
    ConnectionError
        The hub cannot be reached and the files are not in the cache of huggingface_hub; the error says
        which to put where.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.models.from_pretrained("pbmc-51loci").peaks.genome
    'hg38'
    """
    name = str(name_or_path)
    # A Path is always a directory; a registered name is not shadowed by a folder that happens to be called so.
    is_registered = isinstance(name_or_path, str) and name in _MODELS.index
    is_paper = isinstance(name_or_path, str) and (name == PAPER or name.startswith(f"{PAPER}/"))
    is_registered = is_registered and not is_paper
    is_directory = not is_registered and not is_paper and bool(name) and Path(name).is_dir()
    from_hub = not is_directory and not is_registered
    if revision is not None and not from_hub:
        msg = f"`revision` ({revision!r}) is for Hugging Face repositories; {name!r} is a {'directory' if is_directory else 'bundled model'}."
        raise ValueError(msg)
    if is_paper:
        file = name.removeprefix(PAPER).removeprefix("/")
        return fetch_original(PAPER, file or None, revision).to(resolve_device(device))
    if is_directory:
        directory = Path(name)
    elif is_registered:
        directory = Path(str(files("epifoundation.models"))) / "bundled" / name
    else:
        directory = _download(name_or_path, revision)
    return read(directory, name=name, base=_base(directory, base)).to(resolve_device(device))


def _base(directory: Path, base: EpiFoundation | str | Path | None) -> EpiFoundation | None:
    """The model that an adapter belongs to; None where there is a whole model."""
    told = base_of(directory)
    if told is None:
        if base is not None:
            msg = f"{str(directory)!r} is a whole model, no adapter: leave out `base`."
            raise ValueError(msg)
        return None
    wanted = f"{str(directory)!r} is an adapter of the model {told['model']!r} ({told['revision']})"
    if not isinstance(base, EpiFoundation):
        try:
            base = from_pretrained(told["model"] if base is None else base, device="cpu")
        except (ValueError, OSError) as error:
            msg = f"{wanted}, which was not found ({error}); pass it as `base=`."
            raise ValueError(msg) from error
    if base.revision != told["revision"]:
        msg = (
            f"{wanted}; {base.name!r} is another one ({base.revision}). Pass that model as `base=`."
        )
        raise ValueError(msg)
    return base


def resolve_device(device: str | torch.device) -> torch.device:
    """``"auto"`` is CUDA where there is one, else the CPU; of several processes on a machine each takes a device of its own."""
    if device == "auto":
        local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
        if torch.cuda.is_available() and local is not None:
            return torch.device("cuda", int(local) % torch.cuda.device_count())
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        msg = f"`device` must be 'auto' or a torch device that is here, such as 'cpu' or 'cuda:0', got {device!r}: {error}"
        raise ValueError(msg) from error
    return resolved


def resolve_model(
    model: EpiFoundation | str | Path | None, device: str | torch.device | None
) -> EpiFoundation:
    """The model that the user means, on its device; None is the bundled one.

    Without a device, a model stays where it is: for what does not run it.
    """
    if isinstance(model, EpiFoundation):
        return model if device is None else model.to(resolve_device(device))
    if model is None or isinstance(model, str | Path):
        return from_pretrained(DEFAULT if model is None else model, device=device or "cpu")
    msg = f"`model` must be an EpiFoundation, a name, a path or None, got {type(model).__name__}."
    raise TypeError(msg)


def _download(name: str | Path, revision: str | None) -> Path:
    known = list(_MODELS.index)
    if isinstance(name, Path) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        msg = f"Unknown model {str(name)!r}: no such directory, and not one of {known}."
        raise ValueError(msg)

    def choose(paths: list[str]) -> list[str]:
        if CONFIG not in paths:
            msg = (
                f"The Hugging Face model {name!r} is no model of this package: it has no {CONFIG}."
            )
            raise FileNotFoundError(msg)
        return [path for path in paths if path in FILES]

    try:
        found = fetch(
            name, choose, revision=revision, needed=f"the files of the model ({CONFIG}, ...)"
        )
    except (ConnectionError, ValueError) as error:
        msg = f"{name!r} is no directory and not one of {known}. {error}"
        raise type(error)(msg) from error
    return found[CONFIG].parent
