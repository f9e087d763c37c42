"""Tools: pretrain a model, fit it to labels and batches, embed cells with it, annotate them."""

from ._annotate import annotate
from ._embed import embed
from ._finetune import finetune
from ._knock_out import knock_out, scan_knock_outs
from ._link_peaks import link_peaks
from ._predict_expression import predict_expression
from ._pretrain import pretrain
from ._score_integration import score_integration

__all__ = [
    "annotate",
    "embed",
    "finetune",
    "knock_out",
    "link_peaks",
    "predict_expression",
    "pretrain",
    "scan_knock_outs",
    "score_integration",
]
