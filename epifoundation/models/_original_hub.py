"""Original checkpoints on Hugging Face: downloaded, converted once, cached in our format."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from filelock import FileLock

from .._hub import fetch, folder_of
from .._settings import settings
from .._warn import warn
from ._directory import read
from ._model import EpiFoundation
from ._original import convert_original
from ._original_files import KINDS, file_of, find_vocabularies


def fetch_original(repo_id: str, file: str | None, revision: str | None) -> EpiFoundation:
    """Download and convert a checkpoint of the original implementation, or read it from the cache.

    `file` is its path in the repository; if None, the only one, or the only one called pretrained.
    """

    def choose(paths: list[str]) -> list[str]:
        tables = [path for path in paths if path.endswith(".json")]
        return [_choose_checkpoint(paths, file, repo_id), *tables]

    needed = f"the checkpoint ({file or '*.pth'}) and {', '.join(map(file_of, KINDS))}"
    files = fetch(repo_id, choose, revision=revision, needed=needed)
    # The name of the conversion changes with the files
    stats = [(name, path.stat()) for name, path in sorted(files.items())]
    states = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]
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
                shutil.rmtree(target)  # damaged: convert again
        model = _convert(checkpoint, find_vocabularies(tables))
        model.training["source"] = f"{checkpoint.name!r} of Hugging Face {repo_id}"
        model.save_pretrained(target)
        return read(target, name=repo_id)


def _convert(checkpoint: Path, vocabularies: dict[str, Path]) -> EpiFoundation:
    has_labels = "cell" in vocabularies
    try:
        model = convert_original(checkpoint, vocabularies, labels=has_labels)
    except FileNotFoundError as error:
        msg = f"A vocabulary is missing next to {str(checkpoint)!r}: {error} "
        msg += "If you have it, pass all files to `ep.models.convert_original`."
        raise FileNotFoundError(msg) from error
    if not has_labels:
        msg = (
            f"{checkpoint.name!r} comes without {file_of('cell')!r}, so it annotates no cell "
            f"types; if you have that file, pass it and {str(checkpoint)!r} to "
            "`ep.models.convert_original`."
        )
        warn(msg)
    return model


def _choose_checkpoint(paths: list[str], file: str | None, repo_id: str) -> str:
    checkpoints = [path for path in paths if path.endswith((".pth", ".pt"))]
    pretrained = [path for path in checkpoints if "pretrain" in path.lower()]
    if file in checkpoints:
        return str(file)
    if file or not checkpoints:
        msg = f"{repo_id} has no checkpoint {file or '*.pth'}; available: {checkpoints}."
        raise FileNotFoundError(msg)
    for candidates in (checkpoints, pretrained):
        if len(candidates) == 1:
            return candidates[0]
    msg = f"{repo_id} has several checkpoints, {checkpoints}; name one, as in "
    raise ValueError(f"{msg}{f'{repo_id}/{checkpoints[0]}'!r}.")
