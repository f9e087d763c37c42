"""Networks in plain torch: they know nothing of AnnData, files or training loops."""

from .adapter import adapt, blend, merge
from .attention import has_bfloat16
from .config import ModelConfig, Sizes, TrainingConfig
from .folded import FoldedSums, FoldedTransformer
from .heads import ExpressionHead, LabelHead, MeasuredPeakHead, PeakHead, balance, conformal_scores
from .kernel_readout import KernelReadout, kernel
from .measured_head import LinearMeasuredHead, MeasuredHead
from .model import ENCODER, LABELS, Known, Network
from .output_norm import Projection
from .packed import add_up
from .peak_vectors import PeakVectors
from .query_head import QueryHead
from .set_encoder import LabelColumns, SetEncoder
from .trained_set_encoder import TrainedSetEncoder
from .transformer_encoder import TransformerEncoder

__all__ = [
    "ENCODER",
    "LABELS",
    "ExpressionHead",
    "FoldedSums",
    "FoldedTransformer",
    "KernelReadout",
    "Known",
    "LabelColumns",
    "LabelHead",
    "LinearMeasuredHead",
    "MeasuredHead",
    "MeasuredPeakHead",
    "ModelConfig",
    "Network",
    "PeakHead",
    "PeakVectors",
    "Projection",
    "QueryHead",
    "SetEncoder",
    "Sizes",
    "TrainedSetEncoder",
    "TrainingConfig",
    "TransformerEncoder",
    "adapt",
    "add_up",
    "balance",
    "blend",
    "conformal_scores",
    "has_bfloat16",
    "kernel",
    "merge",
]
