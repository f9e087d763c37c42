"""The entry for the scverse ecosystem: permitted values, agreement with pyproject.toml."""

import tomllib
from pathlib import Path

import pytest
import yaml

TESTS = Path(__file__).parent
META = yaml.safe_load((TESTS.parent / "meta.yaml").read_text())
VOCABULARY = yaml.safe_load((TESTS / "ecosystem_vocabulary.yaml").read_text())
PROJECT = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]


def problems(meta):
    """What the list would refuse about an entry, as field and value."""
    found = [(field, "missing") for field in VOCABULARY["required"] if not meta.get(field)]
    found += [(field, "not permitted") for field in meta if field not in VOCABULARY["permitted"]]
    found += [
        (field, meta[field])
        for field in ("primary_category", "language", "category")
        if field in meta and meta[field] not in VOCABULARY[field]
    ]
    tags = meta.get("tags", [])
    found += [("tags", tag) for tag in tags if tag not in VOCABULARY["tags"]]
    if len(tags) > VOCABULARY["max_tags"] or len(set(tags)) < len(tags):
        found.append(("tags", "too many, or repeated"))
    return found


def test_the_entry_has_permitted_values():
    assert problems(META) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"license": None}, ("license", "missing")),
        ({"version": "0.1.0"}, ("version", "not permitted")),
        # Case matters
        ({"primary_category": "epigenomics"}, ("primary_category", "epigenomics")),
        ({"category": "core-framework"}, ("category", "core-framework")),
        ({"tags": ["ATAC-seq", "scATAC-seq"]}, ("tags", "scATAC-seq")),
        ({"tags": ["ATAC-seq", "ATAC-seq"]}, ("tags", "too many, or repeated")),
        ({"tags": VOCABULARY["tags"]}, ("tags", "too many, or repeated")),
    ],
)
def test_other_values_are_found(change, problem):
    assert problems(META | change) == [problem]


def test_the_entry_agrees_with_pyproject():
    urls = PROJECT["urls"]
    assert META["install"]["pypi"] == PROJECT["name"] == META["name"].lower()
    assert META["license"] == PROJECT["license"]
    assert META["project_home"] == urls["Source"]
    assert META["documentation_home"].rstrip("/") == urls["Documentation"].rstrip("/")
    assert META["tutorials_home"].startswith(META["documentation_home"])
    assert f"https://doi.org/{META['publications'][0]}" == urls["Paper"]
    assert f"Programming Language :: {META['language']} :: 3 :: Only" in PROJECT["classifiers"]
