"""The command line: public functions, for batch systems.

Options, defaults and help are read from the functions: a new parameter is a new option.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
import textwrap
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from ._cli_output import SUFFIXES, ResultFile
from ._cli_values import argument_of, has_none
from ._signatures import Parameter, read_signature

ABOUT = "Cell embeddings, gene expression and cell types from single-cell ATAC-seq."
EXIT_CODES = """\
Exit codes: 0 done, 1 an error in data or files (one line says which), 2 an error in the options,
130 interrupted, 143 terminated."""
COMMANDS = {  # function and example
    "embed": ("tl.embed", "donor1.h5ad donor2.zarr -m models/atlas -o embedding.zarr"),
    "annotate": ("tl.annotate", "query.h5ad --reference atlas.h5mu --label-key cell_type"),
    "pretrain": ("tl.pretrain", "*.h5mu -o models/mine --batch-key donor --validation donor3"),
    "finetune": ("tl.finetune", "labelled.h5mu -o models/mine --label-key cell_type"),
    "convert": ("models.convert_original", "pretrained.pth vocabularies/ -o models/paper"),
    "count": ("pp.count_fragments", "fragments.tsv.gz models/atlas -o atac.h5ad"),
    "coverage": ("pp.group_coverage", "fragments.tsv.gz groups.tsv hg38 -o tracks"),
    "cellxgene": (
        "datasets.cellxgene",
        "a4310202-4dc8-4e1b-a96d-d9675f5b14d1 --peaks encode-ccre-hg38 -o atlas.h5ad",
    ),
    "link-peaks": ("tl.link_peaks", "multiome.h5mu -m models/atlas --gene CD8A -o links.tsv"),
    "knock-out": ("tl.knock_out", "atac.h5ad chr2:86783559-86808396 -o changes.h5ad"),
    "report": ("pl.report", "annotated.h5mu -o report.html --gene CD79A --gene CD8A"),
    "models": ("_available.available", ""),
}
# Their fields are options of functions with such a parameter
FIELDS_OF = {"engine": "training/engine.Engine", "mapping": "peaks/options.PeakMapping"}
SAVE = "models.EpiFoundation.save_pretrained"  # its parameters, of functions that make models
RESULT = "_cli_output.ResultFile"  # its fields, of commands whose results it writes
OMITTED = {"checkpoint", "copy", *FIELDS_OF}  # unless required
NAMES = {  # options with another name than their parameter
    "config": "preset",
    "directory": "output",
    "genes": "gene",
    "loggers": "logger",
    "path": "output",
    "rng": "seed",
}
SHORT = {"model": ["-m"], "output": ["-o"]}
FILES_HELP = {  # help for files in place of objects, by annotation
    "Inputs": "Files of cells (.h5ad, .h5mu, .zarr, 10x .h5).",
    "Inputs | Markers": "File of cells (.h5ad, .h5mu, .zarr, 10x .h5).",
    "Located": "File of cells (.h5ad, .h5mu, .zarr, 10x .h5).",
    "Data": "File of cells (.h5ad, .h5mu, .zarr, 10x .h5), which is read into memory.",
}
ARGUMENT_TYPES = {"bool": bool, "int": int, "RNG": int, "float": float}
CONFIG = """\
TOML file with a table of options for this command; the command line takes precedence. Its tables
`architecture` and `training` have fields of ModelConfig and TrainingConfig."""


class Parser(argparse.ArgumentParser):
    """A parser with errors in one line and paragraphs in the description."""

    def __init__(self, prog: str, usage: str, text: str, epilog: str) -> None:
        paragraphs = [textwrap.fill(each, 90) for each in text.split("\n\n")]
        super().__init__(
            prog=prog,
            usage=f"{prog} {usage}",
            description="\n\n".join(paragraphs),
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,  # the defaults are those of the function
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


@cache
def options_of(command: str) -> dict[str, Parameter]:
    """Parameters by name of the option, with ``_`` for ``-``."""
    function = read_signature(COMMANDS[command][0])
    signatures = [function]
    fields_of = [owner for name, owner in FIELDS_OF.items() if name in function.parameters]
    signatures += [read_signature(owner) for owner in fields_of]
    if function.returns == "EpiFoundation":
        signatures.append(read_signature(SAVE))
    if command in SUFFIXES:
        signatures.append(read_signature(RESULT))
    options = {}
    for parameter in (each for one in signatures for each in one.parameters.values()):
        name = NAMES.get(parameter.name, parameter.name)
        if name == "data":
            name = "files" if parameter.kind == "Inputs" else "file"
        if parameter.is_required or name not in OMITTED:
            options[name] = parameter
    return options


def command_parser() -> Parser:
    """The parser of the command name."""
    lines = ["commands:"]
    for command, (function, _) in COMMANDS.items():
        summary = read_signature(function).text.split("\n")[0]
        lines.append(f"  {command:<11}{_plain(summary, {})}")
    epilog = "\n".join([*lines, "", EXIT_CODES])
    parser = Parser("epifoundation", "COMMAND [OPTIONS]", ABOUT, epilog)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


def option_parser(command: str) -> Parser:
    """The parser of the arguments of a command."""
    prog, options = f"epifoundation {command}", options_of(command)
    required = [_shown(name, each) for name, each in options.items() if _is_needed(each)]
    usage = " ".join([*required, "[OPTIONS]"]).replace("--output", "-o OUTPUT")
    function, example = COMMANDS[command]
    text = _plain(read_signature(function).text, options)
    parser = Parser(prog, usage, text, f"Example: {prog} {example}")
    for name, parameter in options.items():
        kind, shown = parameter.kind, _shown(name, parameter)
        how: dict[str, Any] = {"help": _help(parameter, options).replace("%", "%%")}
        if kind == "bool":
            is_on = parameter.default
            how["action"] = argparse.BooleanOptionalAction if is_on else "store_true"
        elif kind in ARGUMENT_TYPES:
            how["type"] = ARGUMENT_TYPES[kind]
        elif shown.startswith("--") and ("Sequence[" in kind or "tuple[" in kind):
            how["action"] = "append"
        elif kind.startswith("Literal"):
            how["metavar"] = "|".join(ast.literal_eval(kind.removeprefix("Literal")))
        if shown.startswith("--"):
            parser.add_argument(*SHORT.get(name, []), shown, dest=name, **how)
        else:  # may be missing: it can be in the file of options
            n_values = "*" if kind == "Inputs" or "Sequence[" in kind else "?"
            parser.add_argument(name, metavar=shown, nargs=n_values, **how)
    parser.add_argument("--config", help=CONFIG)
    parser.add_argument("-q", "--quiet", action="store_true", help="No progress bars.")
    return parser


def parse(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Values by option, from the command line or else a file of options."""
    parser = option_parser(command)
    parsed = vars(parser.parse_intermixed_args(arguments))
    given = {name: value for name, value in parsed.items() if value not in (None, [])}
    if "config" in given:
        given = _read_table(given.pop("config"), command, parser) | given
    for name, parameter in options_of(command).items():
        if _is_needed(parameter) and name not in given:
            parser.error(f"missing {_shown(name, parameter)}")
    return given


def run(command: str, given: dict[str, Any]) -> Any:
    """Call the function of a command; returns its result, or the path of the saved model."""
    from . import settings

    if given.pop("quiet", False) or not sys.stderr.isatty():
        settings.progress = False
    options, function = options_of(command), COMMANDS[command][0]
    is_saved = SAVE in {parameter.owner for parameter in options.values()}
    if is_saved:
        from .models._directory import check_target

        check_target(Path(given["output"]), overwrite=given.get("overwrite", False))
    taken: dict[str, dict[str, Any]] = {
        owner: {} for owner in (function, SAVE, RESULT, *FIELDS_OF.values())
    }
    for parameter in options.values():
        if parameter.is_required and parameter.may_be_none:
            taken[function][parameter.name] = None  # unless given
    for name, value in given.items():
        parameter = options[name]
        taken[parameter.owner][parameter.name] = argument_of(parameter, value, given)
    file = ResultFile(**taken[RESULT]) if taken[RESULT] else None
    if file:
        file.check(command)
    for name, owner in FIELDS_OF.items():
        if taken[owner]:
            module, _, made = owner.replace("/", ".").rpartition(".")
            taken[function][name] = getattr(import_module(f".{module}", __package__), made)(
                **taken[owner]
            )
    module, name = function.split(".")
    result = getattr(import_module(f".{module}", __package__), name)(**taken[function])
    if file:
        return file.write(command, result, taken[function])
    if not is_saved:
        return result
    from .training.processes import World

    return result.save_pretrained(**taken[SAVE]) if World.from_environment().rank == 0 else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors are one line, or a traceback with ``EPIFOUNDATION_DEBUG=1``."""
    # Before torch is loaded. Threads that spin while they wait make a command many times slower on
    # a machine that is busy with other work
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        command_parser().print_help(sys.stderr)
        raise SystemExit(2)
    try:
        command = command_parser().parse_args(given[:1]).command
        result = run(command, parse(command, given[1:]))
        if command == "models":
            result = result.astype(object).fillna("").to_string()
        if command == "coverage":
            result = "\n".join(f"{group}\t{path}" for group, path in result.items())
        if result is not None:
            sys.stdout.write(f"{result}\n")
    except (ValueError, TypeError, KeyError, OSError, ImportError, FloatingPointError) as error:
        if os.environ.get("EPIFOUNDATION_DEBUG"):
            raise
        line = " ".join(f"epifoundation: {type(error).__name__}: {error}".splitlines())
        sys.stderr.write(f"{line}\n")
        raise SystemExit(1) from error
    except KeyboardInterrupt as error:
        raise SystemExit(130) from error


def _shown(name: str, parameter: Parameter) -> str:
    """An option as typed; required ones have no flag, except the output."""
    is_flag = name == "output" or not _is_needed(parameter)
    return f"--{name.replace('_', '-')}" if is_flag else name.upper()


def _is_needed(parameter: Parameter) -> bool:
    """Whether there must be a value: left out is None where that is a value."""
    return parameter.is_required and not parameter.may_be_none


def _plain(text: str, options: dict[str, Parameter]) -> str:
    """Text of a docstring without markup, with options in place of parameters."""
    shown = {parameter.name: _shown(name, parameter) for name, parameter in options.items()}
    text = re.sub(r":\w+:`(?:~[\w.]*\.)?(.+?)`", r"\1", text)
    text = re.sub(r"(?<!`)`(\w+)`(?!`)", lambda found: shown.get(found[1], found[1]), text)
    return text.replace("``", "")


def _help(parameter: Parameter, options: dict[str, Parameter]) -> str:
    text, default = _plain(parameter.text, options), parameter.default
    if parameter.kind in FILES_HELP:
        text = FILES_HELP[parameter.kind] + f" {text}" * (not parameter.is_required)
    if default is None or default is False:
        return text
    default = ", ".join(default) if isinstance(default, tuple) else default
    return f"{text} (default: {default}{', 0 for None' if has_none(parameter) else ''})"


def _read_table(path: str, command: str, parser: Parser) -> dict[str, Any]:
    """The options of a command in a TOML file."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        parser.error(f"{path!r} cannot be read as TOML: {error}")
    options, table = options_of(command), content.get(command, {})
    if "files" in options and "file" in table:  # of `finetune` in version 0.1
        table["files"] = [table.pop("file")]
    known = {*options, "quiet", *(["architecture"] if "preset" in options else [])}
    unknown = sorted(set(table) - known)
    if unknown or command not in content:
        wrong = f"unknown options {unknown}" if unknown else f"no table [{command}]"
        parser.error(f"{path!r} has {wrong}; options of `{command}`: {sorted(known)}.")
    for name, value in table.items():
        kind = ARGUMENT_TYPES.get(options[name].kind) if name in options else None
        if kind and not isinstance(value, int | float if kind is float else kind):
            parser.error(f"`{name}` in {path!r} must be of type {kind.__name__}, got {value!r}.")
    if "architecture" in table:
        table["preset"] = table.pop("architecture")
    return table
