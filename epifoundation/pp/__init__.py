"""The way in: peaks of data onto the peaks of a model."""

from ._map_peaks import map_peaks

__all__ = ["map_peaks"]
