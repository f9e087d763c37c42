"""Models: their directory format and where they come from."""

from ._model import EpiFoundation
from ._registry import available, from_pretrained

__all__ = ["EpiFoundation", "available", "from_pretrained"]
