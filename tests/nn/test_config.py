"""Configurations: round trip, unknown keys, impossible values, and options that do not apply."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epifoundation import ModelConfig, TrainingConfig
from epifoundation.nn import Sizes
from epifoundation.nn.encoders import FORMAT_1
from epifoundation.nn.training_config import MEASURED

OBJECTIVES = st.sampled_from(["counts", "binary", "gaussian", "peaks"])
SETS = st.builds(ModelConfig, dim=st.none() | st.integers(1, 300), objective=OBJECTIVES)
TRANSFORMERS = st.builds(
    lambda heads, width, **rest: ModelConfig("transformer", heads * width, heads, **rest),
    heads=st.integers(1, 8),
    width=st.integers(1, 8),
    n_layers=st.integers(1, 3),
    dropout=st.floats(0, 0.9),
    objective=OBJECTIVES,
    decoder=st.sampled_from(["linear", "query"]),
    max_peaks=st.none() | st.integers(1, 20_000),
)


@given(SETS | TRANSFORMERS)
def test_json_round_trip(config):
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_defaults_of_a_transformer_are_filled_in_and_a_set_encoder_has_none():
    transformer = ModelConfig(encoder="transformer")
    assert (transformer.dim, transformer.n_heads, transformer.n_layers) == (128, 2, 2)
    assert transformer.dropout == 0.1
    assert not transformer.is_measured
    measured = ModelConfig()
    assert measured.is_measured
    assert {measured.dim, measured.n_heads, measured.n_layers, measured.dropout} == {None}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"width": 3}, r"Unknown configuration keys \['width'\]"),
        ({"encoder": "rnn"}, "Unknown encoder 'rnn'"),
        ({"objective": "mse"}, "Unknown objective 'mse'"),
        ({"encoder": "transformer", "dim": 10, "n_heads": 4}, "divisible"),
        ({"dim": 0}, "`dim` must be an integer of at least 1"),
        ({"dim": True}, "`dim` must be an integer of at least 1"),
        ({"encoder": "transformer", "n_layers": 1.5}, "`n_layers`"),
        ({"encoder": "transformer", "n_layers": 0}, "`n_layers` must be an integer of at least 1"),
        ({"encoder": "transformer", "n_heads": 0}, "`n_heads` must be an integer of at least 1"),
        ({"encoder": "transformer", "dropout": 1.0}, "`dropout`"),
        ({"values": True}, "`values` needs `decoder='query'`"),
    ],
)
def test_impossible_models_are_refused(values, said):
    with pytest.raises(ValueError, match=said):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_heads", 2),
        ("n_layers", 0),
        ("dropout", 0.0),
        ("feedforward", 64),
        ("max_peaks", 100),
        ("decoder", "query"),
    ],
)
def test_options_of_the_transformer_are_refused_for_the_set_encoder(name, value):
    with pytest.raises(ValueError, match=f"`{name}=.*does not apply to the encoder 'set'"):
        ModelConfig(**{name: value})


def test_options_of_version_0_1_say_what_to_use():
    with pytest.raises(ValueError, match="`n_seeds` is not an option of ModelConfig any more"):
        ModelConfig(n_seeds=2)
    with pytest.raises(ValueError, match="`adversarial` is not an option .*pass `batch_key=`"):
        TrainingConfig(adversarial=0.1)


def test_configurations_of_format_1():
    """Set encoders that were trained are read, but for those with attention; transformers stay."""
    old = {"encoder": "set", "dim": 64, "n_heads": 0, "n_layers": 2, "dropout": 0.1, "n_seeds": 1}
    read = ModelConfig.from_dict(old, format_version=1)
    assert (read.encoder, read.dim, read.n_layers) == (FORMAT_1, 64, 2)
    assert not read.is_measured
    assert ModelConfig.from_dict(read.to_dict()) == read
    for change in ({"n_heads": 2}, {"n_seeds": 3}):
        with pytest.raises(ValueError, match="set encoder with attention .* is not read any more"):
            ModelConfig.from_dict(old | change, format_version=1)
    paper = ModelConfig.preset("paper")
    there = paper.to_dict() | {"n_seeds": 1}
    assert ModelConfig.from_dict(there, format_version=1) == paper
    with pytest.raises(ValueError, match=r"Unknown configuration keys \['n_seeds'\]"):
        ModelConfig.from_dict(there)


@pytest.mark.parametrize(
    "values",
    [
        {"max_epochs": 0},
        {"lr": -1.0},
        {"peak_dropout": 1.5},
        {"batch_size": None},
        {"max_epochs": 1.5},
        {"sample": 9},
        {"softness": 0.0},
        {"pseudocount": 0.5},
        {"landmarks": 0},
        {"landmarks": 10.0},
        {"softness": float("nan")},
        {"lr": float("inf")},
        {"lr": 10**400},
        {"weight_decay": True},
        {"batch_size": 10**30},
        {"n_neighbors": "15"},
    ],
)
def test_impossible_training_is_refused(values):
    with pytest.raises(
        ValueError,
        match=f"`{next(iter(values))}` must be an? (integer|number) (between|of at least)",
    ):
        TrainingConfig(**values)


def test_balanced_genes_need_cells_that_are_not_pooled():
    with pytest.raises(ValueError, match="pass `n_neighbors=1`, not 15"):
        TrainingConfig(balanced_genes=10)


def test_each_kind_of_model_refuses_the_options_of_the_other():
    measured, trained = ModelConfig(), ModelConfig(encoder="transformer")
    TrainingConfig().check(measured)
    TrainingConfig().check(trained)
    of_set = {"sample": 100, "softness": 1.0, "pseudocount": 2.0, "landmarks": 50}
    assert of_set.keys() == set(MEASURED)
    assert TrainingConfig(**of_set).options(measured) == of_set
    assert not of_set.keys() & TrainingConfig().options(trained).keys()
    TrainingConfig(**of_set).check(measured)
    for name, value in of_set.items():
        with pytest.raises(
            ValueError, match=f"`{name}=.*does not apply to .*: it is an option of the set"
        ):
            TrainingConfig(**{name: value}).check(trained)
    for options in ({"max_epochs": 3}, {"lr": 0.1}, {"n_neighbors": 1}, {"warm_start": False}):
        TrainingConfig(**options).check(trained)
        name = next(iter(options))
        with pytest.raises(ValueError, match=f"`{name}=.*does not apply to .*: it is fitted"):
            TrainingConfig(**options).check(measured)


@pytest.mark.parametrize("name", ["default", "paper"])
def test_presets_are_made_for_each_other(name):
    TrainingConfig.preset(name).check(ModelConfig.preset(name))


def test_unknown_presets():
    for kind in (ModelConfig, TrainingConfig):
        with pytest.raises(ValueError, match="Unknown preset 'huge'"):
            kind.preset("huge")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 10**9}, "`dim` must be an integer of at least 1, and at most 65,536"),
        ({"encoder": "transformer", "n_layers": 10**7}, "`n_layers` must be .* at most 1,000"),
        ({"encoder": "transformer", "feedforward": 10**9}, "`feedforward` must be"),
        ({"encoder": "transformer", "max_peaks": 10**12}, "`max_peaks` must be"),
        ({"encoder": "transformer", "dropout": True}, "`dropout` must be a number between 0 and 1"),
        ({"encoder": "transformer", "dropout": "0.1"}, "`dropout` must be a number"),
        ({"encoder": "transformer", "dropout": 1}, "`dropout` must be less than 1"),
        ({"encoder": "transformer", "dropout": float("nan")}, "`dropout` must be a number"),
        ({"values": 1}, "`values` must be True or False, got 1"),
        ({"encoder": ["set"]}, r"Unknown encoder \['set'\]"),
        ({"objective": None}, "Unknown objective None"),
    ],
)
def test_options_of_other_types_and_absurd_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)


def test_flags_of_training_are_bool():
    with pytest.raises(ValueError, match="`warm_start` must be True or False, got 1"):
        TrainingConfig(warm_start=1)


@given(st.sampled_from(list(Sizes(1).to_dict())), st.none() | st.text() | st.integers(max_value=-1))
def test_sizes_are_counts(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Sizes(**{"n_peaks": 3, name: value})


def test_calibration_needs_cells_to_compare_with():
    with pytest.raises(ValueError, match="`n_reference` must be at least 1"):
        Sizes(3, n_labels=2, n_calibration=5)
