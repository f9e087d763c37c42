"""Package-wide settings: a plain object, changed by attribute."""

import os
from dataclasses import dataclass, field
from pathlib import Path


def _default_cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "epifoundation"


@dataclass
class Settings:
    """Settings of the running session, at ``epifoundation.settings``.

    Attributes
    ----------
    progress
        Show progress bars on long work.
    cache_dir
        Folder of converted models, of downloads of CELLxGENE, ENCODE and GENCODE, of files of
        Hugging Face that you put there yourself, and of locks by which processes that save a model
        wait for each other; default: ``$XDG_CACHE_HOME/epifoundation`` or
        ``~/.cache/epifoundation``. Downloads from Hugging Face are in the cache
        of huggingface_hub, whose folder is set with ``HF_HOME``.
    cellxgene_url
        Server of :func:`epifoundation.datasets.cellxgene`; default:
        ``$EPIFOUNDATION_CELLXGENE_URL`` or ``https://api.cellxgene.cziscience.com``.
    encode_url
        Server of peak sets by name, or a mirror with the same paths; default:
        ``$EPIFOUNDATION_ENCODE_URL`` or ``https://www.encodeproject.org``.
    """

    progress: bool = True
    cache_dir: Path = field(default_factory=_default_cache)
    cellxgene_url: str = field(
        default_factory=lambda: (
            os.environ.get("EPIFOUNDATION_CELLXGENE_URL") or "https://api.cellxgene.cziscience.com"
        )
    )
    encode_url: str = field(
        default_factory=lambda: (
            os.environ.get("EPIFOUNDATION_ENCODE_URL") or "https://www.encodeproject.org"
        )
    )


settings = Settings()
