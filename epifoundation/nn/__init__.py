"""Networks in plain torch: they know nothing of AnnData, files or training loops."""

from .adapter import adapt, blend, merge
from .adversary import Adversary
from .attention import has_bfloat16
from .config import ModelConfig, Sizes, TrainingConfig
from .heads import ExpressionHead, LabelHead, PeakHead, balance, conformal_scores
from .measured_head import MeasuredHead
from .model import Network
from .query_head import QueryHead
from .set_encoder import FoldedSet, SetEncoder, pool
from .transformer_encoder import FoldedTransformer, TransformerEncoder

__all__ = [
    "Adversary",
    "ExpressionHead",
    "FoldedSet",
    "FoldedTransformer",
    "LabelHead",
    "MeasuredHead",
    "ModelConfig",
    "Network",
    "PeakHead",
    "QueryHead",
    "SetEncoder",
    "Sizes",
    "TrainingConfig",
    "TransformerEncoder",
    "adapt",
    "balance",
    "blend",
    "conformal_scores",
    "has_bfloat16",
    "merge",
    "pool",
]
