"""``EpiFoundation.push_to_hub``: share a model in a Hugging Face repository."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._available import MODELS
from .._hub import push
from .._option_types import checked
from .._warn import warn
from ._card import default_card, with_metadata
from ._config import MODEL_FILES

REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class HubMixin:
    """The method of a model that uploads it."""

    @checked
    def push_to_hub(
        self: Any,  # an EpiFoundation
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload model",
        revision: str | None = None,
        create_pr: bool = False,
        license: str | None = None,  # noqa: A002 (as in cards of Hugging Face)
        adapter: bool = False,
        cells: bool = True,
    ) -> str:
        """Upload the model to a Hugging Face repository, which is created if there is none.

        :func:`epifoundation.models.from_pretrained` reads it by the name of the repository. All
        files are changed in one commit: those that :meth:`save_pretrained` writes are added, and
        those of another model that it does not write are removed. Other files stay. The card,
        ``README.md``, gets metadata: ``library_name``, ``tags`` and `license`, in addition to those
        that it has.

        Parameters
        ----------
        repo_id
            Name of the repository, ``"owner/name"``.
        private
            Whether a new repository is private; if None, the default of its owner, usually False.
            It does not change an existing one.
        token
            Token with the right to write; if None, ``HF_TOKEN`` or the one of ``hf auth login``.
        commit_message
            Title of the commit.
        revision
            Branch to commit to, which is created if there is none; if None, ``main``.
        create_pr
            Open a pull request instead of changing the repository.
        license
            Identifier of the license, such as ``"cc-by-4.0"``; if None, that of the card.
        adapter
            Upload only the changes that fine-tuning made, as :meth:`save_adapter`.
        cells
            Also upload the training cells, as hashes, see :meth:`save_pretrained`.

        Returns
        -------
        Address of the commit or of the pull request.

        Raises
        ------
        ValueError
            The name is malformed; the model has no adapter; metadata of the card, or the license,
            are invalid.
        PermissionError
            There is no token, or it has no right to write to the repository.
        ConnectionError
            The hub cannot be reached, or the upload failed.

        Examples
        --------
        >>> import epifoundation as ep
        >>> model = ep.models.from_pretrained("pbmc-51loci")
        >>> model.push_to_hub("owner/name", license="cc-by-4.0")  # doctest: +SKIP
        >>> ep.models.from_pretrained("owner/name")  # doctest: +SKIP
        """
        _check(repo_id, revision, create_pr=create_pr)
        base = self.adapter.base if adapter and self.adapter is not None else None
        if base is not None and base not in MODELS.index and not REPOSITORY.fullmatch(base):
            msg = f"The base of the adapter is {base!r}, which others do not have: push it, too, "
            msg += "and load the adapter with `base=`, or push the whole model (`adapter=False`)."
            warn(msg)
            base = None
        card = with_metadata(
            self.card or default_card(self), self.peaks.genome, license_id=license, base=base
        )
        model = replace(self, card=card)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            if adapter:
                model.save_adapter(folder)
            else:
                model.save_pretrained(folder, cells=cells)
            return push(
                repo_id,
                folder,
                removed=MODEL_FILES,
                private=private,
                token=token,
                message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )


def _check(repo_id: str, revision: str | None, *, create_pr: bool) -> None:
    if not isinstance(repo_id, str):
        msg = f"`repo_id` must be a string, got {repo_id!r} ({type(repo_id).__name__})."
        raise TypeError(msg)
    is_invalid = ".." in repo_id or "--" in repo_id or repo_id.endswith((".", "-", ".git"))
    if not REPOSITORY.fullmatch(repo_id) or is_invalid or len(repo_id) > 96:
        msg = "`repo_id` must be the name of a Hugging Face repository, 'owner/name', got "
        msg += f"{repo_id!r}. Names have letters, digits, '-', '_' and '.', 96 at most."
        raise ValueError(msg)
    if create_pr and revision not in (None, "main"):
        msg = f"`create_pr` is for the branch main; omit `revision`, got {revision!r}."
        raise ValueError(msg)
