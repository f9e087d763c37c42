"""Arbitrary damage to a model directory is refused by name, or changes nothing unnoticed.

``EPIFOUNDATION_EXAMPLES=10000`` tries more.
"""

import gzip
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from traceback import extract_tb

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from sealing import random_transformer, reseal, rewrite

import epifoundation as ep

N_EXAMPLES = int(os.environ.get("EPIFOUNDATION_EXAMPLES", "150"))
FILES = (
    "config.json",
    "model.safetensors",
    "adapter.safetensors",
    "cells.safetensors",
    "peaks.bed.gz",
    "genes.tsv",
    "labels.json",
    "README.md",
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.sampled_from([10**6, 2**31, 2**63, 10**12, 10**400, -1, 0.5, 1e300])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        ["set", "set-1", "transformer", "counts", "binary", "linear", "query", "../x"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)
LABELS = st.lists(st.text(max_size=4) | st.none() | st.integers(), max_size=5)
NAMES = st.lists(st.text(max_size=6), max_size=8)
NUMBERS = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e30, 1e-30, 9.0])
DTYPES = st.sampled_from(
    [torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float64, torch.complex64]
)
DAMAGE = st.one_of(
    st.tuples(st.just("flip"), st.sampled_from(FILES), st.floats(0, 1), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.sampled_from(FILES), st.floats(0, 1)),
    st.tuples(st.just("swap"), st.sampled_from(FILES), st.sampled_from(FILES)),
    st.tuples(st.just("remove"), st.sampled_from(FILES)),
    st.tuples(st.just("bytes"), st.sampled_from(FILES), st.binary(max_size=40)),
    st.tuples(st.just("field"), st.floats(0, 1), JSON),
    st.tuples(st.just("field"), st.floats(0, 1), JSON),
    st.tuples(st.just("no field"), st.floats(0, 1)),
    st.tuples(st.just("labels"), JSON | LABELS),
    st.tuples(st.just("genes"), st.text(max_size=30) | NAMES.map("\n".join), st.booleans()),
    st.tuples(st.just("peaks"), st.text(max_size=30), st.booleans()),
    st.tuples(st.just("number"), st.floats(0, 1), st.floats(0, 1), NUMBERS),
    st.tuples(st.just("type"), st.floats(0, 1), DTYPES),
)


@pytest.fixture(scope="module")
def places(simulated, tmp_path_factory):
    """Directories of models, cells to embed, and the results."""
    folder = tmp_path_factory.mktemp("fuzz")
    data = simulated[:200].copy()
    options = {"label_key": "cell_type", "batch_key": "batch"}
    base = ep.tl.pretrain(data, config=ep.ModelConfig(dim=8), genome="hg38", **options)
    base.save_pretrained(folder / "set")
    base = ep.models.from_pretrained(folder / "set")
    ep.tl.finetune(data["atac"], base, label_key="cell_type").save_adapter(folder / "adapter")
    random_transformer().save_pretrained(folder / "transformer")
    found = {}
    for kind in ("set", "adapter", "transformer"):
        model = ep.models.from_pretrained(folder / kind, device="cpu")
        cells = data["atac"][:4].copy() if kind != "transformer" else cells_of(model)
        found[kind] = folder / kind, cells, model.revision, results(cells, model)
    return found.__getitem__  # a short name in reports


def cells_of(model):
    from anndata import AnnData

    rng = np.random.default_rng(0)
    matrix = (rng.random((4, len(model.peaks))) < 0.5).astype(np.float32)
    atac = AnnData(matrix)
    atac.var_names = model.peaks.names
    return atac


def results(cells, model):
    atac = ep.tl.embed(cells, model, copy=True)
    return {key: np.asarray(value) for key, value in sorted(atac.obsm.items())}


def paths_of(config, so_far=()):
    """Keys and positions that lead to each value of a JSON document."""
    entries = config.items() if isinstance(config, dict) else enumerate(config)
    for key, value in entries:
        yield (*so_far, key)
        if isinstance(value, dict | list):
            yield from paths_of(value, (*so_far, key))


def change_config(directory, at, value=None, *, remove=False):
    def change(config):
        paths = [path for path in paths_of(config) if path[0] != "config_sha256"]
        *above, last = paths[int(at * (len(paths) - 1))]
        part = config
        for key in above:
            part = part[key]
        if remove:
            del part[last]
        else:
            part[last] = value

    rewrite(directory, change)


def change_tensor(directory, at, function):
    (path,) = (p for name in FILES[1:3] if (p := directory / name).exists())
    tensors = load(path.read_bytes())
    name = sorted(tensors)[int(at * (len(tensors) - 1))]
    tensors[name] = function(tensors[name]).contiguous()
    path.write_bytes(save(tensors))


def spoil(directory, kind, *how):
    """Damage the directory; errors of files that it has not, or that were damaged, are ignored."""
    if kind in ("field", "no field"):
        change_config(directory, *how, remove=kind == "no field")
    elif kind == "number":
        at, where, value = how

        def put(tensor):
            flat = tensor.clone().reshape(-1)
            if len(flat):
                whole = 0 if not np.isfinite(value) else value
                flat[int(where * (len(flat) - 1))] = value if flat.is_floating_point() else whole
            return flat.reshape(tensor.shape)

        change_tensor(directory, at, put)
    elif kind == "type":
        change_tensor(directory, how[0], lambda tensor: tensor.to(how[1]))
    elif kind == "labels":
        (directory / "labels.json").write_text(json.dumps(how[0]))
    elif kind == "genes":
        text = f"gene\n{how[0]}" if how[1] else how[0]
        (directory / "genes.tsv").write_bytes(text.encode("utf-8", "surrogatepass"))
    elif kind == "peaks":
        text = how[0].encode("utf-8", "surrogatepass")
        (directory / "peaks.bed.gz").write_bytes(gzip.compress(text) if how[1] else text)
    elif kind == "swap":
        one, other = ((directory / file).read_bytes() for file in how)
        (directory / how[0]).write_bytes(other)
        (directory / how[1]).write_bytes(one)
    elif kind == "remove":
        (directory / how[0]).unlink()
    else:
        path = directory / how[0]
        content = bytearray(path.read_bytes())
        if kind == "cut":
            content = content[: int(how[1] * len(content))]
        elif kind == "bytes":
            content = how[1]
        elif content:
            content[int(how[1] * (len(content) - 1))] ^= how[2]
        path.write_bytes(content)


def seal_all(directory):
    for path in directory.iterdir():
        if path.name in json.loads((directory / "config.json").read_text())["sha256"]:
            reseal(directory, path.name)


def is_same(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(one[key], other[key], equal_nan=True) for key in one
    )


@settings(max_examples=N_EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(["set", "set", "adapter", "transformer"]),
    damages=st.lists(DAMAGE, min_size=1, max_size=3),
    is_sealed=st.booleans(),
)
@pytest.mark.filterwarnings("ignore")
def test_damage_is_refused_by_name_or_changes_the_revision(
    places, kind, damages, is_sealed, tmp_path_factory
):
    original, cells, revision, expected = places(kind)
    directory = tmp_path_factory.mktemp("copy") / "spoilt"
    shutil.copytree(original, directory)
    for damage in damages:
        # The file may be missing or damaged already
        with suppress(Exception):
            spoil(directory, *damage)
            if is_sealed:
                seal_all(directory)
    base = {"base": original.parent / "set"} if kind == "adapter" else {}
    model, refusal = attempt(ep.models.from_pretrained, directory, device="cpu", **base)
    shutil.rmtree(directory.parent)
    if model is None:
        assert "spoilt" in str(refusal)
        return
    if not is_sealed and all(damage[0] not in ("field", "no field") for damage in damages):
        assert model.revision == revision
    if model.revision == revision:
        assert is_same(results(cells, model), expected)
    else:
        attempt(results, cells, model)


def attempt(function, *given, **options):
    """The result, or the error, which must be one that this package raises."""
    try:
        return function(*given, **options), None
    except (ValueError, OSError) as error:
        place = Path(extract_tb(error.__traceback__)[-1].filename)
        assert place.is_relative_to(Path(ep.__file__).parent), place
        return None, error
