"""The way in: fragments or peaks of data onto the peaks of a model."""

from ._count_fragments import count_fragments
from ._map_peaks import map_peaks

__all__ = ["count_fragments", "map_peaks"]
