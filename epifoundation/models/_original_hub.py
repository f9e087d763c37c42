"""Original checkpoints on Hugging Face: fetched, converted once, kept in our format."""

from __future__ import annotations

from pathlib import Path

from .._hub import fetch, folder_of
from .._settings import settings
from ._original import convert_original
from ._original_files import KINDS, file_of, find_vocabularies, read_heads


def fetch_original(repo_id: str, file: str | None, revision: str | None) -> Path:
    """Fetch and convert a checkpoint of the original implementation; a directory in our format, made once.

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
        return [_choose_checkpoint(paths, file, repo_id), *(path for path in paths if path.endswith(".json"))]

    files = fetch(
        repo_id,
        choose,
        revision=revision,
        needed=f"the checkpoint ({file or '*.pth'}) and {', '.join(map(file_of, KINDS))}",
    )
    checkpoint, *tables = files.values()
    folder = folder_of(repo_id, revision)
    state = checkpoint.stat()
    name = f"{checkpoint.stem}-{state.st_size:x}-{state.st_mtime_ns:x}"  # another checkpoint is converted anew
    target = settings.cache_dir / "converted" / folder.name / name
    if not target.is_dir():
        found = find_vocabularies(tables)
        missing = [file_of(kind) for kind in ("atac", "rna") if kind not in found]
        if missing:
            msg = f"{repo_id} has the checkpoint {checkpoint.name!r} but not {missing} (its JSON files: {[path.name for path in tables]}); put them into {str(folder)!r}."
            raise FileNotFoundError(msg)
        heads = read_heads([path.parent for path in tables], checkpoint)
        model = convert_original(checkpoint, found, n_heads=heads)
        model.training["source"] = f"{checkpoint.name!r} of Hugging Face {repo_id}"
        model.save_pretrained(target)
    return target


def _choose_checkpoint(paths: list[str], file: str | None, repo_id: str) -> str:
    checkpoints = [path for path in paths if path.endswith((".pth", ".pt"))]
    pretrained = [path for path in checkpoints if "pretrain" in path.lower()]
    for candidates in ([path for path in checkpoints if path == file],) if file else (checkpoints, pretrained):
        if len(candidates) == 1:
            return candidates[0]
    if file or not checkpoints:
        msg = f"{repo_id} has no checkpoint {file or '*.pth'}; its checkpoints are {checkpoints}."
        raise FileNotFoundError(msg)
    msg = f"{repo_id} has several checkpoints, {checkpoints}; name one, as in {f'{repo_id}/{checkpoints[0]}'!r}."
    raise ValueError(msg)
