"""Files of Hugging Face repositories: downloaded, put there by hand, and uploaded."""

from __future__ import annotations

import glob
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from ._files import sha256
from ._settings import settings

type Choose = Callable[[list[str]], list[str]]


def folder_of(repo_id: str, revision: str | None = None) -> Path:
    """Folder for files of a repository that users download themselves."""
    name = repo_id.replace("/", "--") + (f"@{revision.replace('/', '--')}" if revision else "")
    return settings.cache_dir / "hub" / name


def fetch(
    repo_id: str,
    choose: Choose,
    *,
    needed: str,
    repo_type: str = "model",
    revision: str | None = None,
) -> dict[str, Path]:
    """Local copies of files of a repository, by their paths in it.

    Files in :func:`folder_of` take precedence. Others are downloaded by huggingface_hub, into its
    cache and with its settings (``HF_HOME``, ``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``);
    without a network, files in that cache are used. `choose` selects from the paths in the
    repository, or raises `ValueError` or `FileNotFoundError`; `needed` describes the selection for
    users who have to put the files into the folder.

    Raises
    ------
    ConnectionError
        The hub cannot be reached and the files are not in the cache, or a download failed.
    ValueError
        The repository or revision does not exist, it is gated, or a file is damaged.
    """
    by_hand = folder_of(repo_id, revision)
    if by_hand.is_dir():
        with suppress(FileNotFoundError, ValueError):
            return _choose(by_hand, choose)

    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
    from huggingface_hub.utils import disable_progress_bars

    if not settings.progress:
        disable_progress_bars()
    repo: dict[str, Any] = {"repo_id": repo_id, "repo_type": repo_type, "revision": revision}
    name = f"{repo_type} {repo_id!r}"
    cure = f"Call again, or put {needed} into {str(by_hand)!r}."
    try:
        with _errors(name, cure):
            info: Any = HfApi().repo_info(**repo, files_metadata=True, timeout=30)
    except ConnectionError:
        with suppress(FileNotFoundError, ValueError):
            cached = snapshot_download(**repo, local_files_only=True, allow_patterns=[])
            return _choose(Path(cached), choose)
        raise
    checksums = {file.rfilename: file.lfs.sha256 for file in info.siblings if file.lfs}
    paths = choose(sorted(file.rfilename for file in info.siblings))
    repo_at = {"repo_id": repo_id, "repo_type": repo_type, "revision": info.sha}
    new = [path for path in paths if try_to_load_from_cache(filename=path, **repo_at) is None]
    with _errors(name, cure):
        folder = Path(snapshot_download(**repo, allow_patterns=[*map(glob.escape, paths)]))
    # huggingface_hub compares sizes, and checksums only of files that come through Xet
    damaged = [
        path for path in new if path in checksums and sha256(folder / path) != checksums[path]
    ]
    for path in damaged:  # the cache contains links to the files
        (folder / path).resolve().unlink(missing_ok=True)
    if damaged:
        msg = (
            f"{damaged} of the Hugging Face {name} are damaged (wrong sha256) and were removed; "
            "call again to download them."
        )
        raise ValueError(msg)
    return {path: folder / path for path in paths}


def push(
    repo_id: str,
    folder: Path,
    *,
    removed: Collection[str],
    private: bool | None,
    token: str | None,
    message: str,
    revision: str | None,
    create_pr: bool,
) -> str:
    """Upload the files of a folder in one commit; returns its address.

    The repository and the branch are created if there are none. Of the files that the repository
    has, those in `removed` that are not in the folder are deleted.

    Raises
    ------
    PermissionError
        There is no token, or it has no right to write.
    ConnectionError
        The hub cannot be reached, or the upload failed.
    ValueError
        The hub refuses the files, for example the metadata of the card.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars

    if token is None and get_token() is None:
        msg = "There is no token of Hugging Face: pass `token=`, set HF_TOKEN, or call "
        msg += "`hf auth login`. Tokens are made at https://huggingface.co/settings/tokens."
        raise PermissionError(msg)
    if not settings.progress:
        disable_progress_bars()
    api = HfApi(token=token)
    with _upload_errors(repo_id):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None and revision != "main":
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        siblings = api.model_info(repo_id, revision=revision, timeout=30).siblings or []
        names = {path.name for path in folder.iterdir()}
        stale = {file.rfilename for file in siblings} & set(removed) - names
        # `upload_folder` may make several commits
        commit = api.create_commit(
            repo_id,
            [
                *(CommitOperationDelete(name) for name in sorted(stale)),
                *(CommitOperationAdd(name, folder / name) for name in sorted(names)),
            ],
            commit_message=message,
            revision=revision,
            create_pr=create_pr,
        )
    return str(commit.pr_url or commit.commit_url)


@contextmanager
def _upload_errors(repo_id: str) -> Iterator[None]:
    """Turn errors of huggingface_hub into one line."""
    from huggingface_hub import errors

    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk
        # Errors of the upload of a file are the cause of another one
        cause = error if hasattr(error, "response") else error.__cause__ or error
        status = getattr(getattr(cause, "response", None), "status_code", None)
        reason = " ".join(str(cause).split()) or type(cause).__name__
        reason = reason if status is None or str(status) in reason else f"{status} {reason}"
        if status in (401, 403) or isinstance(error, errors.RepositoryNotFoundError):
            msg = (
                f"The token has no right to write to the Hugging Face repository {repo_id!r} "
                f"({reason}). Make one with the role 'write', of this owner, at "
                "https://huggingface.co/settings/tokens."
            )
            raise PermissionError(msg) from error
        is_refused = isinstance(error, ValueError) and not isinstance(error, JSONDecodeError)
        if status == 400 or (status is None and is_refused):
            msg = f"Hugging Face refused the upload to {repo_id!r}: {reason}"
            raise ValueError(msg) from error
        msg = f"Could not upload to the Hugging Face repository {repo_id!r} ({reason}). Call again."
        raise ConnectionError(msg) from error


def _choose(folder: Path, choose: Choose) -> dict[str, Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    paths = choose([path.relative_to(folder).as_posix() for path in files])
    return {path: folder / path for path in paths}


@contextmanager
def _errors(name: str, cure: str) -> Iterator[None]:
    """Turn errors of huggingface_hub into one line."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        msg = f"The Hugging Face {name} is gated: accept its terms on its page and set HF_TOKEN."
        raise ValueError(msg) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        msg = f"There is no Hugging Face {name}, or it is private: check the name, or set HF_TOKEN."
        raise ValueError(msg) from error
    except errors.RevisionNotFoundError as error:
        msg = f"The Hugging Face {name} does not have this revision; the default is main."
        raise ValueError(msg) from error
    except Exception as error:  # of requests or httpx, depending on the version
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk
        reason = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
        msg = f"Could not download from the Hugging Face {name} ({reason}). {cure}"
        raise ConnectionError(msg) from error
