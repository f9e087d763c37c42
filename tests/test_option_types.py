"""Options of a wrong type are refused by name, in every public tool, before anything is read."""

import inspect
from pathlib import Path

import numpy as np
import pytest

import epifoundation as ep
from epifoundation._option_types import checked

TOOLS = [getattr(ep.tl, name) for name in ep.tl.__all__]
TOOLS += [getattr(ep.pp, name) for name in ep.pp.__all__]
TOOLS = [tool for tool in TOOLS if inspect.isfunction(tool)]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
def test_every_tool_checks_its_options(tool):
    names = [
        parameter.name
        for parameter in inspect.signature(tool).parameters.values()
        if str(parameter.annotation) in ("str", "bool", "str | None", "str | Path | None")
        and parameter.kind is parameter.KEYWORD_ONLY
        and parameter.name != "key_added"
    ]
    assert names
    for name in names:
        for value in (object(), 1.5, ["a"], {}):
            with pytest.raises(TypeError, match=f"`{name}` must be .*, got ") as error:
                tool(None, None, **{name: value})
            assert "epifoundation" in error.traceback[-1].path.parts


def test_what_an_annotation_allows():
    @checked
    def tool(*, path: str | Path | None = None, copy: bool = False, n: int = 1) -> list:
        return [path, copy, n]

    assert tool(path=Path("a"), copy=np.True_, n="x") == [Path("a"), True, "x"]
    assert tool(path=None, copy=True) == [None, True, 1]
    with pytest.raises(TypeError, match=r"`path` must be str or Path or None, got 3 \(int\)"):
        tool(path=3)
    with pytest.raises(TypeError, match=r"`copy` must be bool, got 'yes' \(str\)"):
        tool(copy="yes")
    for wrong in ("x" * 5000, "a\0b", "\ud800"):
        with pytest.raises(ValueError, match="`path` cannot be the path of a file"):
            tool(path=wrong)
