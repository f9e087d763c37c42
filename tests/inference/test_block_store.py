"""Blocks in a folder: each is computed once, by whichever process claims it."""

import numpy as np
import pytest

from epifoundation.inference.block_store import BlockStore, Origin
from epifoundation.inference.tally import Tally

RUN = {"cells": 30, "options": {"genes": ["a"]}}


def save(store, number, content="cells", signature="file"):
    tally = Tally(cells=number, unknown_batches=[f"batch{number}"])
    store.save(number, {"x": np.full(3, number)}, tally, Origin(content, signature))


def check():
    """The cells are the same."""


def test_a_block_is_claimed_once_and_again_if_its_process_ends(tmp_path):
    one, other = (BlockStore(tmp_path / "blocks", RUN) for _ in range(2))
    assert one.claim(0)
    assert not one.claim(0)
    assert not other.claim(0)
    assert other.claim(1)
    save(other, 1)
    assert not one.claim(1)  # finished
    assert one.all_taken(2)
    assert not other.all_taken(2)
    one.close()
    assert other.claim(0)
    assert other.all_taken(2)
    other.close()


def test_blocks_are_assembled_once_and_deleted(tmp_path):
    stores = [BlockStore(tmp_path / "blocks", RUN) for _ in range(2)]
    for number in range(4):
        store = stores[number % 2]
        assert store.claim(number)
        save(store, number)
    with stores[0].load(3) as block:
        np.testing.assert_array_equal(block["x"], [3, 3, 3])
    assert stores[0].tally(2) == Tally(cells=2, unknown_batches=["batch2"])
    found = []
    tallies = [store.finish(4, check, found.append) for store in stores]
    assert tallies == [Tally(cells=6, unknown_batches=[f"batch{i}" for i in range(4)]), Tally()]
    assert found == tallies[:1]
    assert not list(tmp_path.iterdir())


def test_an_error_keeps_the_blocks(tmp_path):
    def fail(tally):
        raise OSError(28, "no space")

    store = BlockStore(tmp_path / "blocks", RUN)
    assert store.claim(0)
    save(store, 0)
    with pytest.raises(OSError, match=r"no space.*1 finished blocks are kept") as raised:
        store.finish(1, check, fail)
    assert raised.value.errno == 28
    again = BlockStore(tmp_path / "blocks", RUN)
    assert not again.claim(0)
    assert again.finish(1, check, lambda tally: None) == Tally(cells=0, unknown_batches=["batch0"])


def test_blocks_of_another_run_are_refused(tmp_path):
    BlockStore(tmp_path / "blocks", RUN).close()
    other = RUN | {"options": {"genes": ["b"]}, "seed": 1}
    with pytest.raises(ValueError, match=r'options was .*"a".*, is .*"b".* \(1 more differ\)'):
        BlockStore(tmp_path / "blocks", other)


def test_blocks_are_in_doubt_if_their_file_was_changed_or_there_is_none(tmp_path):
    store = BlockStore(tmp_path / "blocks", RUN)
    for number, signature in enumerate(["a", "b", None]):
        assert store.claim(number)
        save(store, number, f"cells{number}", signature)
    assert store.in_doubt({0: "a", 1: "changed", 2: None, 3: "a"}) == [1]
    again = BlockStore(tmp_path / "blocks", RUN)  # cells in memory may be others in this process
    assert again.in_doubt({0: "a", 1: "b", 2: None}) == [2]
    assert again.compare(2, Origin("cells2", None))
    assert again.in_doubt({0: "a", 1: "b", 2: None}) == []
    assert again.in_doubt({0: "moved", 1: "b", 2: None}) == [0]
    assert again.compare(0, Origin("cells0", "moved"))
    assert again.in_doubt({0: "moved", 1: "b", 2: None}) == []
    assert not again.compare(1, Origin("other cells", "c"))
    assert again.claim(1)  # to be computed again
    assert not again.all_taken(4)


@pytest.mark.parametrize("left", ["blocks", "deleted"])
def test_what_a_killed_process_left_while_it_deleted_is_never_used(tmp_path, left):
    store = BlockStore(tmp_path / "blocks", RUN)
    assert store.claim(0)
    save(store, 0)
    if left == "blocks":
        (tmp_path / "blocks" / "run.json").unlink()
    else:
        (tmp_path / "blocks").rename(tmp_path / "blocks.123.deleted")
    other = BlockStore(tmp_path / "blocks", {"cells": 31})
    assert other.claim(0)
    assert [path.name for path in tmp_path.iterdir()] == ["blocks"]
