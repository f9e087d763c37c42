"""Networks in plain torch: they know nothing of AnnData, files or training loops."""

from .config import ModelConfig, Sizes, TrainingConfig
from .heads import ExpressionHead, LabelHead, PeakHead
from .model import FoldedEncoder, Network
from .set_encoder import SetEncoder, pool

__all__ = [
    "ExpressionHead",
    "FoldedEncoder",
    "LabelHead",
    "ModelConfig",
    "Network",
    "PeakHead",
    "SetEncoder",
    "Sizes",
    "TrainingConfig",
    "pool",
]
