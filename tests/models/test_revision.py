"""A revision is that of all content, however it is written, and of nothing else."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save
from sealing import random_transformer, rewrite, write

import epifoundation as ep
from epifoundation.nn import Network


def with_network(model, config=None, sizes=None, change=lambda tensors: None):
    network = Network(config or model.config, sizes or model.network.sizes)
    tensors = {name: part.clone() for name, part in model.network.state_dict().items()}
    change(tensors)
    network.load_state_dict(tensors)
    return replace(model, network=network)


def one_bit(tensors):
    part = tensors["label.linear.weight"].view(torch.int32)
    part[0, 0] ^= 1


def variants(model):
    """Models that give other results, by what was changed."""
    peaks, genes, cells = model.peaks, model.genes, dict(model.cells)
    moved = peaks.intervals.assign(end=peaks.intervals["end"] + 1)
    fewer = replace(cells["encoder"], **{k: v[1:] for k, v in vars(cells["encoder"]).items()})
    return {
        "labels": replace(model, labels=model.labels[::-1]),
        "label": replace(model, labels=[f"{label}s" for label in model.labels]),
        "genes": replace(model, genes=ep.GeneVocabulary(genes.names[::-1], genes.ids)),
        "ids": replace(model, genes=ep.GeneVocabulary(genes.names, genes.names[::-1])),
        "peaks": replace(model, peaks=ep.PeakVocabulary(moved, peaks.genome)),
        "genome": replace(model, peaks=ep.PeakVocabulary(peaks.intervals, "hg19")),
        "objective": with_network(model, replace(model.config, objective="gaussian")),
        "bins": with_network(model, sizes=replace(model.network.sizes, n_bins=5)),
        "batches": replace(model, training=model.training | {"batches": ["x", "y"]}),
        "held out": replace(model, training=model.training | {"validation": ["batch1"]}),
        "weights": with_network(model, change=one_bit),
        "no cells": replace(model, cells={}),
        "cells": replace(model, cells=cells | {"encoder": fewer}),
    }


def test_each_part_changes_it_and_comes_back(model, tmp_path):
    found = variants(model)
    revisions = {model.revision, *(each.revision for each in found.values())}
    assert len(revisions) == len(found) + 1
    for name, each in found.items():
        again = ep.models.from_pretrained(each.save_pretrained(tmp_path / name))
        assert again.revision == each.revision, name
        former = {"weights", "no cells", "cells"}  # all that it depended on in earlier versions
        assert (each._former_revision != model._former_revision) == (name in former)
        assert again._former_revision == each._former_revision


def test_names_and_cards_do_not_matter(model):
    history = model.training | {"history": [{"train": 1.0}], "package_version": "9"}
    for changes in ({"name": "x"}, {"card": "# x"}, {"training": history}):
        assert replace(model, **changes).revision == model.revision


def test_the_format_of_the_files_does_not_matter(model, tmp_path):
    path = model.save_pretrained(tmp_path / "model")
    bed = gzip.decompress((path / "peaks.bed.gz").read_bytes())
    tensors = load_file(path / "model.safetensors")
    labels = json.dumps(model.labels, indent=3).encode()
    genes = (path / "genes.tsv").read_bytes().replace(b"\n", b"\r\n")
    for file, content in (
        ("peaks.bed.gz", gzip.compress(b"# another program\n" + bed, 1)),
        ("model.safetensors", save(dict(reversed(tensors.items())), {"format": "pt"})),
        ("labels.json", labels),
        ("genes.tsv", genes),
        ("README.md", b"# Another card"),
    ):
        assert (path / file).read_bytes() != content
        write(path, file, content)
    assert ep.models.from_pretrained(path).revision == model.revision


def test_it_is_the_same_on_each_machine_and_in_each_version():
    """Of the bundled model; results in data and adapters name it."""
    model = ep.models.from_pretrained("pbmc-51loci")
    assert (model.revision, model._former_revision) == ("28ef365dda32", "4bf1bbd9ae73")


def test_cells_of_models_that_differ_in_labels_only_are_not_mixed(model, simulated):
    atac = ep.tl.embed(simulated["atac"][:50].copy(), model, copy=True)
    with pytest.raises(ValueError, match="cells of two models cannot be compared"):
        ep.tl.annotate(atac, replace(model, labels=model.labels[::-1]))


WORDS = (
    st.text(max_size=5) | st.text('\t\n\r"#, tab', max_size=4) | st.sampled_from(["NA", "track"])
)


@given(
    genes=st.lists(WORDS, min_size=4, max_size=4, unique=True),
    labels=st.lists(WORDS, min_size=3, max_size=3, unique=True),
    chrom=st.sampled_from(["chr1", "1", "HiC 9"]) | WORDS,
    genome=st.sampled_from(["hg38", "GRCm38", "my build"]) | WORDS,
)
def test_any_names_come_back_or_are_refused(genes, labels, chrom, genome, tmp_path_factory):
    model = random_transformer()
    path = tmp_path_factory.mktemp("names") / "model"
    intervals = model.peaks.intervals.copy()
    intervals.loc[0, "chrom"] = chrom
    try:
        peaks = ep.PeakVocabulary(intervals, genome=genome)
        changes = {"genes": ep.GeneVocabulary(genes, labels + genes[:1]), "labels": labels}
        model = replace(model, peaks=peaks, **changes)
        model.save_pretrained(path)
    except ValueError as refusal:
        assert not path.exists(), refusal  # noqa: PT017
        return
    again = ep.models.from_pretrained(path)
    assert again.revision == model.revision
    assert (again.labels, again.genes.names, again.peaks.genome) == (labels, genes, peaks.genome)


def as_before(directory, **changes):
    """The configuration as earlier versions wrote it."""
    rewrite(directory, lambda config: config.update(changes))
    rewrite(directory, lambda config: config.pop("config_sha256"))


def test_adapters_of_earlier_versions_are_read(model, simulated, tmp_path):
    base = ep.models.from_pretrained(model.save_pretrained(tmp_path / "base"))
    data = simulated["atac"][:200].copy()
    tuned = ep.tl.finetune(data, base, label_key="cell_type")
    path = tuned.save_adapter(tmp_path / "first")
    of = {"model": str(tmp_path / "base"), "revision": base._former_revision}
    as_before(path, adapter_of=of, revision="0123456789ab")
    first = ep.models.from_pretrained(path)
    assert first.revision == tuned.revision
    last = ep.tl.finetune(data, first, batch_key="batch")
    path = last.save_adapter(tmp_path / "last")
    as_before(path, adapter_of={"model": str(tmp_path / "first"), "revision": "0123456789ab"})
    again = ep.models.from_pretrained(path)
    assert again.revision == last.revision
    rewrite(path, lambda config: config["adapter_of"].update(revision="ba9876543210"))
    with pytest.raises(ValueError, match=r"first' has the revision .*Pass the right model"):
        ep.models.from_pretrained(path)


def test_updates_are_the_same_in_any_order_of_summation():
    """Sums of products of half-precision factors are exact, so the revision is everywhere equal."""
    rng = np.random.default_rng(0)
    left, right = (
        torch.from_numpy(rng.normal(scale=scale, size=size)).half()
        for scale, size in ((0.05, (300, 64)), (0.7, (64, 40)))
    )
    order = torch.from_numpy(rng.permutation(64))
    one, other = (
        a.double() @ b.double() for a, b in ((left, right), (left[:, order], right[order]))
    )
    assert torch.equal(one, other)
    single, shuffled = (
        a.float() @ b.float() for a, b in ((left, right), (left[:, order], right[order]))
    )
    assert not torch.equal(single, shuffled)
