"""Cell embeddings, gene expression and annotations from single-cell ATAC-seq."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._settings import settings
from ._version import __version__

if TYPE_CHECKING:
    from . import datasets, genome, get, metrics, models, pl, pp, tl
    from .models import EpiFoundation
    from .nn import ModelConfig, TrainingConfig
    from .peaks.options import PeakMapping
    from .peaks.vocabulary import GeneVocabulary, PeakVocabulary
    from .training.engine import Engine

__all__ = [
    "Engine",
    "EpiFoundation",
    "GeneVocabulary",
    "ModelConfig",
    "PeakMapping",
    "PeakVocabulary",
    "TrainingConfig",
    "__version__",
    "datasets",
    "genome",
    "get",
    "metrics",
    "models",
    "pl",
    "pp",
    "settings",
    "tl",
]
_MODULES = {
    "Engine": "training.engine",
    "EpiFoundation": "models",
    "GeneVocabulary": "peaks.vocabulary",
    "ModelConfig": "nn",
    "PeakMapping": "peaks.options",
    "PeakVocabulary": "peaks.vocabulary",
    "TrainingConfig": "nn",
}


def __dir__() -> list[str]:
    return __all__


if not TYPE_CHECKING:  # type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Import on first use: torch and anndata take seconds, and ``--help`` needs neither."""
        if name not in __all__:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        part = import_module(f".{_MODULES.get(name, name)}", __name__)
        value = getattr(part, name) if name in _MODULES else part
        return globals().setdefault(name, value)
