"""Damage with checksums that are right: each kind is refused by file, field and value."""

import gzip
import json
import re
import resource
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load, load_file, save
from sealing import N_PEAKS, random_transformer, reseal, rewrite, write

import epifoundation as ep
from epifoundation.nn import Sizes
from epifoundation.peaks.counted import CountedCells


@pytest.fixture(scope="module")
def whole(simulated, tmp_path_factory):
    """A directory of a set encoder; do not change it."""
    data = simulated[:200].copy()
    model = ep.tl.pretrain(
        data, config=ep.ModelConfig(dim=8), label_key="cell_type", batch_key="batch", genome="hg38"
    )
    return model.save_pretrained(tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def saved(whole, tmp_path):
    return ep.models.from_pretrained(whole).save_pretrained(tmp_path / "model")


@pytest.fixture
def transformer(tmp_path):
    return random_transformer().save_pretrained(tmp_path / "transformer")


def refused(directory, *parts, **options):
    """The error names the directory and what is wrong, and takes no memory."""
    with pytest.raises((ValueError, OSError)) as caught:
        ep.models.from_pretrained(directory, **options)
    assert type(caught.value) in (ValueError, FileNotFoundError)
    message = str(caught.value)
    assert directory.name in message
    for part in parts:
        assert re.search(part, message), message


def change_weights(directory, change, file="model.safetensors"):
    tensors = load_file(directory / file)
    write(directory, file, save(change(tensors) or tensors))


def first_matrix(value):
    def change(tensors):
        name = min(name for name, part in tensors.items() if part.ndim == 2)
        tensors[name][0, 0] = value

    return change


def every(function):
    return lambda tensors: {name: function(part) for name, part in tensors.items()}


WEIGHTS = {
    "NaN": (first_matrix(torch.nan), "NaN or infinite"),
    "inf": (first_matrix(torch.inf), "NaN or infinite"),
    "all NaN": (every(lambda part: torch.full_like(part, torch.nan)), "NaN or infinite"),
    "int8": (every(lambda part: part.to(torch.int8)), "has the type torch.int8"),
    "complex": (every(lambda part: part.to(torch.complex64)), "has the type torch.complex64"),
    "float64": (every(torch.Tensor.double), "has the type torch.float64"),
    "half": (every(torch.Tensor.half), "has the type torch.float16"),
    "shape": (every(lambda part: part[None]), "has shape"),
    "none": (lambda tensors: {"x": torch.zeros(1)}, "missing .* more"),
    "width": (
        lambda tensors: {k: -v if k.endswith("readout.width") else v for k, v in tensors.items()},
        r"readout\.width has values that are not positive",
    ),
}


@pytest.mark.parametrize(("change", "message"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights(saved, change, message):
    change_weights(saved, change)
    refused(saved, r"model\.safetensors", message)


def test_chromosomes_of_peaks_that_there_are_not(transformer):
    codes = torch.full((N_PEAKS + 1,), 9)
    change_weights(transformer, lambda tensors: tensors | {"encoder.tokens.chromosome_of": codes})
    refused(transformer, r"encoder\.tokens\.chromosome_of is outside of 0 to 3")


TEXT = {
    "repeated": ("labels.json", json.dumps(["T"] * 4), "`labels` must be unique: 'T'"),
    "numbers": ("labels.json", "[0, 1, 2, 3]", "not empty, got 0 at position 0"),
    "null": ("labels.json", "[null, null, null, null]", "not empty, got None"),
    "empty": ("labels.json", '["a", "b", " ", "c"]', "not empty, got ' ' at position 2"),
    "surrogate": ("labels.json", r'["a", "b", "\ud800", "c"]', "at position 2"),
    "dict": ("labels.json", '{"a": 0, "b": 1, "c": 2, "d": 3}', "must be a list"),
    "string": ("labels.json", '"abcd"', "must be a list of strings, got str"),
    "null labels": ("labels.json", "null", "got NoneType"),
    "no json": ("labels.json", "{", "JSONDecodeError"),
    "deep": ("labels.json", "[" * 100_000, "RecursionError"),
    "too few": ("labels.json", '["a"]', "`n_labels` is 4 .*have 1"),
    "no column": ("genes.tsv", "x\n1\n", "column 'gene'"),
    "no gene": ("genes.tsv", "", "tab-separated"),
    "ragged": ("genes.tsv", "gene\tid\na\n", "column 'gene'"),
    "repeated genes": ("genes.tsv", "gene\n" + "A\n" * 40, "'A' occurs twice"),
    "empty genes": ("genes.tsv", 'gene\n""\n' + "\n".join(map(str, range(39))), "`genes` must be"),
    "few genes": ("genes.tsv", "gene\nA\n", "`n_genes` is 40 .*have 1"),
    "binary genes": ("genes.tsv", b"\xff\xfe\x00", "tab-separated"),
    "other peaks": ("peaks.bed.gz", b"chr1\t1\t2\n", r"`n_peaks` is \d+ .*have 1"),
    "binary peaks": ("peaks.bed.gz", b"\xff\xfe" * 50, "is binary"),
    "reversed": ("peaks.bed.gz", gzip.compress(b"chr1\t5\t2\n"), "reversed"),
    "two columns": ("peaks.bed.gz", gzip.compress(b"chr1\t5\n"), "2 of 3"),
    "cut": ("peaks.bed.gz", gzip.compress(b"chr1\t5\t9\n" * 99)[:-9], "truncated"),
    "long": ("peaks.bed.gz", gzip.compress(b"chr1\t1\t2\n" * 300_000), "more than .* of text"),
    "card": ("README.md", b"\xff\xfe", "utf-8"),
}


@pytest.mark.parametrize(("file", "text", "message"), TEXT.values(), ids=TEXT)
def test_text(saved, file, text, message):
    write(saved, file, text if isinstance(text, bytes) else text.encode())
    refused(saved, message)


def set_field(*keys, value):
    def change(config):
        part = config
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value

    return change


NO_INTEGERS = (None, "8", 8.0, True, float("nan"), [8], {}, -1, 10**12, 10**400)


@pytest.mark.parametrize("value", NO_INTEGERS)
@pytest.mark.parametrize("name", [each for each in Sizes(1).to_dict() if each[:2] == "n_"])
def test_sizes(saved, name, value):
    rewrite(saved, set_field("sizes", name, value=value))
    refused(saved, r"config\.json", f"`{name}` must be an integer of at least")


@pytest.mark.parametrize("name", ["peaks_by_batch", "has_measured"])
@pytest.mark.parametrize("value", [None, 1, "yes", []])
def test_flags(saved, name, value):
    rewrite(saved, set_field("sizes", name, value=value))
    refused(saved, f"`{name}` must be True or False")


@pytest.mark.parametrize("value", [None, 3, [1], {"a": -1}, {"a": True}, {"a": 10**12}])
def test_sizes_of_other_heads(saved, value):
    rewrite(saved, set_field("sizes", "heads", value=value))
    refused(saved, "`heads` must be integers between")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("dim", ("8", 8.0, True, -1, 0, 10**9, 10**400, [8], float("inf"))),
        ("n_heads", ("2", 2.0, True, -1, 0, 10**9, 3)),
        ("n_layers", ("1", 1.0, True, -1, 0, 10**7)),
        ("feedforward", ("1", 1.0, True, -1, 0, 10**9)),
        ("max_peaks", ("1", 1.0, True, -1, 0, 10**12)),
        ("dropout", ("0", True, -1, 1, float("nan"), float("inf"), 10**400)),
        ("encoder", (None, 3, "../../x", ["set"], {}, "set")),
        ("objective", (None, 3, "mse", [], "peaks")),
        ("decoder", (None, 3, "x", {})),
        ("values", (None, 1, "true", 0)),
        ("n_experts", (8,)),
    ],
)
def test_architecture(transformer, name, values):
    for value in values:
        rewrite(transformer, set_field("model", name, value=value))
        refused(transformer, "config.json|safetensors")


@pytest.mark.parametrize("name", ["dim", "n_layers", "feedforward"])
@pytest.mark.parametrize("at", ["model", "sizes"])
def test_the_largest_network_takes_no_memory_before_it_is_refused(transformer, at, name):
    """Of the limits, and of sizes at their limit."""
    from epifoundation.nn.config import MAX_SIZE, WHOLE

    sizes = [each for each in Sizes(1).to_dict() if each.startswith("n_")]
    if at == "model":
        rewrite(transformer, set_field("model", name, value=WHOLE[name]))
    else:
        for size in set(sizes) - {"n_peaks", "n_genes", "n_labels", "n_label_layers"}:
            rewrite(transformer, set_field("sizes", size, value=MAX_SIZE))
        rewrite(transformer, set_field("training", value={}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    refused(transformer, "shape|missing")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e8
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_field("format_version", value="2"), "format version '2'"),
        (set_field("format_version", value=True), "format version True"),
        (set_field("format_version", value=-1), "format version -1"),
        (set_field("genome", value="../../etc"), "`genome` must be the name .*without slashes"),
        (set_field("genome", value="C:\\x"), "`genome` must be"),
        (set_field("genome", value=".."), "`genome` must be"),
        (set_field("genome", value="x" * 1000), "`genome` must be"),
        (set_field("genome", value=38), "`genome` must be a string, got 38"),
        (set_field("sha256", "README.md", value=5), "`sha256` of 'README.md' must be .*got 5"),
        (set_field("sha256", "README.md", value="../x"), "64 hexadecimal digits, got '../x'"),
        (set_field("sha256", "/etc/hostname", value="0" * 64), "'/etc/hostname', which is not"),
        (set_field("sha256", "../x", value="0" * 64), "'../x', which is not a file of a model"),
        (set_field("sha256", value=[]), r"`sha256` must be an object, got \[\]"),
        (set_field("sizes", value=None), "`sizes` must be an object, got None"),
        (set_field("sizes", "n_x", value=1), r"missing or wrong \['n_x'\]"),
        (set_field("training", value=[]), "`training` must be an object"),
        (set_field("training", "history", value="x"), r"`training\['history'\]` must be a list"),
        (set_field("training", "history", value=[{"train": "x"}]), "numbers for each epoch"),
        (set_field("training", "batches", value=5), r"`training\['batches'\]` must be a list"),
        (set_field("training", "batches", value=["a", "a"]), "must be unique"),
        (set_field("training", "batches", value=["a"]), "has 1 names, but the network has 2"),
        (set_field("adapter_of", value={"model": 3, "revision": "x"}), "adapter_of"),
    ],
)
def test_configuration(saved, change, message):
    rewrite(saved, change)
    refused(saved, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "RecursionError"),
        ('{"a":' * 100_000, "RecursionError"),
        ('{"format_version": 2, "format_version": 1}', "'format_version' occurs twice"),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "JSONDecodeError"),
        ("9" * 10_000, "ValueError"),
        ("[1]", "must be an object"),
        ('"text"', "must be an object"),
    ],
)
def test_text_of_the_configuration(saved, text, message):
    (saved / "config.json").write_text(text)
    refused(saved, r"config\.json", message)


def test_a_configuration_that_was_altered_is_named(saved):
    path = saved / "config.json"
    text = path.read_text()
    for old, new in (("counts", "gaussian"), ("hg38", "hg19"), ('"batch0"', '"batch9"')):
        assert old in text
        path.write_text(text.replace(old, new))
        refused(saved, r"config\.json' is damaged: it was altered")
    config = json.loads(text)
    config["sha256"].pop("cells.safetensors")
    path.write_text(json.dumps(config))
    refused(saved, r"config\.json' is damaged: it was altered")
    path.write_text(json.dumps(json.loads(text), indent=7))  # formatted by another program
    ep.models.from_pretrained(saved)


def test_models_without_a_digest_of_the_configuration_are_read(saved):
    """Those of earlier versions."""
    expected = ep.models.from_pretrained(saved).revision
    rewrite(saved, lambda config: config.pop("config_sha256"))
    assert ep.models.from_pretrained(saved).revision == expected


def change_cells(directory, change):
    arrays = load_arrays(directory / "cells.safetensors")
    write(directory, "cells.safetensors", save_arrays(change(arrays) or arrays))


def cell(name, function):
    return lambda arrays: arrays | {name: np.ascontiguousarray(function(arrays[name]))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cell("encoder.hashes", lambda x: x[::-1]), "hashes are not ascending"),
        (cell("encoder.hashes", lambda x: x.astype(float)), "types float64"),
        (cell("encoder.codes", lambda x: x + np.uint8(200)), "it has the column 2.. of 8"),
        (cell("encoder.codes", lambda x: x[:-1]), "shapes"),
        (cell("encoder.weights", lambda x: np.full_like(x, 255)), "add up to more than 1"),
        (cell("labels.codes", lambda x: x + np.uint8(4)), "it has the column . of 4"),
        (lambda arrays: {f"x.{k}": v for k, v in arrays.items()}, "keys"),
        (lambda arrays: arrays | {"encoder.x": np.zeros(1)}, "unexpected arrays"),
        (lambda arrays: {k: v for k, v in arrays.items() if "codes" not in k}, "lacks"),
    ],
)
def test_training_cells(saved, change, message):
    change_cells(saved, change)
    refused(saved, r"cells\.safetensors", message)


@pytest.fixture
def adapter(saved, simulated, tmp_path):
    base = ep.models.from_pretrained(saved)
    tuned = ep.tl.finetune(simulated["atac"][:200].copy(), base, label_key="cell_type")
    return tuned.save_adapter(tmp_path / "adapter")


def test_adapters(adapter):
    tensors = load((adapter / "adapter.safetensors").read_bytes())
    name = "label.linear.weight"
    for changed, message in (
        ({name: tensors[name] * torch.nan}, "label.linear.weight has NaN"),
        ({name: tensors[name].double()}, "with type torch.float32, got torch.float64"),
        ({name: tensors[name].to(torch.int8)}, "got torch.int8"),
        ({name: tensors[name][:1].clone()}, "expected label.linear.weight with shape"),
        ({"encoder.vectors.weight.left": tensors[name].clone()}, "unexpected"),
        (
            {
                "encoder.readout.weight.left": torch.zeros(7, 1).half(),
                "encoder.readout.weight.right": torch.zeros(1, 8).half(),
            },
            "two factors of encoder.readout.weight",
        ),
    ):
        write(adapter, "adapter.safetensors", save(tensors | changed))
        refused(adapter, r"adapter\.safetensors", message)
    write(adapter, "adapter.safetensors", save(tensors))
    ep.models.from_pretrained(adapter)


def test_an_adapter_of_itself_is_refused(adapter):
    rewrite(adapter, lambda config: config["adapter_of"].update(model=str(adapter)))
    refused(adapter, "and thereby of itself")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["T"] * 3}, "`labels` must be unique: 'T' is at the positions 0 and 1"),
        ({"labels": ["a", "b"]}, "`labels` has 2 labels, but the network has 3"),
        ({"labels": "abc"}, "`labels` must be a list of strings, got str"),
        ({"labels": ["a", "b", ""]}, "got '' at position 2"),
        ({"labels": ["a", "b", 3]}, "got 3 at position 2"),
        ({"labels": None}, "got NoneType"),
        ({"genes": ep.GeneVocabulary(["a"])}, "`genes` has 1 genes, but the network has 4"),
        ({"genes": ep.GeneVocabulary(["a", "b", "", "c"])}, "`genes` must be strings"),
        ({"peaks": ep.PeakVocabulary.from_names(["chr1:1-2"])}, "`peaks` has 1 peaks"),
        ({"training": {"batches": ["x"]}}, "has 1 names, but the network has 2"),
        ({"training": []}, "`training` must be a dictionary"),
        ({"cells": {"x": None}}, "`cells` must be a dictionary with the keys"),
    ],
)
def test_in_memory(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(random_transformer(), **changes)


def test_other_classes_weights_and_assignments_are_refused_in_memory():
    model = random_transformer()
    for changes in ({"network": None}, {"peaks": ["chr1:1-2"]}, {"genes": ["a"]}, {"name": 3}):
        with pytest.raises(TypeError, match=f"`{next(iter(changes))}` must be a"):
            replace(model, **changes)
    with pytest.raises(AttributeError):
        model.labels = ["T"] * 3
    codes = np.array([[9]], np.uint8)
    cells = CountedCells(np.array([1], np.uint64), codes, np.zeros((1, 0), np.uint8))
    with pytest.raises(ValueError, match=r"`cells\['labels'\]` is damaged: it has the column 9"):
        replace(model, cells={"labels": cells})
    with torch.no_grad():
        model.network.label.linear.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"label\.linear\.weight has NaN"):
        replace(model, card="x")


def test_what_cannot_be_written_is_refused_before(tmp_path):
    model = random_transformer()
    odd = model.peaks.intervals.assign(chrom=["a\nb"] * N_PEAKS)
    for changes, message in (
        ({"training": {"x": {1, 2}}}, "`training` must have JSON types"),
        ({"peaks": ep.PeakVocabulary(odd, genome="hg38")}, "The names of chromosomes or genes"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            replace(model, **changes).save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", [None, 5, b"x", ["x"]])
def test_names_of_models_are_strings_or_paths(name):
    with pytest.raises(TypeError, match="`name_or_path` must be a string or a path"):
        ep.models.from_pretrained(name)
    with pytest.raises(ValueError, match="has memory, got 'meta'"):
        ep.models.from_pretrained("pbmc-51loci", device="meta")


def test_sealing_changes_nothing_else(saved):
    """The helpers of these tests."""
    expected = ep.models.from_pretrained(saved).revision
    for file in ("labels.json", "model.safetensors"):
        reseal(saved, file)
    change_weights(saved, lambda tensors: None)
    change_cells(saved, lambda arrays: None)
    assert ep.models.from_pretrained(saved).revision == expected
