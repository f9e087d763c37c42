"""Tools: pretrain a model, embed cells with it, annotate them."""

from ._annotate import annotate
from ._embed import embed
from ._finetune import finetune
from ._pretrain import pretrain

__all__ = ["annotate", "embed", "finetune", "pretrain"]
