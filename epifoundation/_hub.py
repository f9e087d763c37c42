"""Files of Hugging Face repositories, downloaded by huggingface_hub or put there by hand."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
