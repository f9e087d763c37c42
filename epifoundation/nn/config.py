"""What a network is made of and how it is trained: frozen dataclasses of plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import ceil, inf
from typing import Any

ENCODERS = ("set", "transformer")
FORMAT_1 = "set-1"  # the set encoder of models of format 1, which are read and no longer made
DECODERS = ("linear", "query")
OBJECTIVES = ("counts", "binary", "gaussian", "peaks")
SCHEDULES = ("one-cycle", "cosine-restarts")
# Options of the transformer, and of models of format 1, with their defaults there
OF_LAYERS: dict[str, Any] = {"n_heads": 2, "n_layers": 2, "dropout": 0.1}
DIM = 128

# Options that version 0.1 had, and what to use instead
REMOVED = {
    "n_seeds": "attention over seeds is gone; `encoder='transformer'` attends",
    "adversarial": "pass `batch_key=`: what batches differ by is projected out of the embedding",
}
# Options of the set encoder; the others are of the transformer
MEASURED = ("sample", "softness", "pseudocount", "landmarks")


class _NamesRemoved:
    """Says what to use instead of an option that is gone."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        for name in REMOVED.keys() & options.keys():
            msg = f"`{name}` is not an option of {cls.__name__} any more: {REMOVED[name]}."
            raise ValueError(msg)
        return super().__new__(cls)


@dataclass(frozen=True)
class ModelConfig(_NamesRemoved):
    """Architecture of an :class:`~epifoundation.EpiFoundation` model.

    Parameters
    ----------
    encoder
        ``"set"``: sums of measured peak vectors over a cell's open peaks, in closed form. ``"transformer"``: the paper's,
        trained by gradient.
    dim
        ``"set"``: clusters of cells that peak vectors are measured with, and width of the embedding; None is as many as the
        cells fill, see Notes. ``"transformer"``: width of peak vectors and embedding, divisible by `n_heads`; None is 128.
    n_heads
        ``"transformer"``: attention heads; None is 2.
    n_layers
        ``"transformer"``: blocks; None is 2.
    dropout
        ``"transformer"``: in the blocks and before the heads, in training only; None is 0.1.
    objective
        Likelihood of the expression head: ``"counts"`` (multinomial), ``"binary"`` (Bernoulli, the
        paper's) or ``"gaussian"``; ``"peaks"`` has no expression head.
    feedforward
        ``"transformer"``: width of the hidden layer of a block; None is ``2 * dim``.
    max_peaks
        ``"transformer"``: a cell with more open peaks is read by a fixed choice of this many; None reads all.
    decoder
        ``"linear"``, or, for a transformer, ``"query"``: the paper's, in which gene vectors query a small network about the
        cell.
    values
        The paper's second query decoder, which predicts values. Set by :func:`epifoundation.models.convert_original` only.

    Notes
    -----
    A set encoder has a cluster for each 20 sampled cells with RNA, or for each 200 with ATAC alone, whose components are
    noisier; at least 16 and at most 128.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.ModelConfig.preset("paper").encoder
    'transformer'
    """

    encoder: str = "set"
    dim: int | None = None
    n_heads: int | None = None
    n_layers: int | None = None
    dropout: float | None = None
    objective: str = "counts"
    feedforward: int | None = None
    max_peaks: int | None = None
    decoder: str = "linear"
    values: bool = False

    def __post_init__(self) -> None:
        if self.encoder != FORMAT_1:
            _one_of(self, "encoder", ENCODERS)
        _one_of(self, "objective", OBJECTIVES)
        _one_of(self, "decoder", DECODERS)
        if self.encoder == "set":
            given = [
                name
                for name in (*OF_LAYERS, "feedforward", "max_peaks")
                if getattr(self, name) is not None
            ]
            given += ["decoder"] * (self.decoder == "query")
            if given:
                msg = (
                    f"`{given[0]}={getattr(self, given[0])!r}` has no meaning for the encoder 'set', which is measured in closed form: "
                    "leave it out, or pass `encoder='transformer'`."
                )
                raise ValueError(msg)
        else:
            if self.dim is None:
                object.__setattr__(self, "dim", DIM)
            for name, default in OF_LAYERS.items():
                if getattr(self, name) is None:
                    object.__setattr__(
                        self, name, 0 if (self.encoder, name) == (FORMAT_1, "n_heads") else default
                    )
        is_transformer = self.encoder == "transformer"
        for name, least in (
            ("dim", 1),
            ("n_heads", int(is_transformer)),
            ("n_layers", int(is_transformer)),
            ("feedforward", 1),
            ("max_peaks", 1),
        ):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                msg = f"`{name}` must be an integer of at least {least}, got {value!r}."
                raise ValueError(msg)
        if is_transformer and self.width % self.heads:
            msg = f"`dim` ({self.dim}) must be divisible by `n_heads` ({self.heads})."
            raise ValueError(msg)
        if self.dropout is not None and not 0 <= self.dropout < 1:
            msg = f"`dropout` must lie in [0, 1), got {self.dropout!r}."
            raise ValueError(msg)
        if self.values and self.decoder != "query":
            msg = f"`values` needs `decoder='query'`, got {self.decoder!r}."
            raise ValueError(msg)

    @property
    def width(self) -> int:
        """Columns of the encoder: `dim`, which a fitted model always has."""
        return self.dim or DIM

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.n_heads or 0

    @property
    def is_measured(self) -> bool:
        """Whether the model is measured in closed form, rather than trained by gradient."""
        return self.encoder == "set"

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
    def from_dict(cls, values: dict[str, Any], *, format_version: int = 2) -> ModelConfig:
        """The inverse of :meth:`to_dict`; unknown keys are an error, missing ones take their default.

        Raises
        ------
        ValueError
            Unknown keys, or a set encoder of format 1 with attention, which is not read any more.
        """
        if format_version == 1:
            values = dict(values)
            n_seeds = values.pop("n_seeds", 1)
            if values.get("encoder", "set") == "set":
                if values.get("n_heads") or n_seeds > 1:
                    msg = (
                        f"A set encoder with attention (`n_heads={values.get('n_heads')}`, `n_seeds={n_seeds}`) is not read any more: it was "
                        "an experiment of version 0.1. Pretrain the model again, or read it with epifoundation 0.1.0."
                    )
                    raise ValueError(msg)
                values["encoder"] = FORMAT_1
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
        The trained head for held-out peaks has a vector for each batch, too.
    n_removed
        Directions that are projected out, because batches differ along them.
    n_landmarks
        Format 1: cells that the head for the measured scale compares with; 0 for no such head.
    n_encoder_landmarks, n_label_landmarks
        Cells that the readout of the set encoder, and that of columns for labels, compare with; 0 for none.
    has_measured
        There is a linear head for the measured scale.
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
    n_encoder_landmarks: int = 0
    n_label_landmarks: int = 0
    has_measured: bool = False


@dataclass(frozen=True)
class TrainingConfig(_NamesRemoved):
    """How a model is fitted.

    The set encoder is measured in closed form and has the first four options. All others are for a transformer, which is
    trained by gradient; a model refuses options of the other kind.

    Parameters
    ----------
    sample
        Training cells, drawn at random in short runs, that components, clusters and readouts are fitted on; half as many
        validation cells choose and calibrate. None: 16,384, or fewer where these have more than 15 million open peaks, but
        at least 1,000. The vectors of peaks are measured on all cells.
    softness
        Temperature of the memberships in clusters, in median squared distances to the nearest center.
    pseudocount
        Cells of which nothing is known that the vector of a peak is shrunken by.
    landmarks
        Cells that the kernel readouts compare with, at most a tenth of those that they are fitted on.
    max_epochs
        Passes over the training cells. The best of them on the validation cells is kept. None: as many as
        see 80,000 cells; at least 4 and at most 50.
    batch_size
        Cells a step.
    lr
        Peak of the one-cycle learning rate.
    peak_lr
        Learning rate of the peak vectors, as a fraction of `lr`; None is 0.05. Low-rank updates
        (``finetune(rank=...)``) learn at `lr`.
    weight_decay
        Of all but the peak vectors.
    peak_dropout
        Each time a cell is seen, a uniform 0 to `peak_dropout` of its peaks are held out.
    peak_weight
        Weight of the loss that predicts the held-out peaks of 8 cells a batch, beside the expression loss. Without RNA, the
        held-out peaks of all cells are the loss, and this has no meaning.
    n_neighbors
        RNA of a cell is pooled with that of its nearest training cells, itself included; 1 for none.
    patience
        Stop after this many epochs without a better validation loss.
    accumulate
        Batches whose gradients are summed before a step.
    schedule
        ``"one-cycle"``, or ``"cosine-restarts"``: cosine from `lr` to a hundredth of it after a linear warm-up of 5 epochs,
        begun again after 15, 25, 45, ... epochs with 0.9 of the last rate (Wu et al. 2025).
    balanced_genes
        With ``objective="binary"``: at most this many genes of a cell enter the loss, half of them expressed and half
        silent, drawn anew each time (Wu et al. 2025). None: all genes. Needs ``n_neighbors=1``: of cells that are pooled,
        one or another expresses nearly every gene.
    buffer
        Training from files: cells that are read at a time and shuffled. Twice as many are in memory while training runs,
        and at most this many serve to validate on.
    warm_start
        Begin with vectors of peaks measured as for the set encoder; False: they begin at random.
    label_weight
        In fine-tuning: weight of the loss of the labels.
    label_smoothing
        In fine-tuning: this much of the target is spread evenly over all labels.
    label_balance
        In fine-tuning: weight of a cell is the number of cells of its label to the power of minus this; 1 gives each label
        the same weight, 0 each cell.

    Examples
    --------
    >>> import epifoundation as ep
    >>> ep.TrainingConfig.preset("paper").lr
    0.0001
    """

    sample: int | None = None
    softness: float = 0.5
    pseudocount: float = 5.0
    landmarks: int = 1_000
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

    def __post_init__(self) -> None:
        _one_of(self, "schedule", SCHEDULES)
        whole = (
            "max_epochs",
            "batch_size",
            "n_neighbors",
            "patience",
            "accumulate",
            "balanced_genes",
            "buffer",
            "sample",
            "landmarks",
        )
        for name, low, high in (
            ("sample", 10, inf),
            ("softness", 1e-3, 1e3),
            ("pseudocount", 1, inf),
            ("landmarks", 1, inf),
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
        ):
            value = getattr(self, name)
            if value is None and name in ("max_epochs", "balanced_genes", "peak_lr", "sample"):
                continue
            is_right = isinstance(value, int if name in whole else (int, float)) and not isinstance(
                value, bool
            )
            if not is_right or not low <= value <= high:
                kind = "an integer" if name in whole else "a number"
                msg = f"`{name}` must be {kind} between {low} and {high}, got {value!r}."
                raise ValueError(msg)

        if self.balanced_genes is not None and self.n_neighbors > 1:
            msg = f"`balanced_genes` needs cells that are not pooled: pass `n_neighbors=1`, not {self.n_neighbors}."
            raise ValueError(msg)

    def check(self, model: ModelConfig) -> None:
        """Raise ValueError if an option was given that has no meaning for this kind of model."""
        default, meant = asdict(TrainingConfig()), self.options(model)
        for name, value in asdict(self).items():
            if value == default[name] or name in meant:
                continue
            if model.is_measured:
                why = "the set encoder is measured in closed form, without epochs, steps or losses"
                cure = f"leave it out (its options are {', '.join(MEASURED)}), or pass `encoder='transformer'`"
            else:
                why, cure = (
                    f"it is for the set encoder, and this is {model.encoder!r}",
                    "leave it out",
                )
            msg = f"`{name}={value!r}` has no meaning here: {why}; {cure}."
            raise ValueError(msg)

    def options(self, model: ModelConfig) -> dict[str, Any]:
        """Those that have a meaning for this kind of model, by name."""
        return {
            name: value
            for name, value in asdict(self).items()
            if (name in MEASURED) == model.is_measured
        }

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
    # of a transformer: the head for peaks is trained along, which keeps the embedding in its place
    "finetune": {
        "max_epochs": 8,
        "peak_lr": 0.2,
        "peak_weight": 0.1,
        "warm_start": False,
        "patience": 3,
    },
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
