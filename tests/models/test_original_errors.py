"""Original checkpoints that cannot be converted: one line names what is wrong."""

import pytest
import torch
from oracles.checkpoint import Made, table

import epifoundation as ep


@pytest.fixture
def made(tmp_path):
    return Made(
        tmp_path / "original", n_layers=2, feedforward=24, n_batches=3, n_types=4, values=True
    )


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
    ("content", "message"),
    [
        ("{", r"atac_vocab\.json' is not JSON, or is truncated"),
        ("[1]", r"atac_vocab\.json' contains a list; expected one JSON object"),
        ('{"<pad>": 0, "<cls>": 2}', "must number its 2 tokens from 0 without gaps"),
        ('{"<pad>": 0, "chr1-1-2": "x"}', "must number its 2 tokens"),
    ],
)
def test_vocabularies_that_are_none_are_named(made, content, message):
    (made.folder / "atac_vocab.json").write_text(content)
    with pytest.raises(ValueError, match=message):
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


def test_chromosomes_with_other_names_warn(made):
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
    for message in (
        "missing norm.bias",
        "missing chr_emb.enc_norm.weight",
        "unexpected aux_decoder.weight",
        "mvc_decoder.fc1.weight has shape (128, 5) rather than (128, 192)",
    ):
        assert message in str(error.value)
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
    ("content", "message"),
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
def test_files_with_something_else_are_refused(made, content, message):
    torch.save(content, made.folder / "checkpoint.pth")
    with pytest.raises(ValueError, match=message) as error:
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
