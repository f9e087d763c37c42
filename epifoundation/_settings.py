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
        Where downloaded models and data are kept. Defaults to ``$XDG_CACHE_HOME/epifoundation``
        or ``~/.cache/epifoundation``.
    """

    progress: bool = True
    cache_dir: Path = field(default_factory=_default_cache)


settings = Settings()
