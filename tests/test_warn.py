"""Warnings point to the line of the user, and name the source that they are about."""

import inspect
import warnings

import pytest

from epifoundation import _warn
from epifoundation._warn import naming, show_again, warn

# As if it were a file of the package: three frames between the user and the warning
DEEP = """
def outer(message):
    return [inner(each) for each in [message]]

def inner(message):
    return (lambda: innermost(message))()

def innermost(message):
    warn(message)
"""


@pytest.fixture
def deep():
    names = {"warn": warn}
    exec(compile(DEEP, f"{_warn.SKIPPED[0]}tl/_deep.py", "exec"), names)  # noqa: S102
    return names["outer"]


def shown(function):
    """Category, text and file of the warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [(each.category, str(each.message), each.filename) for each in caught]


def test_a_warning_points_to_the_line_outside_of_the_package(deep):
    line = inspect.currentframe().f_lineno + 2
    with pytest.warns(UserWarning, match="^few cells$") as caught:
        deep("few cells")
    assert [(each.filename, each.lineno) for each in caught] == [(__file__, line)]


def test_errors_and_warnings_get_the_name_in_front(deep):
    with pytest.warns(UserWarning, match="^'a.h5ad': few cells$") as caught, naming("'a.h5ad'"):
        deep("few cells")
    assert [each.filename for each in caught] == [__file__]
    with pytest.raises(ValueError, match="^'b.h5ad': no cells$") as raised, naming("'b.h5ad'"):
        raise ValueError("no cells")
    assert str(raised.value.__cause__) == "no cells"


def test_warnings_before_an_error_are_shown():
    def failing():
        with naming("a"):
            warn("few cells")
            raise ValueError("no cells")

    with (
        pytest.raises(ValueError, match="^a: no cells$"),
        pytest.warns(UserWarning, match="^a: few"),
    ):
        failing()


def test_names_of_files_in_files_are_in_order():
    def nested():
        with naming("outer"), naming("inner"):
            warn("few cells")

    assert [text for _, text, _ in shown(nested)] == ["outer: inner: few cells"]


def test_without_a_name_and_of_other_kinds_they_stay():
    def plain():
        with naming(""):
            warn("few cells")

    assert [text for _, text, _ in shown(plain)] == ["few cells"]
    for name, error in (("", ValueError), ("a", TypeError), ("a", OSError)):
        with pytest.raises(error, match="^no cells$"), naming(name):
            raise error("no cells")

    def foreign():
        with naming("a"):
            warnings.warn_explicit("old", DeprecationWarning, "other.py", 3)

    assert shown(foreign) == [(DeprecationWarning, "old", "other.py")]


def test_repeated_warnings_are_shown_once_in_their_order():
    def repeated():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for text in ("b", "a", "b", "a"):
                warn(text)
            warn("b", FutureWarning)
        show_again(caught, "x: ")

    assert [(kind, text) for kind, text, _ in shown(repeated)] == [
        (UserWarning, "x: b"),
        (UserWarning, "x: a"),
        (FutureWarning, "b"),
    ]
