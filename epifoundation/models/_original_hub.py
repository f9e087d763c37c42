"""Original checkpoints on Hugging Face: fetched, converted once, kept in our format."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from pathlib import Path

from filelock import FileLock

from .._hub import fetch, folder_of
from .._settings import settings
from ._directory import read
from ._model import EpiFoundation
from ._original import convert_original
from ._original_files import KINDS, file_of, find_vocabularies


def fetch_original(repo_id: str, file: str | None, revision: str | None) -> EpiFoundation:
    """Fetch and convert a checkpoint of the original implementation; the conversion is kept in our format.

    Parameters
    ----------
    repo_id
        Hugging Face repository that holds it beside its vocabularies.
    file
        Path of the checkpoint in the repository; None: the only one, or the only one that is called pretrained.
    revision
        Branch, tag or commit; None is the main branch.
    """

    def choose(paths: list[str]) -> list[str]:
        return [
            _choose_checkpoint(paths, file, repo_id),
            *(path for path in paths if path.endswith(".json")),
        ]

    files = fetch(
        repo_id,
        choose,
        revision=revision,
        needed=f"the checkpoint ({file or '*.pth'}) and {', '.join(map(file_of, KINDS))}",
    )
    # Of other files, another conversion.
    states = [
        f"{name} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for name, path in sorted(files.items())
    ]
    digest = hashlib.sha256("\n".join(states).encode()).hexdigest()[:16]
    checkpoint, *tables = files.values()
    folder = settings.cache_dir / "converted" / folder_of(repo_id, revision).name
    target = folder / f"{checkpoint.stem}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            try:
                return read(target, name=repo_id)
            except (ValueError, FileNotFoundError):
                shutil.rmtree(target)  # damaged since it was made; what it was made from is here
        model = _convert(checkpoint, find_vocabularies(tables))
        model.training["source"] = f"{checkpoint.name!r} of Hugging Face {repo_id}"
        model.save_pretrained(target)
        return read(target, name=repo_id)


def _convert(checkpoint: Path, vocabularies: dict[str, Path]) -> EpiFoundation:
    has_labels = "cell" in vocabularies
    try:
        model = convert_original(checkpoint, vocabularies, labels=has_labels)
    except FileNotFoundError as error:
        msg = (
            f"A vocabulary is missing beside {str(checkpoint)!r}: {error} "
            "If you have it, pass all files to `ep.models.convert_original`."
        )
        raise FileNotFoundError(msg) from error
    if not has_labels:
        msg = (
            f"{checkpoint.name!r} comes without {file_of('cell')!r}, so it annotates no cell types; "
            f"if you have that file, pass it and {str(checkpoint)!r} to `ep.models.convert_original`."
        )
        warnings.warn(msg, UserWarning, stacklevel=4)
    return model


def _choose_checkpoint(paths: list[str], file: str | None, repo_id: str) -> str:
    checkpoints = [path for path in paths if path.endswith((".pth", ".pt"))]
    pretrained = [path for path in checkpoints if "pretrain" in path.lower()]
    for candidates in (
        ([path for path in checkpoints if path == file],) if file else (checkpoints, pretrained)
    ):
        if len(candidates) == 1:
            return candidates[0]
    if file or not checkpoints:
        msg = f"{repo_id} has no checkpoint {file or '*.pth'}; its checkpoints are {checkpoints}."
        raise FileNotFoundError(msg)
    msg = f"{repo_id} has several checkpoints, {checkpoints}; name one, as in {f'{repo_id}/{checkpoints[0]}'!r}."
    raise ValueError(msg)
