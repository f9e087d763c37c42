"""Preprocessing: fragments or peaks of data onto the peaks of a model."""

from ._consensus_peaks import consensus_peaks
from ._count_fragments import count_fragments
from ._group_coverage import group_coverage
from ._map_peaks import map_peaks

__all__ = ["consensus_peaks", "count_fragments", "group_coverage", "map_peaks"]
