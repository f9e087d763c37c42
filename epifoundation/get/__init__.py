"""Results as objects that other packages take, with the names of labels, genes and groups."""

from ._network import network
from ._results import accessibility, expression, probabilities

__all__ = ["accessibility", "expression", "network", "probabilities"]
