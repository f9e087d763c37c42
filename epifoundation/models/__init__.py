"""Models: their directory format and where they come from."""

from ._model import EpiFoundation
from ._original import convert_original
from ._registry import available, from_pretrained

__all__ = ["EpiFoundation", "available", "convert_original", "from_pretrained"]
