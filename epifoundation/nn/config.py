"""What a network is made of and how it is trained: frozen dataclasses of plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import ceil, inf
from typing import Any

ENCODERS = ("set",)
OBJECTIVES = ("counts", "binary", "gaussian", "peaks")


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of an :class:`~epifoundation.EpiFoundation` model.

    Parameters
    ----------
    encoder
        ``"set"``: attention pooling over a cell's open peaks, linear in their number.
    dim
        Width of the peak vectors and of the cell embedding, divisible by `n_heads`.
    n_heads
        Attention heads of the pooling.
    n_seeds
        Learned queries a head. With one, an MLP follows the pooling; with more, a transformer over the seeds.
    n_layers
        Residual layers after the pooling.
    dropout
        In those layers and before the heads, in training only.
    objective
        Likelihood of the expression head: ``"counts"`` (multinomial), ``"binary"`` (Bernoulli, the
        paper's) or ``"gaussian"``; ``"peaks"`` has no expression head.
    """

    encoder: str = "set"
    dim: int = 128
    n_heads: int = 2
    n_seeds: int = 1
    n_layers: int = 2
    dropout: float = 0.1
    objective: str = "counts"

    def __post_init__(self) -> None:
        if self.encoder not in ENCODERS:
            msg = f"Unknown encoder {self.encoder!r}; choose one of {list(ENCODERS)}."
            raise ValueError(msg)
        if self.objective not in OBJECTIVES:
            msg = f"Unknown objective {self.objective!r}; choose one of {list(OBJECTIVES)}."
            raise ValueError(msg)
        for name, least in (("dim", 1), ("n_heads", 1), ("n_seeds", 1), ("n_layers", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                msg = f"`{name}` must be an integer of at least {least}, got {value!r}."
                raise ValueError(msg)
        if self.dim % self.n_heads:
            msg = f"`dim` ({self.dim}) must be divisible by `n_heads` ({self.n_heads})."
            raise ValueError(msg)
        if not 0 <= self.dropout < 1:
            msg = f"`dropout` must lie in [0, 1), got {self.dropout!r}."
            raise ValueError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of :meth:`to_dict`; unknown keys are an error, missing ones take their default."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            msg = f"Unknown configuration keys {unknown}; this version knows {sorted(known)}."
            raise ValueError(msg)
        return cls(**values)


@dataclass(frozen=True)
class Sizes:
    """The numbers that come from data: vocabulary, genes, labels and batches."""

    n_peaks: int
    n_genes: int = 0
    n_labels: int = 0
    n_batches: int = 0


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is pretrained.

    Parameters
    ----------
    max_epochs
        Passes over the training cells. The best of them on the validation cells is kept. None: as many as
        see 20,000 cells, at least 4 and at most 50.
    batch_size
        Cells a step.
    lr
        Peak of the one-cycle learning rate.
    peak_lr
        Learning rate of the peak vectors, as a fraction of `lr`.
    weight_decay
        Of all but the peak vectors.
    peak_dropout
        Each time a cell is seen, a uniform 0 to `peak_dropout` of its peaks are held out.
    peak_weight
        Weight of the loss that predicts the held-out peaks, beside the expression loss.
    n_neighbors
        RNA of a cell is pooled with that of its nearest training cells, itself counted; 1 for none.
    patience
        Stop after this many epochs without a better validation loss.
    """

    max_epochs: int | None = None
    batch_size: int = 64
    lr: float = 1e-3
    peak_lr: float = 0.05
    weight_decay: float = 0.01
    peak_dropout: float = 0.3
    peak_weight: float = 0.1
    n_neighbors: int = 15
    patience: int = 10

    def __post_init__(self) -> None:
        whole = ("max_epochs", "batch_size", "n_neighbors", "patience")
        for name, low, high in (
            ("max_epochs", 1, inf),
            ("batch_size", 1, inf),
            ("lr", 0, inf),
            ("peak_lr", 0, inf),
            ("weight_decay", 0, inf),
            ("peak_dropout", 0, 1),
            ("peak_weight", 0, inf),
            ("n_neighbors", 1, inf),
            ("patience", 1, inf),
        ):
            value = getattr(self, name)
            if value is None and name == "max_epochs":
                continue
            if not isinstance(value, int if name in whole else (int, float)) or not low <= value <= high:
                kind = "an integer" if name in whole else "a number"
                msg = f"`{name}` must be {kind} between {low} and {high}, got {value!r}."
                raise ValueError(msg)

    def epochs(self, n_cells: int) -> int:
        """How many passes over `n_cells` training cells."""
        return self.max_epochs or min(max(ceil(20_000 / n_cells), 4), 50)
