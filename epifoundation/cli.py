"""The command line: the same functions, for batch systems."""

from __future__ import annotations

import os
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

app = typer.Typer(
    name="epifoundation",
    help="Cell embeddings, gene expression and cell types from single-cell ATAC-seq.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 an error in data or files (one line says which), 2 an error in the options, 130 interrupted, 143 terminated.",
)

INPUT = "Files of cells (.h5ad, .h5mu, .zarr)"


def configured(context: typer.Context, path: Path | None) -> Path | None:
    """Take defaults of options from the table of this command in a TOML file."""
    if path is None:
        return None
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        msg = f"{str(path)!r} cannot be read as TOML: {error}"
        raise typer.BadParameter(msg) from error
    command = str(context.info_name)
    table = content.get(command, {})
    known = {str(parameter.name) for parameter in context.command.params} | set(TABLES.get(command, ()))
    unknown = sorted(set(table) - known)
    if unknown or command not in content:
        wrong = f"unknown options {unknown}" if unknown else f"no table [{command}]"
        msg = f"{str(path)!r} has {wrong}; `{command}` knows {sorted(known - {'config'})}."
        raise typer.BadParameter(msg)
    context.default_map = {name: value for name, value in table.items() if name not in TABLES.get(command, ())}
    context.obj = {name: table[name] for name in TABLES.get(command, ()) if name in table}
    return path


TABLES = {"pretrain": ("architecture", "training"), "finetune": ("training",)}  # of a file, for what has no option

Config = Annotated[
    Optional[Path],
    typer.Option(
        help="TOML file with a table of options for this command; options on the line come first.",
        callback=configured,
        is_eager=True,
    ),
]
Files = Annotated[list[Path], typer.Argument(help=INPUT, show_default=False)]
Model = Annotated[Optional[str], typer.Option("--model", "-m", help="Name or directory; default: the bundled one.")]
Output = Annotated[
    Optional[Path], typer.Option("--output", "-o", help="Results, .zarr or .h5ad; default: into the one file.")
]
Modality = Annotated[str, typer.Option(help="Name of the ATAC modality.")]
RnaModality = Annotated[str, typer.Option(help="Name of the RNA modality.")]
KeyAdded = Annotated[Optional[str], typer.Option(help="Replaces `epifoundation` in the names that are written.")]
BatchKey = Annotated[Optional[str], typer.Option(help="Column of `obs` with batches.")]
LabelKey = Annotated[Optional[str], typer.Option(help="Column of `obs` with labels.")]
Genome = Annotated[Optional[str], typer.Option(help="Build of the peaks, such as hg38.")]
Coverage = Annotated[Optional[float], typer.Option(help="Least share of the model's peaks that the data must reach.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ...")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at the output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Validation = Annotated[
    Optional[list[str]], typer.Option(help="Held out: a fraction, or the name of a batch; may be given several times.")
]
Seed = Annotated[int, typer.Option(help="Seed.")]
Strategy = Annotated[str, typer.Option(help="auto, ddp or fsdp; how many processes there are, torchrun or srun tell.")]
Precision = Annotated[str, typer.Option(help="auto, float32 or bfloat16, of a transformer.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile a transformer.")]
State = Annotated[
    Optional[Path],
    typer.Option(help="File that the state of an unfinished run is kept in: the same command continues from it."),
]
Minutes = Annotated[float, typer.Option(help="Between two states.")]
Log = Annotated[Optional[Path], typer.Option(help="Folder for logs of a transformer.")]
Logger = Annotated[Optional[list[str]], typer.Option(help="csv, tensorboard or wandb; may be given several times.")]


@app.command(epilog="Example: epifoundation embed donor1.h5ad donor2.zarr -m models/atlas -o embedding.zarr")
def embed(
    files: Files,
    output: Output = None,
    model: Model = None,
    modality: Modality = "atac",
    rna_modality: RnaModality = "rna",
    key_added: KeyAdded = None,
    expression: Annotated[bool, typer.Option(help="Predict expression.")] = True,
    annotation: Annotated[bool, typer.Option(help="Annotate cell types.")] = True,
    batch_key: BatchKey = None,
    genome: Genome = None,
    min_coverage: Coverage = None,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Embed cells; predict their expression and cell types.

    Started in several processes at once, these share the work; after an interruption the same command goes on.
    """
    ep = _package(quiet)
    done = ep.tl.embed(
        _one_or_all(files),
        model,
        modality=modality,
        rna_modality=rna_modality,
        key_added=key_added,
        expression=expression,
        annotation=annotation,
        batch_key=batch_key,
        genome=genome,
        dtype=dtype,
        device=device,
        output=output,
        overwrite=overwrite,
        **_given(min_coverage=min_coverage),
    )
    typer.echo(str(done))


@app.command(
    epilog="Example: epifoundation annotate query.h5ad --reference atlas.h5mu --label-key cell_type -o labels.h5ad"
)
def annotate(
    files: Files,
    output: Output = None,
    model: Model = None,
    reference: Annotated[
        Optional[Path], typer.Option(help="Cells with labels; default: the labels of the model.")
    ] = None,
    label_key: LabelKey = None,
    batch_key: BatchKey = None,
    calibration: Annotated[
        Optional[list[str]],
        typer.Option(help="Kept to calibrate on: a fraction, or the name of a batch; may be given several times."),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Share of cells whose set may miss the true label.")] = 0.1,
    unknown: Annotated[float, typer.Option(help="Share of calibration cells that would be called unknown.")] = 0.05,
    modality: Modality = "atac",
    key_added: KeyAdded = None,
    genome: Genome = None,
    min_coverage: Coverage = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Annotate cell types, with calibrated confidence, sets of labels, and "unknown"."""
    ep = _package(quiet)
    done = ep.tl.annotate(
        _one_or_all(files),
        model,
        reference=None if reference is None else _read(reference),
        label_key=label_key,
        batch_key=batch_key,
        calibration=_held(calibration, "calibration"),
        alpha=alpha,
        unknown=unknown,
        modality=modality,
        key_added=key_added,
        genome=genome,
        device=device,
        rng=seed,
        output=output,
        overwrite=overwrite,
        **_given(min_coverage=min_coverage),
    )
    typer.echo(str(done))


@app.command(
    epilog="Examples: epifoundation pretrain multiome.h5mu -o models/mine --batch-key donor --validation donor3; "
    "torchrun --nproc-per-node 4 -m epifoundation pretrain *.zarr -o models/atlas --objective peaks --state atlas.state"
)
def pretrain(
    context: typer.Context,
    files: Files,
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the model.", show_default=False)],
    objective: Annotated[Optional[str], typer.Option(help="counts, binary, gaussian, or peaks for ATAC alone.")] = None,
    preset: Annotated[Optional[str], typer.Option(help="Architecture: default or paper.")] = None,
    layer: Annotated[Optional[str], typer.Option(help="Layer of the RNA modality.")] = None,
    batch_key: BatchKey = None,
    label_key: LabelKey = None,
    validation: Validation = None,
    init: Annotated[Optional[str], typer.Option(help="Model whose peaks, genes and architecture are kept.")] = None,
    peaks: Annotated[
        Optional[Path], typer.Option(help="BED file with the peaks to read; default: the consensus of the files'.")
    ] = None,
    genome: Annotated[str, typer.Option(help="Build of the peaks, such as hg38.")] = "unknown",
    min_cells: Annotated[int, typer.Option(help="Peaks open in fewer cells are left out.")] = 1,
    modality: Modality = "atac",
    rna_modality: RnaModality = "rna",
    seed: Seed = 0,
    strategy: Strategy = "auto",
    precision: Precision = "auto",
    compile: Compile = False,  # noqa: A002 # what torch calls it
    state: State = None,
    minutes: Minutes = 10.0,
    log: Log = None,
    logger: Logger = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Pretrain a model on cells in files.

    The tables [pretrain.architecture] and [pretrain.training] of a configuration file hold fields of ModelConfig and
    TrainingConfig. Those that are for a transformer alone are refused for the set encoder, and the other way round.
    """
    ep = _package(quiet)
    tables = context.obj or {}
    from .models._directory import check_target
    from .vocabulary import PeakVocabulary

    check_target(output, overwrite=overwrite)
    model = ep.tl.pretrain(
        _one_or_all(files),
        peaks=None if peaks is None else PeakVocabulary.read_bed(peaks, genome=genome),
        config=_made(ep.ModelConfig, tables.get("architecture")) or preset,
        training=_made(ep.TrainingConfig, tables.get("training")),
        objective=objective,
        layer=layer,
        batch_key=batch_key,
        label_key=label_key,
        validation=_held(validation, "validation"),
        init=init,
        genome=genome,
        min_cells=min_cells,
        modality=modality,
        rna_modality=rna_modality,
        engine=_engine(ep, strategy, precision, compile, state, minutes, log, logger),
        device=device,
        rng=seed,
    )
    _save(model, output, overwrite=overwrite)


@app.command(
    epilog="Example: epifoundation finetune labelled.h5mu -m models/atlas -o models/mine --label-key cell_type --batch-key donor"
)
def finetune(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="File of cells (.h5ad, .h5mu, .zarr), which is read whole.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the model.", show_default=False)],
    model: Model = None,
    label_key: LabelKey = None,
    batch_key: BatchKey = None,
    validation: Validation = None,
    rank: Annotated[
        int, typer.Option(help="Transformer: rank of the update of each matrix; 0 to train all weights.")
    ] = 8,
    expression: Annotated[bool, typer.Option(help="Learn from the RNA.")] = True,
    layer: Annotated[Optional[str], typer.Option(help="Layer of the RNA modality.")] = None,
    modality: Modality = "atac",
    rna_modality: RnaModality = "rna",
    genome: Genome = None,
    min_coverage: Coverage = None,
    seed: Seed = 0,
    strategy: Strategy = "auto",
    precision: Precision = "auto",
    compile: Compile = False,  # noqa: A002 # what torch calls it
    state: State = None,
    minutes: Minutes = 10.0,
    log: Log = None,
    logger: Logger = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Fit a model to labels, to batches, or to both.

    The table [finetune.training] of a configuration file holds fields of TrainingConfig.
    """
    ep = _package(quiet)
    from .models._directory import check_target
    from .models._registry import resolve_model

    check_target(output, overwrite=overwrite)
    base = resolve_model(model, None)
    preset = "finetune" if base.config.encoder == "transformer" else "default"
    tuned = ep.tl.finetune(
        _read(file),
        base,
        label_key=label_key,
        batch_key=batch_key,
        validation=_held(validation, "validation"),
        training=_made(ep.TrainingConfig, (context.obj or {}).get("training"), preset=preset),
        rank=rank or None,
        expression=expression,
        layer=layer,
        modality=modality,
        rna_modality=rna_modality,
        genome=genome,
        engine=_engine(ep, strategy, precision, compile, state, minutes, log, logger),
        device=device,
        rng=seed,
        **_given(min_coverage=min_coverage),
    )
    _save(tuned, output, overwrite=overwrite)


@app.command(epilog="Example: epifoundation convert pretrained.pth vocabularies/ -o models/paper")
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The .pth file of the paper's code.", show_default=False)],
    vocabularies: Annotated[Path, typer.Argument(help="The directory with its vocabularies.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the model.", show_default=False)],
    genome: Annotated[str, typer.Option(help="Build of the peaks.")] = "hg38",
    labels: Annotated[bool, typer.Option(help="Keep the cell-type head.")] = True,
    overwrite: Overwrite = False,
) -> None:
    """Convert a checkpoint of the paper's code."""
    ep = _package(quiet=True)
    model = ep.models.convert_original(checkpoint, vocabularies, labels=labels, genome=genome)
    _save(model, output, overwrite=overwrite)


@app.command(
    epilog="Example: epifoundation report annotated.h5mu -o report.html --label-key cell_type --batch-key donor --gene CD79A --gene CD8A"
)
def report(
    file: Annotated[
        Path,
        typer.Argument(help="File of embedded cells (.h5ad, .h5mu, .zarr), which is read whole.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.", show_default=False)],
    label_key: LabelKey = None,
    batch_key: BatchKey = None,
    gene: Annotated[Optional[list[str]], typer.Option(help="To be shown; may be given several times.")] = None,
    title: Annotated[str, typer.Option(help="Heading.")] = "EpiFoundation report",
    modality: Modality = "atac",
    rna_modality: RnaModality = "rna",
    key_added: KeyAdded = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    config: Config = None,
) -> None:
    """Write one HTML file with what was found out about cells."""
    ep = _package(quiet=True)
    written = ep.pl.report(
        _read(file),
        output,
        label_key=label_key,
        batch_key=batch_key,
        genes=gene,
        title=title,
        modality=modality,
        rna_modality=rna_modality,
        key_added=key_added,
        overwrite=overwrite,
        rng=seed,
    )
    typer.echo(str(written))


@app.command(epilog="Example: epifoundation models")
def models() -> None:
    """List the models that are known by name."""
    typer.echo(_package(quiet=True).models.available().astype(object).fillna("").to_string())


def _package(quiet: bool) -> Any:
    """The package, which takes seconds to import: not for a `--help`."""
    import epifoundation

    if quiet or not sys.stderr.isatty():
        epifoundation.settings.progress = False
    return epifoundation


def _one_or_all(files: list[Path]) -> Path | list[Path]:
    return files[0] if len(files) == 1 else files


def _read(path: Path) -> Any:
    """An AnnData or MuData, whole."""
    import anndata
    import mudata

    from ._formats import open_group

    root = open_group(path)
    is_mudata = "mod" in root
    if hasattr(root, "close"):
        root.close()
    if path.is_dir():
        return mudata.read_zarr(path) if is_mudata else anndata.read_zarr(path)
    return mudata.read_h5mu(path) if is_mudata else anndata.read_h5ad(path)


def _held(values: list[str] | None, option: str) -> float | list[str] | None:
    """A fraction, or names of batches."""
    if not values:
        return None
    try:
        return float(values[0]) if len(values) == 1 and "." in values[0] else list(values)
    except ValueError:
        return list(values)


def _made(kind: Any, table: dict[str, Any] | None, preset: str | None = None) -> Any:
    """A configuration out of a table of a file; None without one."""
    if table is None:
        return None
    unknown = sorted(set(table) - {each.name for each in fields(kind)})
    if unknown:
        msg = f"{kind.__name__} has no {unknown}; it has {[each.name for each in fields(kind)]}."
        raise ValueError(msg)
    from dataclasses import replace

    return replace(kind.preset(preset), **table) if preset else kind(**table)


def _engine(
    ep: Any,
    strategy: str,
    precision: str,
    is_compiled: bool,
    state: Path | None,
    minutes: float,
    log: Path | None,
    loggers: list[str] | None,
) -> Any:
    return ep.Engine(
        strategy=strategy,
        precision=precision,
        compile=is_compiled,
        state=state,
        minutes=minutes,
        log=log,
        loggers=tuple(loggers or ("csv",)),
    )


def _given(**options: Any) -> dict[str, Any]:
    """Options that were told; others keep the defaults of the function."""
    return {name: value for name, value in options.items() if value is not None}


def _save(model: Any, output: Path, *, overwrite: bool) -> None:
    from .engine import World

    if World.from_environment().rank == 0:
        typer.echo(str(model.save_pretrained(output, overwrite=overwrite)))


def main() -> None:
    """Run a command; errors in data and files are told in one line (``EPIFOUNDATION_DEBUG=1``: with where they came from)."""
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        if os.environ.get("EPIFOUNDATION_DEBUG"):
            raise
        typer.echo(f"epifoundation: {type(error).__name__}: {error}", err=True)
        raise SystemExit(1) from error
    except KeyboardInterrupt as error:
        raise SystemExit(130) from error
