"""Models: their directory format and where they come from."""

from .._available import available
from ._model import EpiFoundation
from ._original import convert_original
from ._registry import from_pretrained

__all__ = ["EpiFoundation", "available", "convert_original", "from_pretrained"]
