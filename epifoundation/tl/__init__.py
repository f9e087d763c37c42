"""Tools: pretrain a model, fit it to labels and batches, embed cells with it, annotate them."""

from ._annotate import annotate
from ._embed import embed
from ._finetune import finetune
from ._pretrain import pretrain
from ._score_integration import score_integration

__all__ = ["annotate", "embed", "finetune", "pretrain", "score_integration"]
