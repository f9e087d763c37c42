"""The documentation: names exist, links lead somewhere, errors are quoted as raised."""

import ast
import inspect
import json
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import epifoundation as ep
from epifoundation import cli
from epifoundation._keys import Keys

ROOT = Path(ep.__file__).parents[1]
PACKAGE = ROOT / "epifoundation"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "guide").glob("*.md")])
TUTORIALS = sorted((ROOT / "tutorials").glob("*.ipynb"))
OF_OTHERS = {"gex_only", "weights_only"}  # parameters of scanpy and torch
KEYS = {
    value
    for name, value in inspect.getmembers(Keys())
    if isinstance(value, str) and not name.startswith("__")
}


def text_of(path):
    """The text of a page or a tutorial, without what tutorials put out."""
    if path.suffix != ".ipynb":
        return path.read_text()
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])


def resolve(name):
    value = ep
    for part in name.split(".")[1:]:
        value = getattr(value, part)
    return value


def calls(text):
    """Pairs of a function of the package and the text between its brackets."""
    for match in re.finditer(r"\bep(?:\.\w+)+\(", text):
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += {"(": 1, ")": -1, "[": 1, "]": -1, "{": 1, "}": -1}.get(text[end], 0)
            end += 1
        yield match[0][:-1], text[match.end() : end - 1]


def keywords(inner):
    """Names of arguments, of this call alone."""
    depth, flat = 0, ""
    for sign in re.sub(r"\"[^\"\n]*\"|'[^'\n]*'", '""', inner):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(sign, 0)
        flat += sign if depth == 0 else ""
    return re.findall(r"(?:^|,)\s*(\w+)\s*=(?!=)", flat)


@pytest.mark.parametrize("path", PAGES + TUTORIALS, ids=lambda path: path.name)
def test_what_is_named_exists(path):
    text = text_of(path)
    for name in re.findall(r"\bep(?:\.[A-Za-z]\w*)+", text):
        resolve(name)
    for name, inner in calls(text):
        parameters = inspect.signature(resolve(name)).parameters
        free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        wrong = set(keywords(inner)) - set(parameters)
        assert free or not wrong, f"{name} has no {wrong}"


def test_the_test_above_can_fail():
    assert list(calls("see `ep.tl.embed(f(a, b=1), c=[2], d='x=1')` and")) == [
        ("ep.tl.embed", "f(a, b=1), c=[2], d='x=1'")
    ]
    assert keywords("f(a, b=1), c=[2], d='x=1', e=") == ["c", "d", "e"]
    with pytest.raises(AttributeError):
        resolve("ep.tl.emebd")


def parameters_of_all():
    """Of public functions, configurations, and methods of models."""
    things = [
        getattr(module, name) for module in (ep.pp, ep.tl, ep.pl, ep.get) for name in module.__all__
    ]
    for module in (ep.models, ep.datasets, ep.metrics, ep.genome):
        functions = filter(inspect.isfunction, vars(module).values())
        things += [each for each in functions if each.__module__.startswith(PACKAGE.name)]
    things += [ep.ModelConfig, ep.TrainingConfig, ep.Engine]
    things += [
        value for _, value in inspect.getmembers(ep.EpiFoundation) if inspect.isroutine(value)
    ]
    names = set()
    for thing in things:
        try:
            names |= set(inspect.signature(thing).parameters)
        except (TypeError, ValueError):  # of builtins and properties
            continue
    return names


@pytest.mark.parametrize("path", PAGES + TUTORIALS, ids=lambda path: path.name)
def test_parameters_that_are_named_alone_exist(path):
    text = (
        re.sub(r"```.*?```", "", text_of(path), flags=re.DOTALL)
        if path.suffix == ".md"
        else text_of(path)
    )
    known = parameters_of_all()
    for name in re.findall(r"`(\w+)=[^`(]*`", text):
        assert name in known | OF_OTHERS or name.isupper(), f"no function has `{name}=`"


@pytest.mark.parametrize("path", PAGES + TUTORIALS, ids=lambda path: path.name)
def test_keys_that_are_named_are_written(path):
    for key in re.findall(r"\b(?:epifoundation_[a-z_]+|X_epifoundation)\b", text_of(path)):
        assert key in KEYS, f"nothing is called {key!r}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_that_are_named_exist(path):
    for line in re.findall(
        r"^epifoundation (.+)$|`epifoundation ([a-z].*?)`", path.read_text(), flags=re.MULTILINE
    ):
        name, *rest = "".join(line).split()
        for each in [name, *(word for before, word in pairwise(rest) if before == "|")]:
            assert each in cli.COMMANDS, f"not a command: {each!r}"
        options = re.findall(r"(?<!\S)--?\w[\w-]*", cli.option_parser(name).format_help())
        assert {word for word in rest if word.startswith("-")} <= set(options)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere_and_images_have_text(path):
    text = path.read_text()
    for alt, target in re.findall(r"(!?\[[^\]]*\])\(([^)\s]+)\)", text):
        assert alt not in ("![]", "[]"), f"{target} has no text"
        if target.startswith(("http", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        aim = path.parent / file if file else path
        aim = aim if aim.exists() else ROOT / "docs" / aim.name  # included from the folder above
        assert aim.exists() or (ROOT / "tutorials" / Path(file).name).exists(), target
        if anchor and aim.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", aim.read_text(), flags=re.MULTILINE)
            slugs = {
                re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
                for heading in headings
            }
            assert anchor in slugs, target
    for image in re.findall(r"```{image}.*?```", text, flags=re.DOTALL):
        assert re.search(r":alt: .{20}", image)


def test_tutorials_begin_with_a_question_and_end_with_what_is_next():
    for path in TUTORIALS:
        cells = json.loads(path.read_text())["cells"]
        assert cells[0]["cell_type"] == "markdown"
        assert "".join(cells[0]["source"]).splitlines()[0].endswith("?"), (
            f"{path.name} does not begin with a question"
        )
        assert "## What next" in "".join(cells[-1]["source"])


def string_of(node):
    """Text of a string, with ``...`` for what is filled in; None if it is not a string."""
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "" for part in node.values)
        return "...".join(parts)
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return node.value if is_text else None


def messages():
    """Every text of the package, and those that are put together by ``msg += ...``."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (text := string_of(node)) is not None:
                yield text
            body = getattr(node, "body", None)
            statements = body if isinstance(body, list) else []
            values = [
                each.value for each in statements if isinstance(each, ast.Assign | ast.AugAssign)
            ]
            yield "".join(string_of(value) or "" for value in values)


def test_errors_are_quoted_as_they_are_raised():
    every = list(messages())
    quoted = re.findall(r"\*\*`(.+?)`\*\*", (ROOT / "docs" / "faq.md").read_text())
    assert len(quoted) > 20
    for quote in quoted:
        parts = [re.escape(part.strip(" ")) for part in quote.split("...") if part.strip()]
        assert any(re.search(".*".join(parts), message, flags=re.DOTALL) for message in every), (
            quote
        )


def raised():
    """Kinds of errors and warnings that the package raises."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Raise)
                and isinstance(node.exc, ast.Call)
                and isinstance(node.exc.func, ast.Name)
            ):
                yield node.exc.func.id


def test_every_kind_of_error_has_an_entry():
    kinds = {kind for kind in raised() if kind[0].isupper()}
    kinds -= {"SystemExit", "AttributeError"}  # of the command line, and of names that are mistyped
    assert {
        "ValueError",
        "TypeError",
        "FileNotFoundError",
        "ConnectionError",
        "FloatingPointError",
    } <= kinds
    text = (ROOT / "docs" / "faq.md").read_text()
    assert {kind for kind in kinds if f"`{kind}`" not in text} == set()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) < 1650


def test_what_others_read_about_the_package_is_true():
    """Citation, recipe and entry for the list of the ecosystem say what the package says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == ep.__version__
    assert citation["license"] == project["license"]
    assert "10.1101/2025.02.05.636688" in citation["preferred-citation"]["doi"]

    entry = yaml.safe_load((ROOT / "meta.yaml").read_text())
    needed = {"name", "description", "project_home", "documentation_home", "tutorials_home"}
    needed |= {"install", "license", "language", "test_command", "tags", "category"}
    assert needed <= set(entry)
    assert entry["license"] == project["license"]

    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text())
    assert recipe["context"]["version"] == ep.__version__
    needs = {
        re.split("[ >]", need)[0]: need.replace(" ", "") for need in recipe["requirements"]["run"]
    }
    renamed = {"huggingface-hub": "huggingface_hub", "torch": "pytorch"}  # on conda-forge
    for need in project["dependencies"]:
        name, _, least = need.partition(">=")
        name = renamed.get(name, name)
        assert needs.pop(name) == f"{name}>={least}"
    assert needs == {"python": f"python{project['requires-python']}"}


def test_pictures_of_tutorials_have_a_text():
    drawing = re.compile(r"\bep\.pl\.(?!report)\w+\(|\bsc\.pl\.umap\(|\bax\.\w+\(")
    for path in TUTORIALS:
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code" and drawing.search("".join(cell["source"])):
                alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
                assert len(alt) > 20, f"{path.name}: {''.join(cell['source'])[:80]}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_code_fits_the_width_of_a_page(path):
    code = re.compile(
        r"^```(?:python|sh|text|{code-block}).*?\n(.*?)^```", re.DOTALL | re.MULTILINE
    )
    for block in code.findall(path.read_text()):
        long = [line for line in block.splitlines() if len(line) > 88]
        assert long == [], f"{path.name} has code wider than 88 characters"
