"""Networks in plain torch: they know nothing of AnnData, files or training loops."""

from .adapter import adapt, blend, merge
from .attention import has_bfloat16
from .bulk_head import BulkHead
from .coded_vectors import CodedVectors
from .config import ModelConfig, Sizes
from .encoders import ENCODERS, Encoder
from .expression_head import ExpressionHead, balance
from .folded import Folded, FoldedSums
from .heads import HEADS, Head
from .kernel_readout import KernelReadout, kernel
from .label_head import LabelHead, conformal_scores
from .measured_head import LinearMeasuredHead, MeasuredHead
from .model import Network
from .output_norm import Projection
from .packed import add_up
from .peak_heads import MeasuredPeakHead, PeakHead
from .peak_vectors import ENCODER, LABELS, Known, PeakVectors
from .profile_encoder import PROFILES, ProfileEncoder
from .profile_heads import (
    N_POPULATION_LABELS,
    PopulationLabelHead,
    ProfileExpressionHead,
    ProfileLabelHead,
)
from .query_head import QueryHead
from .set_encoder import SetEncoder
from .training_config import TrainingConfig
from .transformer_encoder import FoldedTransformer, TransformerEncoder

__all__ = [
    "ENCODER",
    "ENCODERS",
    "HEADS",
    "LABELS",
    "N_POPULATION_LABELS",
    "PROFILES",
    "BulkHead",
    "CodedVectors",
    "Encoder",
    "ExpressionHead",
    "Folded",
    "FoldedSums",
    "FoldedTransformer",
    "Head",
    "KernelReadout",
    "Known",
    "LabelHead",
    "LinearMeasuredHead",
    "MeasuredHead",
    "MeasuredPeakHead",
    "ModelConfig",
    "Network",
    "PeakHead",
    "PeakVectors",
    "PopulationLabelHead",
    "ProfileEncoder",
    "ProfileExpressionHead",
    "ProfileLabelHead",
    "Projection",
    "QueryHead",
    "SetEncoder",
    "Sizes",
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
