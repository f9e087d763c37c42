"""Files of Hugging Face repositories in the cache: fetched with resumption, checked, or put there by hand."""

from __future__ import annotations

import glob
import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ._settings import settings

if TYPE_CHECKING:
    from filelock import FileLock

ENDPOINT: str | None = None  # None: that of huggingface_hub, which follows the variable HF_ENDPOINT
PIECE = 2**20
PART = ".part"  # of a file that is not whole yet


@dataclass(frozen=True)
class RemoteFile:
    """What the hub tells of a file; None where it does not."""

    path: str
    size: int | None
    sha256: str | None
    blob_id: str | None


def folder_of(repo_id: str, revision: str | None = None) -> Path:
    """Where the files of a repository are kept, and may be put by hand."""
    name = repo_id.replace("/", "--") + (f"@{revision.replace('/', '--')}" if revision else "")
    return settings.cache_dir / "hub" / name


def fetch(
    repo_id: str,
    choose: Callable[[list[str]], list[str]],
    *,
    repo_type: str = "model",
    revision: str | None = None,
    needed: str,
) -> dict[str, Path]:
    """Get files of a repository, by their paths in it.

    Parameters
    ----------
    repo_id
        ``"owner/name"``.
    choose
        From the paths that there are to those that are wanted; raises when they are not there.
    repo_type
        ``"model"`` or ``"dataset"``.
    revision
        Branch, tag or commit; None is the main branch.
    needed
        The files that one has to put into the folder without a network, in words.

    Returns
    -------
    Where each wanted file lies. A file that is there already is kept when it is that of the hub. Without a network, the
    files that are there are taken as they are.

    Raises
    ------
    ConnectionError
        No network, and the files are not there; or it broke off for good, and a further call goes on from there.
    ValueError
        There is no such repository or revision; a file is altered.
    """
    folder = folder_of(repo_id, revision)
    there = [path.relative_to(folder).as_posix() for path in _files(folder)]
    try:
        listed, commit = _list(repo_id, repo_type, revision)
    except ConnectionError as error:
        try:
            chosen = choose(there) if there else []
        except (ValueError, FileNotFoundError):
            chosen = []
        if not chosen:
            msg = f"{error} Without a network, put {needed} into {str(folder)!r} and call again."
            raise ConnectionError(msg) from error
        return {path: folder / path for path in chosen}
    by_hand = [path for path in there if not _mark_of(folder / path).is_file()]
    chosen = choose(sorted({*listed, *by_hand}))  # what the hub lacks may have been put there
    for path in chosen:
        if path in listed:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with lock(folder / path):
                _get(repo_id, repo_type, commit, listed[path], folder / path)
    return {path: folder / path for path in chosen}


def lock(path: Path) -> FileLock:
    """To be held while `path` is made: other processes wait."""
    from filelock import FileLock

    return FileLock(path.with_name(f".{path.name}.lock{PART}"))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != PART)


def _list(repo_id: str, repo_type: str, revision: str | None) -> tuple[dict[str, RemoteFile], str]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    where = f"Hugging Face {repo_type} {repo_id!r}" + (f" at {revision!r}" if revision else "")
    try:
        info: Any = HfApi(ENDPOINT).repo_info(
            repo_id, repo_type=repo_type, revision=revision, files_metadata=True, timeout=30
        )
    except (GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        msg = f"There is no {where} that can be read ({type(error).__name__})."
        raise ValueError(msg) from error
    except Exception as error:  # of requests or httpx, by the version of huggingface_hub
        msg = f"Could not reach the {where} ({type(error).__name__})."
        raise ConnectionError(msg) from error
    files = {
        file.rfilename: RemoteFile(file.rfilename, file.size, file.lfs.sha256 if file.lfs else None, file.blob_id)
        for file in info.siblings or []
    }
    return files, info.sha or revision or "main"


def _get(repo_id: str, repo_type: str, commit: str, remote: RemoteFile, target: Path) -> None:
    """Download what is missing of one file, check it, and put it in its place."""
    if target.is_file():
        if _is_marked(target, remote):
            return None
        problem = _difference(target, remote)
        if problem is None:
            return _mark(target, remote)
        if not _mark_of(target).is_file():
            msg = f"{str(target)!r} is not what the hub has: {problem}. Remove it to fetch that of the hub."
            raise ValueError(msg)
        # Fetched earlier: of another commit, or damaged since. It stays until there is a better one.
    part = target.with_name(f"{target.name}.{(remote.blob_id or commit)[:12]}{PART}")
    if remote.size is not None:
        missing, free = remote.size - _size(part), shutil.disk_usage(target.parent).free
        if missing > free:
            msg = f"{remote.path!r} of {repo_id} needs {missing / 1e9:.1f} GB more, {str(target.parent)!r} has {free / 1e9:.1f} GB; change `ep.settings.cache_dir`."
            raise OSError(msg)
    while True:
        present = _size(part)
        try:
            _download(repo_id, repo_type, commit, remote, part)
            break
        except ConnectionError:
            if _size(part) <= present:  # nothing came: no use in going on at once
                raise
    problem = _difference(part, remote)
    if problem is not None:
        part.unlink()
        msg = f"{remote.path!r} of {repo_id} is damaged: {problem}. It was removed; call again to fetch it anew."
        raise ValueError(msg)
    part.replace(target)
    _mark(target, remote)
    for old in target.parent.glob(f"{glob.escape(target.name)}.*{PART}"):  # of other commits
        old.unlink()
    return None


def _download(repo_id: str, repo_type: str, commit: str, remote: RemoteFile, part: Path) -> None:
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(repo_id, remote.path, repo_type=repo_type, revision=commit, endpoint=ENDPOINT)
    present = _size(part)
    if remote.size is not None and present >= remote.size:
        if present > remote.size:
            part.unlink()
            present = 0
        else:
            return
    # Public files alone: no token is sent along. The scheme is that of the hub's address.
    request = urllib.request.Request(url, headers={"Range": f"bytes={present}-"} if present else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            goes_on = response.status == 206  # else the server sends the whole file
            with (
                part.open("ab" if goes_on else "wb") as file,
                tqdm(
                    total=remote.size,
                    initial=present if goes_on else 0,
                    desc=remote.path,
                    unit="B",
                    unit_scale=True,
                    disable=not settings.progress,
                ) as bar,
            ):
                while piece := response.read(PIECE):
                    file.write(piece)
                    bar.update(len(piece))
    except urllib.error.HTTPError as error:
        msg = f"{remote.path!r} of {repo_id} cannot be fetched: the hub answers {error.code} ({error.reason})."
        is_busy = error.code >= 500 or error.code == 429
        raise (ConnectionError if is_busy else ValueError)(msg) from error
    except (OSError, http.client.HTTPException) as error:
        msg = f"The connection broke off at {_size(part):,} of {remote.size or 0:,} bytes of {remote.path!r} ({type(error).__name__}); call again to go on from there."
        raise ConnectionError(msg) from error
    found = _size(part)
    if remote.size is not None and found < remote.size:
        msg = f"{remote.path!r} of {repo_id} is truncated: {found:,} of {remote.size:,} bytes came; call again to go on from there."
        raise ConnectionError(msg)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _difference(path: Path, remote: RemoteFile) -> str | None:
    """How a file differs from what the hub tells of it."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"it has {size:,} bytes, the hub says {remote.size:,}"
    if remote.sha256 is not None:
        with path.open("rb") as file:
            found, wanted = hashlib.file_digest(file, "sha256").hexdigest(), remote.sha256
    elif remote.blob_id is not None and remote.size is not None:  # git's name of a small file
        content = b"blob %d\0" % size + path.read_bytes()
        found, wanted = hashlib.sha1(content, usedforsecurity=False).hexdigest(), remote.blob_id
    else:
        return None
    return None if found == wanted else f"its checksum is {found[:12]}…, the hub says {wanted[:12]}…"


def _mark(path: Path, remote: RemoteFile) -> None:
    """Note that this very file was checked: hashing gigabytes again each time would take long."""
    _mark_of(path).write_text(_state(path, remote), encoding="utf-8")


def _is_marked(path: Path, remote: RemoteFile) -> bool:
    mark = _mark_of(path)
    return mark.is_file() and mark.read_text(encoding="utf-8") == _state(path, remote)


def _mark_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.checked{PART}")


def _state(path: Path, remote: RemoteFile) -> str:
    state = path.stat()
    return f"{state.st_size} {state.st_mtime_ns} {remote.sha256 or remote.blob_id}"
