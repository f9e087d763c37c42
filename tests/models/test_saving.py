"""A save that is interrupted anywhere leaves the old model or the new one, and no rubbish."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import epifoundation as ep

# Kills a save before its n-th change of the file system, for each n, and reads what is left
KILLS = """
import json, os, shutil, signal, sys
from pathlib import Path
import epifoundation as ep

folder, kind = Path(sys.argv[1]), sys.argv[2]
target = folder / "target"
ep.settings.cache_dir = folder / "cache"
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "open"}


def load(path, **options):
    return ep.models.from_pretrained(path, device="cpu", **options)


def save(path):
    if kind == "adapter":
        load(path, base=folder / "base").save_adapter(target, overwrite=True)
    else:
        load(path).save_pretrained(target, overwrite=True)


def found():
    base = {"base": folder / "base"} if kind == "adapter" else {}
    return load(target, **base).revision


def killed_before(n):
    child = os.fork()
    if not child:
        count = 0

        def hook(event, given):
            nonlocal count
            is_read = event == "open" and not (
                str(given[0]).startswith(str(target)) and given[2] & (os.O_WRONLY | os.O_RDWR)
            )
            if event in CHANGES and not is_read:
                count += 1
                if count == n:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        save(folder / "new")
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


results, n = [], 0
while not results or results[-1][0]:
    n += 1
    shutil.rmtree(target, ignore_errors=True)
    if kind != "first":
        save(folder / "old")
    is_killed = killed_before(n)
    try:
        first = found()
    except (OSError, ValueError) as error:
        first = type(error).__name__
    save(folder / "old")
    again = sorted(path.name for path in target.iterdir())
    results.append((is_killed, first, found(), again))
    assert n < 200
beside = sorted(path.name for path in folder.iterdir())
print(json.dumps([results, beside]))
"""


def outcomes(kind, folder, forks):
    script = folder / "kills.py"
    script.write_text(KILLS)
    process = forks.start(script, folder, kind)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(scope="module")
def small(simulated):
    """A model with labels and training cells, and the same without."""
    data = simulated[:200, :].copy()
    options = {"config": ep.ModelConfig(dim=8), "genome": "hg38"}
    old = ep.tl.pretrain(data, label_key="cell_type", **options)
    return old, replace(ep.tl.pretrain(data, **options), cells={})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "first"])
def test_a_kill_leaves_the_old_model_or_the_new_one(kind, small, tmp_path, forks):
    old, new = small
    old.save_pretrained(tmp_path / "old")
    new.save_pretrained(tmp_path / "new")
    results, beside = outcomes(kind, tmp_path, forks)
    revisions = {old.revision, new.revision}
    if kind == "first":
        revisions = {"FileNotFoundError", "ValueError", new.revision}
    seen = [first for _, first, _, _ in results]
    assert {*seen} <= revisions
    assert len({*seen}) >= 2  # kills before and after the moment at which the new one counts
    assert len(results) > 10
    for _, _, again, files in results:
        assert again == old.revision
        assert files == names(tmp_path / "old")
    assert beside == ["cache", "kills.py", "new", "old", "target"]


@pytest.mark.slow
def test_a_kill_leaves_the_old_adapter_or_the_new_one(simulated, small, tmp_path, forks):
    _, base = small
    base.save_pretrained(tmp_path / "base")
    base = ep.models.from_pretrained(tmp_path / "base")
    data = simulated["atac"][:200].copy()
    old = ep.tl.finetune(data, base, label_key="cell_type")
    new = ep.tl.finetune(data, base, batch_key="batch")
    old.save_adapter(tmp_path / "old")
    new.save_adapter(tmp_path / "new")
    results, _ = outcomes("adapter", tmp_path, forks)
    assert {first for _, first, _, _ in results} == {old.revision, new.revision}
    for _, _, again, files in results:
        assert (again, files) == (old.revision, names(tmp_path / "old"))


def test_an_error_while_files_are_written_changes_nothing(small, tmp_path, monkeypatch):
    old, new = small
    old.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(ep.GeneVocabulary, "write_tsv", lambda self, path: 1 / 0)
    for directory in (tmp_path / "model", tmp_path / "none"):
        with pytest.raises(ZeroDivisionError):
            new.save_pretrained(directory, overwrite=True)
    assert names(tmp_path) == ["model"]
    assert ep.models.from_pretrained(tmp_path / "model").revision == old.revision


def test_an_error_while_files_are_moved_leaves_the_new_model(small, tmp_path, monkeypatch):
    old, new = small
    path = old.save_pretrained(tmp_path / "model")
    original, calls = Path.replace, []

    def interrupted(self, target):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        new.save_pretrained(path, overwrite=True)
    assert ep.models.from_pretrained(path).revision == new.revision
    with pytest.raises(FileExistsError, match="overwrite=True"):
        old.save_pretrained(path)
    old.save_pretrained(path, overwrite=True)
    assert names(path) == names(old.save_pretrained(tmp_path / "other"))


@pytest.mark.parametrize("place", ["link", "here", "slash", "parent"])
def test_any_name_of_a_directory_is_replaced(place, small, tmp_path, monkeypatch):
    old, new = small
    real = old.save_pretrained(tmp_path / "real")
    (tmp_path / "link").symlink_to(real)
    path = {"link": tmp_path / "link", "here": ".", "slash": f"{real}/", "parent": "../real"}[place]
    monkeypatch.chdir(real)
    new.save_pretrained(path, overwrite=True)
    assert ep.models.from_pretrained(Path(path)).revision == new.revision
    assert ep.models.from_pretrained(real).revision == new.revision
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path) == ["link", "real"]
    assert Path.cwd() == real


def test_a_parent_that_cannot_be_written_is_no_obstacle(small, tmp_path):
    old, new = small
    path = old.save_pretrained(tmp_path / "parent" / "model")
    (tmp_path / "parent").chmod(0o500)
    try:
        new.save_pretrained(path, overwrite=True)
    finally:
        (tmp_path / "parent").chmod(0o700)
    assert ep.models.from_pretrained(path).revision == new.revision


def test_two_that_save_at_once_leave_one_of_the_two(small, tmp_path):
    from threading import Thread

    for i, model in enumerate(small):
        model.save_pretrained(tmp_path / str(i))
    path = small[0].save_pretrained(tmp_path / "model")
    errors, revisions = [], {model.revision for model in small}

    def save(model):
        try:
            for _ in range(15):
                model.save_pretrained(path, overwrite=True)
        except (OSError, ValueError) as error:
            errors.append(error)

    threads = [Thread(target=save, args=(model,)) for model in small]
    for thread in threads:
        thread.start()
    seen = {ep.models.from_pretrained(path).revision for _ in range(20)}
    for thread in threads:
        thread.join()
    assert not errors
    assert seen <= revisions
    assert ep.models.from_pretrained(path).revision in revisions
    assert names(path) in [names(tmp_path / str(i)) for i in range(2)]


def test_without_a_place_for_locks_models_are_saved(small, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(ep.settings, "cache_dir", tmp_path / "file")
    path = small[0].save_pretrained(tmp_path / "model")
    assert ep.models.from_pretrained(path).revision == small[0].revision


def test_files_of_others_are_left_where_they_are(small, tmp_path):
    """Also with names of files of a model, if its configuration does not list them."""
    old, new = small
    path = new.save_pretrained(tmp_path / "model")
    (path / "labels.json").write_text("precious")
    with pytest.raises(FileExistsError, match="contains other files"):
        old.save_pretrained(path, overwrite=True)
    assert (path / "labels.json").read_text() == "precious"
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError, match="is a file"):
        old.save_pretrained(tmp_path / "file", overwrite=True)


def test_a_directory_of_the_cells_is_cleaned(small, tmp_path):
    """Cells that a model no longer has do not stay on the disk."""
    old, _ = small
    path = old.save_pretrained(tmp_path / "model")
    assert (path / "cells.safetensors").exists()
    old.save_pretrained(path, overwrite=True, cells=False)
    assert not (path / "cells.safetensors").exists()
