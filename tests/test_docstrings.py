"""Shared descriptions of parameters: each placeholder is filled, each parameter exists."""

import inspect
import re
import textwrap

import pytest
from test_structure import FUNCTIONS, PACKAGE

import epifoundation as ep
from epifoundation._docs import LINE, PARAMETERS, documented, fill

CLASSES = [getattr(ep, name) for name in ep.__all__ if inspect.isclass(getattr(ep, name))]
PUBLIC = {f"{module}.{name}": getattr(getattr(ep, module), name) for module, name in FUNCTIONS}
PUBLIC |= {
    f"{each.__name__}.{name}": member
    for each in CLASSES
    for name, member in inspect.getmembers(each, callable)
    if not name.startswith("_") and member.__doc__
}


@pytest.mark.parametrize("name", PUBLIC)
def test_no_placeholder_is_left(name):
    left = re.findall(r"^\s*\{.*\}\s*$", PUBLIC[name].__doc__, flags=re.MULTILINE)
    assert left == [], f"{name} is not `@documented`"


@pytest.mark.parametrize("name", PUBLIC)
def test_described_parameters_exist(name):
    doc = inspect.getdoc(PUBLIC[name])
    if "Parameters\n----------\n" not in doc:
        return
    section = re.split(r"\n\n\w+\n-{3,}\n", doc.split("Parameters\n----------\n")[1])[0]
    described = re.findall(r"^\w[\w, ]*$", section, flags=re.MULTILINE)
    names = [each for line in described for each in line.split(", ")]
    assert len(set(names)) == len(names), f"{name} describes a parameter twice"
    assert set(names) <= set(inspect.signature(PUBLIC[name]).parameters)


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("indent", ["", "    ", "        "])
def test_descriptions_are_indented_as_their_line(name, indent):
    expected = textwrap.indent(textwrap.dedent(PARAMETERS[name]).strip("\n"), indent)
    assert fill(f"first\n{indent}{{{name}}}\nlast") == f"first\n{expected}\nlast"


def test_every_description_is_used():
    texts = [path.read_text() for path in PACKAGE.rglob("*.py")]
    used = {match[2] for text in texts for match in LINE.finditer(text)}
    assert used == set(PARAMETERS)


def test_unknown_names_fail_and_other_braces_stay():
    with pytest.raises(KeyError, match="nothing"):

        @documented
        def unknown():
            """Do.

            {nothing}
            """

    assert fill("with {copy} in a line\n{'a': 1}\n") == "with {copy} in a line\n{'a': 1}\n"

    @documented
    def without():
        pass

    assert not without.__doc__
