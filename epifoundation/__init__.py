"""Cell embeddings, gene expression and annotations from single-cell ATAC-seq."""

from . import datasets, genome, metrics, models, pl, pp, tl
from ._settings import settings
from ._version import __version__
from .engine import Engine
from .models import EpiFoundation
from .nn import ModelConfig, TrainingConfig
from .vocabulary import GeneVocabulary, PeakVocabulary

__all__ = [
    "Engine",
    "EpiFoundation",
    "GeneVocabulary",
    "ModelConfig",
    "PeakVocabulary",
    "TrainingConfig",
    "__version__",
    "datasets",
    "genome",
    "metrics",
    "models",
    "pl",
    "pp",
    "settings",
    "tl",
]
