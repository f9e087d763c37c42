"""Data: a bundled multiome and a simulator with planted truth."""

from ._pbmc import pbmc_multiome
from ._simulate import simulate_multiome

__all__ = ["pbmc_multiome", "simulate_multiome"]
