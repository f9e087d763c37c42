"""Tools: pretrain a model, embed cells with it."""

from ._embed import embed
from ._pretrain import pretrain

__all__ = ["embed", "pretrain"]
