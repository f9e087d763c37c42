"""Conversion of original checkpoints: the same numbers, and a name for everything that is wrong."""

import collections
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.original import SPECIAL, Original, pad

import epifoundation as ep
from epifoundation import cli

CHROMOSOMES = ["chr1", "chr2", "chrX"]
GOLDEN = ("pretrain", "value_finetune_batch")


def table(names, *, special=True):
    return {name: i for i, name in enumerate([*(SPECIAL if special else []), *names])}


class Made:
    """An original checkpoint with its files, and what the plain implementation computes from it."""

    def __init__(
        self,
        folder,
        *,
        seed=0,
        n_peaks=40,
        n_genes=12,
        n_heads=4,
        width=8,
        chromosomes=True,
        **options,
    ):
        generator = np.random.default_rng(seed)
        self.folder = folder
        folder.mkdir(exist_ok=True)
        chroms = generator.choice([*CHROMOSOMES, "chrUn"], n_peaks)  # one that the vocabulary lacks
        peaks = [f"{chrom}-{1000 * i}-{1000 * i + 300}" for i, chrom in enumerate(chroms)]
        genes = [f"GENE{i}" for i in range(n_genes)]
        gene2chr = {gene: str(generator.choice(CHROMOSOMES)) for gene in genes}
        known = table(CHROMOSOMES)
        self.vocabularies = {"atac": table(peaks), "rna": table(genes)}
        rows = None
        if chromosomes:
            self.vocabularies |= {"chr": known, "gene2chr": gene2chr}
            of_peaks = [0, 1, 2, 3, *(known.get(chrom, 0) for chrom in chroms)]
            of_genes = [0, 1, 2, 3, *(known[gene2chr[gene]] for gene in genes)]
            rows = torch.tensor(of_peaks), torch.tensor(of_genes)
        if options.get("n_batches"):
            self.vocabularies["batch"] = table(
                [f"b{i}" for i in range(options["n_batches"])], special=False
            )
        if options.get("n_types"):
            self.vocabularies["cell"] = table(
                [f"t{i}" for i in range(options["n_types"])], special=False
            )
        torch.manual_seed(seed)
        self.plain = Original(
            n_peaks,
            n_genes,
            dim=n_heads * width,
            n_heads=n_heads,
            n_chromosomes=len(CHROMOSOMES) if chromosomes else 0,
            peak_chromosomes=rows[0] if rows else None,
            gene_chromosomes=rows[1] if rows else None,
            **options,
        ).randomise(seed)
        self.state = self.plain.state_dict()
        self.save()
        lengths = torch.tensor([1, 7, n_peaks, 12])
        cells = [
            torch.from_numpy(np.sort(generator.permutation(n_peaks)[:n])) for n in lengths.tolist()
        ]
        self.ids, self.offsets = torch.cat(cells), torch.tensor([0, *lengths.cumsum(0).tolist()])
        self.batch = torch.arange(4) % options["n_batches"] if options.get("n_batches") else None
        self.expected = self.plain(pad(self.ids, self.offsets, n_peaks + 5), self.batch)
        self.n_heads = n_heads

    def save(self, **more):
        torch.save(
            {"model": self.state, "epoch": 3, "steps": 10} | more, self.folder / "checkpoint.pth"
        )
        for kind, content in self.vocabularies.items():
            name = "gene2chr.json" if kind == "gene2chr" else f"{kind}_vocab.json"
            (self.folder / name).write_text(json.dumps(content))

    def convert(self, **options):
        options = {"n_heads": self.n_heads} | options
        return ep.models.convert_original(self.folder / "checkpoint.pth", self.folder, **options)


def outputs(model, ids, offsets, batch):
    """What the documentation says that the original's outputs are called here."""
    network = model.network
    embedding = network.folded().encode(ids, offsets)
    result = {"cell_emb": embedding, "mvc_pred": network.expression.outputs(embedding, batch)}
    if network.expression.values is not None:
        result["value_pred"] = network.expression.predicted_values(embedding, batch)
    if network.label is not None:
        result["cell_pred"] = network.label.logits(embedding)
    return result


def compare(found, expected):
    assert set(found) == set(expected)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5, rtol=0, err_msg=name)


@pytest.fixture
def made(tmp_path):
    return Made(
        tmp_path / "original", n_layers=2, feedforward=24, n_batches=3, n_types=4, values=True
    )


@pytest.fixture(scope="session")
def upstream(shared_data):
    return shared_data.parent / "upstream"


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_outputs_of_the_original_implementation(upstream, name):
    folder = upstream / name
    expected = dict(np.load(folder / "expected.npz"))
    model = ep.models.convert_original(folder / "checkpoint.pth", folder)
    ids, offsets = (torch.from_numpy(expected.pop(key)) for key in ("indices", "indptr"))
    batch = torch.from_numpy(expected.pop("batch")) if model.network.sizes.n_batches else None
    expected.pop("batch", None)
    assert 1 in offsets.diff()
    compare(outputs(model, ids, offsets, batch), expected)
    trained = model.network.encode(ids, offsets)
    torch.testing.assert_close(trained, torch.from_numpy(expected["cell_emb"]), atol=1e-5, rtol=0)
    rough = model.network.folded(torch.bfloat16).encode(ids, offsets)
    assert torch.cosine_similarity(rough, trained).min() >= 0.999


def test_the_command_line_converts(made, tmp_path, capsys):
    arguments = [
        "convert",
        str(made.folder / "checkpoint.pth"),
        str(made.folder),
        "-o",
        str(tmp_path / "model"),
    ]
    cli.main([*arguments, "--n-heads", str(made.n_heads), "--no-labels", "--genome", "mm10"])
    assert capsys.readouterr().out == f"{tmp_path / 'model'}\n"
    model = ep.models.from_pretrained(tmp_path / "model")
    assert model.revision == made.convert(labels=False, genome="mm10").revision
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--n-heads", str(made.n_heads)])
    assert end.value.code == 1
    assert "FileExistsError" in capsys.readouterr().err


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_outputs_through_embed(upstream, name):
    """The whole way: an AnnData with the peaks in another order, from a saved and loaded model."""
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    folder = upstream / name
    expected = dict(np.load(folder / "expected.npz"))
    model = ep.models.convert_original(folder / "checkpoint.pth", folder)
    n_cells = len(expected["indptr"]) - 1
    pattern = sp.csr_matrix(
        (np.ones(len(expected["indices"])), expected["indices"], expected["indptr"]),
        (n_cells, len(model.peaks)),
    )
    order = np.random.default_rng(0).permutation(len(model.peaks))
    batches = [f"batch_{i}" for i in expected["batch"]]
    obs = pd.DataFrame({"batch": batches}, index=[f"cell{i}" for i in range(n_cells)])
    atac = anndata.AnnData(
        pattern[:, order], obs=obs, var=pd.DataFrame(index=model.peaks.names[order])
    )
    batch_key = "batch" if model.training["batches"] else None
    ep.tl.embed(atac, model, batch_key=batch_key)
    np.testing.assert_allclose(
        atac.obsm["X_epifoundation"], expected["cell_emb"], atol=1e-5, rtol=0
    )
    logits = torch.from_numpy(expected["mvc_pred"])
    wanted = expected.get("value_pred", logits.softmax(-1)[..., 1])
    np.testing.assert_allclose(atac.obsm["epifoundation_expression"], wanted, atol=1e-5, rtol=0)
    probabilities = torch.from_numpy(expected["cell_pred"]).softmax(-1)
    np.testing.assert_allclose(
        atac.obsm["epifoundation_probabilities"], probabilities, atol=1e-5, rtol=0
    )
    assert list(atac.obsm["epifoundation_probabilities"]) == [
        f"type_{i}" for i in range(probabilities.shape[1])
    ]
    assert list(atac.obsm["epifoundation_expression"]) == model.genes.names


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {
            "seed": st.integers(0, 1000),
            "n_heads": st.sampled_from([1, 2, 4, 8]),
            "width": st.sampled_from([4, 8, 12]),
            "n_layers": st.integers(1, 3),
            "feedforward": st.sampled_from([16, 40]),
            "chromosomes": st.booleans(),
            "n_batches": st.sampled_from([0, 1, 3]),
            "n_types": st.sampled_from([0, 1, 5]),
            "n_bins": st.sampled_from([2, 4]),
            "values": st.booleans(),
        }
    )
)
def test_any_shape_of_checkpoint_gives_the_numbers_of_a_plain_implementation(tmp_path, options):
    shutil.rmtree(tmp_path / "any", ignore_errors=True)
    made = Made(tmp_path / "any", **options)
    compare(outputs(made.convert(), made.ids, made.offsets, made.batch), made.expected)


def test_names_and_options_come_along(made, tmp_path):
    model = made.convert(genome="hg19", max_peaks=99)
    assert model.labels == ["t0", "t1", "t2", "t3"]
    assert model.genes.names == [f"GENE{i}" for i in range(12)]
    assert model.training["batches"] == ["b0", "b1", "b2"]
    assert (model.training["epoch"], model.training["steps"]) == (3, 10)
    assert (model.peaks.genome, model.config.max_peaks, model.config.n_heads) == ("hg19", 99, 4)
    assert model.device.type == "cpu"
    again = ep.models.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    compare(outputs(again, made.ids, made.offsets, made.batch), made.expected)
    assert again.config == model.config
    assert again.network.encoder.tokens.chromosome_of.dtype == torch.int64
    assert {file.suffix for file in (tmp_path / "saved").iterdir()} == {
        ".json",
        ".safetensors",
        ".gz",
        ".tsv",
        ".md",
    }


def test_the_state_may_be_bare_half_precise_compiled_or_of_parallel_training(made):
    for change in (
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: collections.OrderedDict(state),
    ):
        torch.save({"model": change(made.state)}, made.folder / "checkpoint.pth")
        compare(outputs(made.convert(), made.ids, made.offsets, made.batch), made.expected)
    torch.save(made.state, made.folder / "checkpoint.pth")
    compare(outputs(made.convert(), made.ids, made.offsets, made.batch), made.expected)
    half = {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor
        for name, tensor in made.state.items()
    }
    torch.save({"model": half}, made.folder / "checkpoint.pth")
    assert all(
        t.dtype in (torch.float32, torch.int64)
        for t in made.convert().network.state_dict().values()
    )


def test_vocabularies_may_be_a_mapping_of_files_or_of_contents(made):
    path = made.folder / "checkpoint.pth"
    as_content = ep.models.convert_original(path, made.vocabularies, n_heads=4)
    files = {kind: made.folder / f"{kind}_vocab.json" for kind in made.vocabularies}
    files["gene2chr"] = str(made.folder / "gene2chr.json")
    as_files = ep.models.convert_original(path, files, n_heads=4)
    for model in (as_content, as_files):
        compare(outputs(model, made.ids, made.offsets, made.batch), made.expected)
    with pytest.raises(
        ValueError, match=r"Unknown vocabularies \['peaks'\]; the names are \['atac', 'rna'"
    ):
        ep.models.convert_original(path, {"peaks": made.vocabularies["atac"]})


def test_files_that_are_called_a_little_otherwise_are_found(made):
    (made.folder / "cell_vocab.json").rename(made.folder / "cell_pbmc.json")
    (made.folder / "batch_vocab.json").rename(made.folder / "pbmc_batch_vocab.json")
    assert made.convert().labels == ["t0", "t1", "t2", "t3"]


def test_heads_are_those_of_the_configuration_else_eight(made):
    (made.folder / "config.json").write_text(json.dumps({"head_num": 4, "head_dim": 24}))
    assert made.convert(n_heads=None).config.n_heads == 4
    assert made.convert(n_heads=2).config.n_heads == 2
    files = {
        kind: made.folder / f"{kind}_vocab.json" for kind in made.vocabularies if kind != "gene2chr"
    }
    files["gene2chr"] = made.folder / "gene2chr.json"
    (made.folder / "elsewhere").mkdir()
    elsewhere = shutil.copy(made.folder / "checkpoint.pth", made.folder / "elsewhere")
    assert ep.models.convert_original(elsewhere, files).config.n_heads == 4
    (made.folder / "config.json").unlink()
    assert made.convert(n_heads=None).config.n_heads == 8
    with pytest.raises(
        ValueError, match="`n_heads` must be a divisor of the width 32.*got 5.*`head_num`"
    ):
        made.convert(n_heads=5)


def test_the_cell_type_head_can_be_left_out_with_its_vocabulary(made):
    (made.folder / "cell_vocab.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"No 'cell_vocab.json' \(cell types\).*or pass `labels=False`"
    ):
        made.convert()
    model = made.convert(labels=False)
    assert model.labels == []
    assert model.network.label is None


@pytest.mark.parametrize(
    "file",
    ["atac_vocab.json", "rna_vocab.json", "chr_vocab.json", "gene2chr.json", "batch_vocab.json"],
)
def test_a_missing_vocabulary_is_named(made, file):
    (made.folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"No '{file}'.*the checkpoint needs it"):
        made.convert()
    assert not [path for path in made.folder.iterdir() if path.suffix not in (".pth", ".json")]


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [
        ("atac", "atac_emb"),
        ("rna", "rna_emb"),
        ("chr", "chr_emb"),
        ("batch", "batch_emb"),
        ("cell", "cls_decoder.out_layer"),
    ],
)
def test_vocabularies_that_do_not_fit_their_tensors_are_named(made, kind, tensor):
    names = made.vocabularies[kind]
    made.vocabularies[kind] = names | {"one more": len(names)}
    made.save()
    with pytest.raises(
        ValueError,
        match=rf"{kind}_vocab\.json' names {len(names) + 1} .*{tensor}.* has {len(names)} ",
    ):
        made.convert()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", r"atac_vocab\.json' is not JSON, or is truncated"),
        ("[1]", r"atac_vocab\.json' contains a list; expected one JSON object"),
        ('{"<pad>": 0, "<cls>": 2}', "must number its 2 tokens from 0 without gaps"),
        ('{"<pad>": 0, "chr1-1-2": "x"}', "must number its 2 tokens"),
    ],
)
def test_vocabularies_that_are_none_are_named(made, content, said):
    (made.folder / "atac_vocab.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        made.convert()


def test_vocabularies_without_special_tokens_or_intervals_are_named(made):
    atac = made.vocabularies["atac"]
    made.vocabularies["atac"] = {
        name.replace("<cls>", "<s>"): index for name, index in atac.items()
    }
    made.save()
    with pytest.raises(ValueError, match=r"atac_vocab\.json' lacks the special tokens \['<cls>'\]"):
        made.convert()
    made.vocabularies["atac"] = {
        name if index < 10 else f"peak{index}": index for name, index in atac.items()
    }
    made.save()
    with pytest.raises(
        ValueError, match=r"atac_vocab\.json': 34 of 40 peak names are not genomic intervals"
    ):
        made.convert()


def test_chromosomes_that_are_written_otherwise_are_told(made):
    made.vocabularies["gene2chr"] = {
        gene: chrom.removeprefix("chr") for gene, chrom in made.vocabularies["gene2chr"].items()
    }
    made.save()
    with pytest.warns(
        UserWarning,
        match=r"No gene lies on a chromosome of the .* vocabulary: '[12X]' against \['chr1'",
    ):
        made.convert()


def test_vocabularies_of_special_tokens_alone_and_weights_that_are_none_are_named(made):
    made.state["norm.weight"] = made.state["norm.weight"] * float("nan")
    made.save()
    with pytest.raises(ValueError, match="norm.weight has NaN or infinite values"):
        made.convert()
    made.state["norm.weight"] = torch.ones(32)
    made.vocabularies["rna"] = table([])
    made.state["rna_emb.embedding.weight"] = made.state["rna_emb.embedding.weight"][:4]
    made.save()
    with pytest.raises(ValueError, match=r"rna_vocab\.json' names no genes, only special tokens"):
        made.convert()


def test_genes_without_a_chromosome_are_named(made):
    del made.vocabularies["gene2chr"]["GENE3"]
    made.save()
    with pytest.raises(ValueError, match=r"gene2chr\.json' lacks 1 of the 12 genes, first 'GENE3'"):
        made.convert()


def test_every_missing_unexpected_or_ill_shaped_tensor_is_named(made):
    del made.state["norm.bias"], made.state["chr_emb.enc_norm.weight"]
    made.state["aux_decoder.weight"] = torch.zeros(3)
    made.state["mvc_decoder.fc1.weight"] = torch.zeros(128, 5)
    made.save()
    with pytest.raises(ValueError, match="are not those of EpiFoundation") as error:
        made.convert()
    for said in (
        "missing norm.bias",
        "missing chr_emb.enc_norm.weight",
        "unexpected aux_decoder.weight",
        "mvc_decoder.fc1.weight has shape (128, 5) rather than (128, 192)",
    ):
        assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_layer_that_is_missing_from_the_middle_is_named(made):
    names = [name for name in made.state if ".layers.0." in name]
    for name in names:
        made.state[name.replace(".layers.0.", ".layers.3.")] = made.state[name]
    made.save()
    with pytest.raises(
        ValueError, match=r"missing encoder\.transformer_encoder\.layers\.2\.self_attn"
    ):
        made.convert()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"optimizer": {"state": {}}, "epoch": 3},
            r"contains no weights: its entries are \['epoch', 'optimizer'\].*state of the training",
        ),
        ({"model": {}}, "contains no weights"),
        ({"model": {"a": 1}}, "contains no weights"),
        ([1, 2], "contains a list"),
        (
            {"model": {"bert.weight": torch.zeros(2, 2)}},
            r"is not a checkpoint of EpiFoundation: it lacks.*\['bert.weight'\]",
        ),
    ],
)
def test_files_with_something_else_are_refused(made, content, said):
    torch.save(content, made.folder / "checkpoint.pth")
    with pytest.raises(ValueError, match=said) as error:
        made.convert()
    assert "\n" not in str(error.value)


def test_a_pickle_that_runs_code_is_refused_and_not_run(made):
    made.save(extra=Payload())
    with pytest.raises(ValueError, match=r"is refused:.*unpickling it would run code") as error:
        made.convert()
    assert "\n" not in str(error.value)
    assert not Payload.ran


class Payload:
    ran = False

    def __reduce__(self):
        return (_run, ())


def _run():
    Payload.ran = True


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "pickle"])
def test_damaged_checkpoints_are_refused_in_one_line(made, damage):
    path = made.folder / "checkpoint.pth"
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "empty": b"",
            "text": b"hello",
            "pickle": b"\x80\x02K\x01.",
        }[damage]
    )
    with pytest.raises(ValueError, match=r"checkpoint\.pth'") as error:
        made.convert()
    assert "\n" not in str(error.value)


def test_paths_that_are_no_files_are_told_apart(made, tmp_path):
    path = made.folder / "checkpoint.pth"
    with pytest.raises(
        FileNotFoundError,
        match=r"The checkpoint .*original' is a directory; pass the \.pth file in it",
    ):
        ep.models.convert_original(made.folder, made.folder)
    with pytest.raises(FileNotFoundError, match="nothing' does not exist"):
        ep.models.convert_original(tmp_path / "nothing", made.folder)
    with pytest.raises(
        FileNotFoundError, match="The directory of vocabularies .*nothing' does not exist"
    ):
        ep.models.convert_original(path, tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="is a file; pass the directory"):
        ep.models.convert_original(path, made.folder / "atac_vocab.json")
    with pytest.raises(
        ValueError, match="contains a checkpoint of the original implementation.*convert_original"
    ):
        ep.models.from_pretrained(made.folder)


def test_no_flash_attn_is_imported_or_asked_for(upstream, forks, tmp_path):
    folder = f"{upstream}/pretrain"
    code = (
        "import sys; sys.modules['flash_attn'] = None; import epifoundation as ep, torch;"
        f"network = ep.models.convert_original('{folder}/checkpoint.pth', '{folder}').network;"
        "cells = torch.arange(5), torch.tensor([0, 5]);"
        "network.folded().encode(*cells); network.encode(*cells)"
    )
    (tmp_path / "script.py").write_text(code)
    process = forks.start(tmp_path / "script.py")
    assert process.communicate()[1] == ""
    assert process.returncode == 0
