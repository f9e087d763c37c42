"""Configurations: round trip, unknown keys, impossible values."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epifoundation import ModelConfig, TrainingConfig


@given(
    st.builds(
        lambda heads, width, **rest: ModelConfig(n_heads=heads, dim=heads * width, **rest),
        heads=st.integers(1, 8),
        width=st.integers(1, 8),
        n_seeds=st.integers(1, 4),
        n_layers=st.integers(0, 3),
        dropout=st.floats(0, 0.9),
        objective=st.sampled_from(["counts", "binary", "gaussian", "peaks"]),
    )
)
def test_json_round_trip(config):
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"width": 3}, r"Unknown configuration keys \['width'\]"),
        ({"encoder": "rnn"}, "Unknown encoder 'rnn'"),
        ({"objective": "mse"}, "Unknown objective 'mse'"),
        ({"dim": 10, "n_heads": 4}, "divisible"),
        ({"dim": 0}, "`dim` must be an integer of at least 1"),
        ({"n_layers": 1.5}, "`n_layers`"),
        ({"dropout": 1.0}, "`dropout`"),
    ],
)
def test_impossible_models_are_refused(values, said):
    with pytest.raises(ValueError, match=said):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize(
    "values", [{"max_epochs": 0}, {"lr": -1.0}, {"peak_dropout": 1.5}, {"batch_size": None}, {"max_epochs": 1.5}]
)
def test_impossible_training_is_refused(values):
    with pytest.raises(ValueError, match=f"`{next(iter(values))}` must be an? (integer|number) between"):
        TrainingConfig(**values)
