"""``ep.tl.pretrain``: a model from paired ATAC and RNA, or from ATAC alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from .._docs import documented
from .._option_types import checked
from .._validate import RNG, generator_of, integer, one_of
from .._version import __version__
from ..cells.source import Inputs
from ..models import EpiFoundation
from ..models._directory import check_target
from ..models._peaks import Peaks, resolve_peaks
from ..models._registry import resolve_device, resolve_model
from ..nn import ModelConfig, TrainingConfig
from ..nn.config import OBJECTIVES
from ..training.architecture import architecture
from ..training.data import DataKeys, prepare
from ..training.engine import Engine
from ..training.prior import AUTO, NO_PRIOR, atlas_for
from ..training.processes import World
from ..training.run import measure_model
from ..training.split import parse_validation


@documented
@checked
def pretrain(
    data: Inputs,
    *,
    peaks: Peaks = None,
    config: ModelConfig | str | None = None,
    training: TrainingConfig | str | None = None,
    objective: Literal["counts", "binary", "gaussian", "peaks"] | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    label_key: str | None = None,
    validation: float | Sequence[str] | None = None,
    init: EpiFoundation | str | Path | None = None,
    prior: EpiFoundation | str | Path | None = AUTO,
    genome: str = "unknown",
    modality: str = "atac",
    rna_modality: str = "rna",
    min_cells: int = 1,
    checkpoint: str | Path | None = None,
    engine: Engine | None = None,
    device: str | torch.device = "auto",
    rng: RNG = 0,
) -> EpiFoundation:
    """Pretrain a model on cells with ATAC and RNA, or with ATAC alone.

    The default, a set encoder, is fitted in closed form. The vector of a peak is the mean, over the
    cells in which it is open, of their memberships in clusters of RNA (or of the latent semantic
    indexing of peaks) and, with `label_key`, of their labels. Embedding, expression and labels are
    regressions on sums of these vectors. There are no epochs, and the same seed gives the same
    model to the last bit.

    Parameters
    ----------
    {data_or_files}
        A positive entry of the ATAC matrix is an open peak. RNA of the same cells, matched by name,
        is needed unless ``objective="peaks"``; cells without are left out, with a warning. For a
        query decoder, a column ``chrom``, ``chromosome`` or
        ``interval`` (10x) of the RNA modality's ``var`` has the chromosomes of genes. Not changed.
    peaks
        Peaks of the model: a :class:`~epifoundation.PeakVocabulary`, for example from
        :func:`epifoundation.pp.consensus_peaks`, a BED file, a table, another model, or a name, as
        for :func:`epifoundation.pp.count_fragments`. If None, the peaks of the data, or the
        consensus of all sources.
    config
        Architecture, or the name of a preset: ``"paper"`` is the transformer of Wu et al. 2025,
        with the paper's `training` unless another is given. Default: ``ModelConfig()``.
    training
        A :class:`~epifoundation.TrainingConfig` or the name of a preset; default: its defaults.
    objective
        Replaces that of `config`, unless None (``ModelConfig()`` has ``"counts"``). ``"counts"``:
        raw RNA counts, multinomial over genes. ``"binary"``: expressed or not (the paper's).
        ``"gaussian"``: normalised values. ``"peaks"``: no RNA.
    layer
        Layer of the RNA modality with the target; if None, ``X``.
    batch_key
        Column of ``obs`` with batches. Their effects on expression are part of the decoder.
        Directions along which similar cells of different batches differ, by more than 0.3 of the
        variance of cells of one type and batch, are projected out of the encoder.
    label_key
        Column of ``obs`` with cell types. One embedding column per label is added, and a label head
        is fitted, and calibrated on the validation cells. Cells without a label are ignored here.
    validation
        Fraction of the cells, drawn at random, or names of whole batches (needs `batch_key`), used
        to choose penalties and to calibrate; if None, 0.1. Whole batches give an unbiased choice.
        The final set encoder is fitted to all cells, so keep test donors out of `data`; a
        transformer does not learn from these cells.
    init
        A model, name or path to start from: its vocabulary, genes and architecture are kept. A
        transformer starts from its weights; a set encoder is refitted to `data`, with the genes
        that both have.
    prior
        An atlas, such as ``"human-atlas"``, or ``"auto"``: the bundled atlas if it knows at least
        half of the peaks and they may be of its build. Vectors of peaks are shrunk to what their
        vectors in the atlas predict, rather than to zero, the more the fewer cells have the peak
        open; how much is chosen on validation cells. It helps most if cells are few. None or
        ``"none"``: no prior. Not for a transformer.
    genome
        Build of the peaks (``"hg38"``, ``"mm10"``), which build checks and liftover need.
    {modalities}
    min_cells
        Peaks open in fewer cells are left out of the vocabulary. More than 1 needs another pass
        over files.
    checkpoint
        A new or empty directory for the model, written when it is complete, and for a transformer
        whenever it improves, in the format of :meth:`~epifoundation.EpiFoundation.save_pretrained`.
    engine
        Processes, state to resume from, and for a transformer precision and logs. See
        :class:`~epifoundation.Engine`.
    {device}
    rng
        Seed or generator.

    Returns
    -------
    The model; for a transformer, that of the best epoch. A transformer that is interrupted (Ctrl-C)
    after the first epoch returns the best model so far, with a warning.

    Raises
    ------
    ValueError
        Unknown modality, layer or column; no cell with both ATAC and RNA; peak names that are not
        intervals; negative, NaN or infinite values; too few cells; options of `training` or
        `config` that do not apply to the encoder.
    FileExistsError
        `checkpoint` is not empty.
    KeyboardInterrupt
        Interrupted before there was a model.

    Notes
    -----
    Writes nothing into `data`. Supervision by expression, and reading non-zero peaks only, are
    those of EpiFoundation (Wu et al. 2025, bioRxiv 10.1101/2025.02.05.636688).

    Cells are read once. Components and clusters of cells, and the regressions, are fitted on at
    most ``TrainingConfig.sample`` cells, drawn at random in runs of 32; vectors of peaks and
    profiles of expression are computed from all cells. Files give the same model as the same cells
    in memory, and several processes the same as one. The genes of several sources are those that
    all of them have.

    The model recognizes its training cells by a hash of their open peaks, and leaves them out of
    the vectors of their own peaks (:attr:`epifoundation.EpiFoundation.cells`).

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.simulate_multiome(200, 300, 20)
    >>> model = ep.tl.pretrain(mdata, config=ep.ModelConfig(dim=16))
    >>> model.config.dim, len(model.genes)
    (16, 20)
    """
    min_cells = integer(min_cells, "min_cells", minimum=1)
    if training is None:
        training = config if isinstance(config, str) else "default"
    training = TrainingConfig.preset(training) if isinstance(training, str) else training
    config = ModelConfig.preset(config) if isinstance(config, str) else config
    device = resolve_device(device)
    if init is not None:
        init = resolve_model(init, None)
    default = ModelConfig() if init is None else init.config
    likelihood = objective or (config or default).objective
    one_of(likelihood, OBJECTIVES, "objective")
    config = architecture(config, init, likelihood)
    training.check(config)
    if training.balanced_genes is not None and likelihood != "binary":
        msg = (
            f"`balanced_genes` is for the objective 'binary', not {likelihood!r}; leave it out or "
            "pass `training='default'`."
        )
        raise ValueError(msg)
    if peaks is not None and init is not None:
        msg = "`peaks` and `init` cannot be combined: the vocabulary is that of `init`."
        raise ValueError(msg)
    if not config.is_measured and prior not in (AUTO, NO_PRIOR, None):
        msg = f"`prior` is for set encoders; leave it out for the encoder {config.encoder!r}."
        raise ValueError(msg)
    engine = engine or Engine()
    saved = None if checkpoint is None else Path(checkpoint).absolute()
    if saved is not None and not engine.has_state:  # the state says whose checkpoint it is
        _check_checkpoint(saved)
    if config.is_measured:
        engine.check_measured()
    rng = generator_of(rng)
    held = parse_validation(validation)
    prepared = prepare(
        data,
        likelihood,
        DataKeys(modality, rna_modality, layer, batch_key, label_key),
        peaks=None if peaks is None else resolve_peaks(peaks, genome=genome),
        validation=held,
        init=init,
        genome=genome,
        by_gradient=not config.is_measured,
        rng=rng,
    )
    summary: dict[str, Any] = {
        "package_version": __version__,
        "objective": likelihood,
        "validation": held,
        "batches": prepared.batches,
        "options": training.options(config),
    }
    finish: Callable[[], object] = int  # deletes the state
    try:
        if config.is_measured:
            atlas = atlas_for(prior, prepared.peaks)
            model, finish = measure_model(
                prepared,
                config,
                training,
                init,
                summary,
                min_cells=min_cells,
                checkpoint=saved,
                rng=rng,
                engine=engine,
                device=device,
                atlas=atlas,
            )
        else:
            # Imported here, as Lightning takes seconds
            from ..paper.train import train_model

            model = train_model(
                prepared,
                config,
                training,
                init,
                summary,
                min_cells=min_cells,
                checkpoint=saved,
                rng=rng,
                engine=engine,
                device=device,
            )
    finally:
        prepared.close()
    if saved is not None and World.from_environment().rank == 0:
        model.save_pretrained(saved, overwrite=True)
    finish()
    return model.to(device)


def _check_checkpoint(directory: Path) -> None:
    """Raise FileExistsError if there is anything at the path of the checkpoint."""
    try:
        check_target(directory, overwrite=False)
    except FileExistsError as error:
        cure = "delete it or choose another; a run with `engine=ep.Engine(state=...)` that was "
        cure += "interrupted goes on from its state"
        msg = str(error).replace("pass `overwrite=True` or choose another", cure)
        raise FileExistsError(msg) from error
