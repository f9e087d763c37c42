"""Sums kept in a file while they are made."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from epifoundation.training.state import State
from epifoundation.training.statistics import Statistics


def some(n_added=1):
    statistics = Statistics(6, 5, 3, 2, n_kept=2, n_genes={"counts": 4}, device=torch.device("cpu"))
    pattern = sp.csr_matrix(np.tri(6, 5, 1)[:, ::-1].astype(np.int8))
    codes, weights = np.array([[0, 1]] * 3 + [[2, 1]] * 3, np.uint8), np.full((6, 1), 55, np.uint8)
    for part in (np.arange(3), np.arange(3, 6))[:n_added]:
        statistics.add(
            part,
            pattern[part],
            (codes[part], weights[part]),
            keys=np.arange(5, dtype=np.uint64),
            is_held=part % 2 == 0,
            labels=part % 2,
            expression=sp.csr_matrix(np.arange(12.0).reshape(3, 4)),
        )
    return statistics


def same(one, other):
    return all(torch.equal(values, other.tensors()[name]) for name, values in one.tensors().items())


def test_sums_come_back(tmp_path):
    state = State(tmp_path / "deep" / "state", 0, {"seed": 1})
    for content in "abc":
        state.save(some(), content)
    empty = some(0)
    assert State(tmp_path / "deep" / "state", 0, {"seed": 1}).load(empty) == 3
    assert same(empty, some())
    state.finish()
    assert not (tmp_path / "deep" / "state").exists()
    assert State(tmp_path / "deep" / "state", 0, {"seed": 1}).load(some(0)) == 0


def test_what_is_added_afterwards_counts(tmp_path):
    state = State(tmp_path / "state", 0, {})
    state.save(some(1), "a")
    continued = some(0)
    state.load(continued)
    part, pattern = np.arange(3, 6), sp.csr_matrix(np.tri(6, 5, 1)[:, ::-1].astype(np.int8))
    continued.add(
        part,
        pattern[part],
        (np.array([[2, 1]] * 3, np.uint8), np.full((3, 1), 55, np.uint8)),
        keys=np.arange(5, dtype=np.uint64),
        is_held=part % 2 == 0,
        labels=part % 2,
        expression=sp.csr_matrix(np.arange(12.0).reshape(3, 4)),
    )
    assert same(continued, some(2))


def test_nothing_is_kept_before_it_is_time_or_without_a_path(tmp_path):
    State(tmp_path / "state", 60, {}).save(some(), "a")
    State(None, 0, {}).save(some(), "a")
    assert list(tmp_path.iterdir()) == []


def test_other_runs_and_damaged_files_are_refused(tmp_path):
    State(tmp_path / "state", 0, {"seed": 1, "cells": [3, 4]}).save(some(), "a")
    State(tmp_path / "state", 0, {"seed": 1, "cells": [3, 4]}).check()
    with pytest.raises(ValueError, match=r"another run: cells was \[3, 4\], is \[3\]"):
        State(tmp_path / "state", 0, {"seed": 1, "cells": [3]}).check()
    (tmp_path / "state").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="is not a state of pretraining, or is damaged"):
        State(tmp_path / "state", 0, {}).check()
