"""The package as a whole: imports, public functions, documentation."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
import warnings
from collections import Counter
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import pytest

import epifoundation as ep

PACKAGE = Path(ep.__file__).parent
API = PACKAGE.parent / "docs" / "api.md"
TOOLS = (
    [("pp", name) for name in ep.pp.__all__]
    + [("tl", name) for name in ep.tl.__all__]
    + [("pl", name) for name in ep.pl.__all__]
    + [("get", name) for name in ep.get.__all__]
)
FUNCTIONS = TOOLS + [
    (module, name)
    for module in ("datasets", "models", "metrics", "genome")
    for name, value in vars(getattr(ep, module)).items()
    if inspect.isfunction(value)
    and not name.startswith("_")
    and value.__module__.startswith("epifoundation")
]
# What each room of the package may import of the others; all may import BASE.
BASE = {
    "_available",
    "_columns",
    "_docs",
    "_downloads",
    "_file_kinds",
    "_files",
    "_hub",
    "_keys",
    "_link_table",
    "_memory",
    "_option_types",
    "_pairing",
    "_renaming",
    "_settings",
    "_validate",
    "_version",
    "_warn",
}
PEAKS, CELLS = {"genome", "peaks"}, {"cells"}
MODELS = {"nn", "models"} | PEAKS
ALLOWED = {
    "_available": set(),
    "_columns": set(),
    "_cli_output": {"_link_table", "tl"},
    "_cli_values": {"_signatures", "cells", "models", "nn", "peaks"},
    "_docs": set(),
    "_downloads": {"_settings", "_version"},
    "_file_kinds": set(),
    "_files": {"_file_kinds"},
    "_hub": {"_files", "_settings"},
    "_keys": {"_columns"},
    "_link_table": {"_keys", "_validate"},
    "_memory": set(),
    "_option_types": set(),
    "_pairing": {"_renaming", "_warn"},
    "_renaming": set(),
    "_settings": set(),
    "_signatures": {"_docs"},
    "_validate": {"_pairing", "_warn"},
    "_version": set(),
    "_warn": set(),
    "nn": set(),
    "genome": BASE,
    "peaks": BASE | {"genome"},
    "cells": BASE,
    "metrics": BASE,
    "datasets": BASE | MODELS | CELLS | {"pp"},
    "models": BASE | MODELS,
    "pp": BASE | MODELS | CELLS,
    "inference": BASE | MODELS | CELLS | {"pp"},
    "links": BASE | MODELS | CELLS | {"inference"},
    "training": BASE | MODELS | CELLS | {"pp"},
    "paper": BASE | MODELS | CELLS | {"training"},
    "tl": BASE | MODELS | CELLS | {"inference", "links", "training", "paper", "pp"},
    "get": BASE | CELLS,
    "pl": BASE | {"get", "metrics", "genome", "models", "pp"},
}

MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_PARAMETERS, MAX_LINES = 12, 300
# Public tools with more parameters, and how many: no more are to be added without a reason
MANY_PARAMETERS = {
    "annotate": 17,
    "embed": 15,
    "finetune": 15,
    "link_peaks": 18,
    "links": 13,
    "predict_expression": 14,
    "pretrain": 19,
    "report": 14,
}
LONG_MODULES = {"metrics.py": "one public function for each score, with its documentation"}


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path):
    """Parts of the package that a file imports, anywhere in it."""
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth and depth > 0:
            yield from (
                [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("epifoundation"):
            yield node.module.removeprefix("epifoundation").strip(".").split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (
                a.name.split(".")[1] for a in node.names if a.name.startswith("epifoundation.")
            )


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    part = part_of(path)
    if part in ("__init__", "__main__", "cli"):
        return
    found = set(imports_of(path)) - {part}
    assert found <= ALLOWED[part], f"{part} must not import {sorted(found - ALLOWED[part])}"


def test_only_listed_tools_have_many_parameters():
    many = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                taken = node.args
                names = [each.arg for each in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs)]
                names += [each.arg for each in (taken.vararg, taken.kwarg) if each is not None]
                n = len(set(names) - {"self", "cls"})
                if n > MAX_PARAMETERS:
                    many[node.name] = n
    assert many == MANY_PARAMETERS


def test_only_listed_modules_are_long():
    long = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if len(path.read_text().splitlines()) > MAX_LINES
    }
    assert long == set(LONG_MODULES)


def test_names_of_classes_are_unique():
    """Also of private ones and of type aliases."""
    found = Counter(
        node.name.lstrip("_") if isinstance(node, ast.ClassDef) else node.name.id.lstrip("_")
        for path in MODULES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef | ast.TypeAlias)
    )
    assert [name for name, n in found.items() if n > 1] == []


def test_the_map_of_the_package_has_every_part():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    rooms = [room for room in ALLOWED if not room.startswith("_")]
    missing = [room for room in rooms if f"`{room}/`" not in text and f"`{room}.py`" not in text]
    assert missing == [], f"CONTRIBUTING.md does not name {missing}"


def test_nn_imports_only_torch():
    for path in (PACKAGE / "nn").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            roots = {name.split(".")[0] for name in names}
            assert roots <= {"torch", *sys.stdlib_module_names}, f"{path.name} imports {roots}"


def test_import_is_light_sets_up_no_logging_and_prints_nothing():
    heavy = [
        "scanpy",
        "lightning",
        "matplotlib",
        "scvi",
        "muon",
        "bioframe",
        "sklearn",
        "huggingface_hub",
    ]
    code = f"""
import logging, sys, epifoundation
assert {{"torch", "anndata", "numpy"}} & set(sys.modules) == set()
parts = [getattr(epifoundation, name) for name in epifoundation.__all__]
assert not logging.getLogger().handlers
assert [name for name in {heavy} if name in sys.modules] == []
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_unknown_names_raise():
    assert set(dir(ep)) == set(ep.__all__)
    assert not hasattr(ep, "embed")
    with pytest.raises(AttributeError, match="module 'epifoundation' has no attribute 'tools'"):
        ep.tools  # noqa: B018


@pytest.mark.parametrize(("module", "name"), TOOLS)
def test_tools_take_data_first_and_options_by_keyword(module, name):
    parameters = list(inspect.signature(getattr(getattr(ep, module), name)).parameters.values())
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    # Peaks, fragments and variants come before data, training curves are of models, a report is a
    # file, and a knock-out is drawn without its data
    others = {
        "consensus_peaks": (["sources"],),
        "count_fragments": (["fragments", "peaks"],),
        "group_coverage": (["fragments", "groups"],),
        "training": (["models"],),
        "knock_out": (["data", "model"], ["change"]),  # in `tl`, in `pl`
        "report": (["data", "path"],),
        "link_variants": (["variants", "data"],),
    }
    expected = others.get(name, (["data"], ["data", "model"]))
    assert positional in expected


@pytest.mark.parametrize(("module", "name"), FUNCTIONS)
def test_public_functions_are_documented(module, name):
    function = getattr(getattr(ep, module), name)
    doc = inspect.getdoc(function)
    assert doc, f"{module}.{name} has no docstring"
    for section in ("Returns", "Examples"):
        assert f"{section}\n---" in doc, f"{module}.{name} has no section {section}"
    signature = inspect.signature(function)
    described = doc.split("Parameters\n---")[-1].split("\nReturns\n")[0]
    for parameter in signature.parameters.values():
        assert parameter.name in described, f"{module}.{name} does not describe {parameter.name}"
        if parameter.kind is not parameter.VAR_KEYWORD:
            assert parameter.annotation is not parameter.empty
    assert signature.return_annotation is not signature.empty


def test_the_api_page_lists_every_public_name_once():
    lines = API.read_text().splitlines()
    listed = [line.strip() for line in lines if line.startswith("   ") and ":" not in line]
    classes = [name for name in ep.__all__ if inspect.isclass(getattr(ep, name))]
    expected = [f"{module}.{name}" for module, name in FUNCTIONS] + classes + ["settings"]
    assert sorted(listed) == sorted(expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    sorted(
        each.name
        for each in pkgutil.walk_packages(ep.__path__, "epifoundation.")
        if not each.name.endswith("__main__")
    ),
)
def test_examples_of_the_docstrings_run(module, monkeypatch, tmp_path, request):
    monkeypatch.chdir(tmp_path)  # some write files
    if module.endswith("_score_integration"):
        request.getfixturevalue("quick_scores")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = doctest.testmod(
            importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE
        )
    assert result.failed == 0


def test_version_is_that_of_the_installed_package():
    assert version("epifoundation") == ep.__version__


def test_every_direct_dependency_is_pinned():
    constraints = (PACKAGE.parent / "constraints.txt").read_text()
    pinned = {line.split("==")[0] for line in constraints.splitlines() if "==" in line}
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    needed = {re.split("[ >]", need)[0] for need in chain(*groups)}
    assert needed <= pinned, f"not pinned: {sorted(needed - pinned)}"
