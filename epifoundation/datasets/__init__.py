"""Data sets: a bundled multiome, a simulator with known truth, the paper's corpus, CELLxGENE."""

from ._cellxgene import cellxgene
from ._mini_atlas import mini_atlas
from ._pbmc import pbmc_multiome
from ._simulate import simulate_multiome
from ._simulate_fragments import simulate_fragments

__all__ = ["cellxgene", "mini_atlas", "pbmc_multiome", "simulate_fragments", "simulate_multiome"]
