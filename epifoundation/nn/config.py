"""What a network is made of and how it is trained: frozen dataclasses of plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import ceil, inf
from typing import Any

ENCODERS = ("set", "transformer")
DECODERS = ("linear", "query")
OBJECTIVES = ("counts", "binary", "gaussian", "peaks")
SCHEDULES = ("one-cycle", "cosine-restarts")


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of an :class:`~epifoundation.EpiFoundation` model.

    Parameters
    ----------
    encoder
        ``"set"``: a sum over a cell's open peaks, linear in their number. ``"transformer"``: the paper's, quadratic.
    dim
        Width of the peak vectors and of the cell embedding, divisible by `n_heads`.
    n_heads
        Attention heads. ``"set"``: 0 gives each open peak the same weight. None: 0 for ``"set"``, 2 for ``"transformer"``.
    n_seeds
        ``"set"`` with attention: learned queries a head. With one, an MLP follows the pooling; with more, a transformer over the seeds.
    n_layers
        Residual layers after the pooling, or transformer blocks.
    dropout
        In those layers and before the heads, in training only.
    objective
        Likelihood of the expression head: ``"counts"`` (multinomial), ``"binary"`` (Bernoulli, the
        paper's) or ``"gaussian"``; ``"peaks"`` has no expression head.
    feedforward
        ``"transformer"``: width of the hidden layer of a block; None is ``2 * dim``.
    max_peaks
        ``"transformer"``: a cell with more open peaks is read by a fixed choice of so many; None reads all.
    decoder
        ``"linear"``, or ``"query"``: the paper's, in which gene vectors ask a small network about the cell.
    values
        A second query decoder predicts values, as in the paper's fine-tuning for expression; only conversion makes it.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.ModelConfig.preset("paper").encoder
    'transformer'
    """

    encoder: str = "set"
    dim: int = 128
    n_heads: int | None = None
    n_seeds: int = 1
    n_layers: int = 2
    dropout: float = 0.1
    objective: str = "counts"
    feedforward: int | None = None
    max_peaks: int | None = None
    decoder: str = "linear"
    values: bool = False

    def __post_init__(self) -> None:
        _one_of(self, "encoder", ENCODERS)
        _one_of(self, "objective", OBJECTIVES)
        _one_of(self, "decoder", DECODERS)
        is_transformer = self.encoder == "transformer"
        for name, least in (
            ("dim", 1),
            ("n_heads", int(is_transformer)),
            ("n_seeds", 1),
            ("n_layers", int(is_transformer)),
            ("feedforward", 1),
            ("max_peaks", 1),
        ):
            value = getattr(self, name)
            if value is None and name in ("n_heads", "feedforward", "max_peaks"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                msg = f"`{name}` must be an integer of at least {least}, got {value!r}."
                raise ValueError(msg)
        if self.heads and self.dim % self.heads:
            msg = f"`dim` ({self.dim}) must be divisible by `n_heads` ({self.heads})."
            raise ValueError(msg)
        if not 0 <= self.dropout < 1:
            msg = f"`dropout` must lie in [0, 1), got {self.dropout!r}."
            raise ValueError(msg)
        foreign = {"feedforward": None, "max_peaks": None} if not is_transformer else {"n_seeds": 1}
        for name, neutral in foreign.items():
            if getattr(self, name) != neutral:
                msg = f"`{name}` has no meaning for the encoder {self.encoder!r}, got {getattr(self, name)!r}; leave it out."
                raise ValueError(msg)
        if self.n_seeds > 1 and not self.heads:
            msg = f"`n_seeds={self.n_seeds}` asks for attention: pass `n_heads`, too."
            raise ValueError(msg)
        if self.values and self.decoder != "query":
            msg = f"`values` needs `decoder='query'`, got {self.decoder!r}."
            raise ValueError(msg)

    @property
    def heads(self) -> int:
        """How many heads there are, where `n_heads` leaves it open, too."""
        return self.n_heads if self.n_heads is not None else 2 * (self.encoder == "transformer")

    @property
    def predicts_peaks(self) -> bool:
        """Whether there is a head for held-out peaks; the paper's objective has none."""
        return self.decoder == "linear" or self.objective == "peaks"

    @classmethod
    def preset(cls, name: str) -> ModelConfig:
        """A named architecture: ``"default"``, or ``"paper"`` (Wu et al. 2025: 512 wide, 6 blocks of 8 heads)."""
        return cls(**_preset(name, MODEL_PRESETS))

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
    """The numbers that come from data, or from the checkpoint that was converted.

    Parameters
    ----------
    n_peaks, n_genes, n_labels, n_batches
        Vocabulary, genes, labels and batches.
    n_chromosomes
        Chromosomes that have a vector, in a transformer and a query decoder; 0 for none.
    n_bins
        Bins of expression of a binary query decoder; the first is "not expressed".
    n_label_layers
        Hidden layers of the label head.
    n_calibration, n_reference
        Cells that a calibrated label head keeps: scores of those held out, and embeddings of those learned from.
    peaks_by_batch
        The head for held-out peaks has a vector for each batch, too.
    n_removed
        Directions of the embedding that are taken out, because batches differ along them.
    n_landmarks
        Cells that the head for expression as it is measured compares with; 0 for no such head.
    """

    n_peaks: int
    n_genes: int = 0
    n_labels: int = 0
    n_batches: int = 0
    n_chromosomes: int = 0
    n_bins: int = 2
    n_label_layers: int = 0
    n_calibration: int = 0
    n_reference: int = 0
    peaks_by_batch: bool = False
    n_removed: int = 0
    n_landmarks: int = 0


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained.

    Parameters
    ----------
    max_epochs
        Passes over the training cells. The best of them on the validation cells is kept. None: as many as
        see 80,000 cells; at least 4 and at most 50.
    batch_size
        Cells a step.
    lr
        Peak of the one-cycle learning rate.
    peak_lr
        Learning rate of the peak vectors, as a fraction of `lr`. None: they stay as they were measured (`warm_start`), or learn 0.05 as fast as
        the rest where they were not. Low-rank updates (``finetune(rank=...)``) learn at `lr`.
    weight_decay
        Of all but the peak vectors.
    peak_dropout
        Each time a cell is seen, a uniform 0 to `peak_dropout` of its peaks are held out.
    peak_weight
        Weight of the loss that predicts the held-out peaks of 8 cells a batch, beside the expression loss. With 0, pretraining fits the head that
        predicts peaks in closed form afterwards. Without RNA, the held-out peaks of all cells are the loss, and this has no meaning.
    n_neighbors
        RNA of a cell is pooled with that of its nearest training cells, itself counted; 1 for none.
    patience
        Stop after this many epochs without a better validation loss.
    accumulate
        Batches whose gradients are summed before a step.
    schedule
        ``"one-cycle"``, or ``"cosine-restarts"``: cosine from `lr` to a hundredth of it after a linear warm-up of 5 epochs,
        begun again after 15, 25, 45, ... epochs with 0.9 of the last rate (Wu et al. 2025).
    balanced_genes
        With ``objective="binary"``: at most so many genes of a cell enter the loss, half of them expressed and half
        silent, drawn anew each time (Wu et al. 2025). None: all genes. Needs ``n_neighbors=1``: of cells that are pooled,
        one or another expresses nearly every gene.
    buffer
        Training from files: cells that are read at a time and shuffled. Twice as many are in memory while training runs; so many, drawn at random,
        serve for the warm start, and at most so many to validate on.
    warm_start
        Measure peak vectors on the training cells, see :mod:`epifoundation.warm_start`; False: they begin at random.
    label_weight
        In fine-tuning: weight of the loss of the labels.
    label_smoothing
        In fine-tuning: this much of the target is spread evenly over all labels.
    label_balance
        In fine-tuning: a cell counts as the number of cells of its label to the power of minus this; 1 gives each label the same weight, 0
        each cell.
    adversarial
        In fine-tuning: weight of the loss of a network that tells batches from the embedding, and against which the encoder learns
        (Ganin et al. 2016). 0 for none.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.TrainingConfig.preset("paper").lr
    0.0001
    """

    max_epochs: int | None = None
    batch_size: int = 64
    lr: float = 1e-3
    peak_lr: float | None = None
    weight_decay: float = 0.01
    peak_dropout: float = 0.3
    peak_weight: float = 0.0
    n_neighbors: int = 15
    patience: int = 10
    accumulate: int = 1
    schedule: str = "one-cycle"
    balanced_genes: int | None = None
    buffer: int = 8192
    warm_start: bool = True
    label_weight: float = 1.0
    label_smoothing: float = 0.1
    label_balance: float = 0.5
    adversarial: float = 0.0

    def __post_init__(self) -> None:
        _one_of(self, "schedule", SCHEDULES)
        whole = ("max_epochs", "batch_size", "n_neighbors", "patience", "accumulate", "balanced_genes", "buffer")
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
            ("accumulate", 1, inf),
            ("balanced_genes", 2, inf),
            ("buffer", 1, inf),
            ("label_weight", 0, inf),
            ("label_smoothing", 0, 1),
            ("label_balance", 0, 1),
            ("adversarial", 0, inf),
        ):
            value = getattr(self, name)
            if value is None and name in ("max_epochs", "balanced_genes", "peak_lr"):
                continue
            if not isinstance(value, int if name in whole else (int, float)) or not low <= value <= high:
                kind = "an integer" if name in whole else "a number"
                msg = f"`{name}` must be {kind} between {low} and {high}, got {value!r}."
                raise ValueError(msg)

        if self.balanced_genes is not None and self.n_neighbors > 1:
            msg = f"`balanced_genes` needs cells that are not pooled: pass `n_neighbors=1`, not {self.n_neighbors}."
            raise ValueError(msg)

    def epochs(self, n_cells: int) -> int:
        """How many passes over `n_cells` training cells."""
        return self.max_epochs or min(max(ceil(80_000 / n_cells), 4), 50)

    @classmethod
    def preset(cls, name: str) -> TrainingConfig:
        """A named recipe: ``"default"``, ``"finetune"``, or ``"paper"`` (Wu et al. 2025)."""
        return cls(**_preset(name, TRAINING_PRESETS))


MODEL_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "encoder": "transformer",
        "dim": 512,
        "n_heads": 8,
        "n_layers": 6,
        "feedforward": 1024,
        "dropout": 0.15,
        "objective": "binary",
        "decoder": "query",
        "max_peaks": 12_000,
    },
}
TRAINING_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # the head for peaks is not fitted anew: it goes along, and holds the embedding in its place
    "finetune": {"max_epochs": 8, "peak_lr": 0.2, "peak_weight": 0.1, "warm_start": False, "patience": 3},
    "paper": {
        "max_epochs": 140,
        "batch_size": 8,
        "accumulate": 20,
        "lr": 1e-4,
        "peak_lr": 1.0,
        "weight_decay": 0.0,
        "peak_dropout": 0.0,
        "peak_weight": 0.0,
        "n_neighbors": 1,
        "patience": 140,
        "schedule": "cosine-restarts",
        "balanced_genes": 8_000,
        "warm_start": False,
    },
}


def _preset(name: str, presets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if name not in presets:
        msg = f"Unknown preset {name!r}; choose one of {list(presets)}."
        raise ValueError(msg)
    return presets[name]


def _one_of(config: Any, name: str, options: tuple[str, ...]) -> None:
    if getattr(config, name) not in options:
        msg = f"Unknown {name} {getattr(config, name)!r}; choose one of {list(options)}."
        raise ValueError(msg)
