"""Where a run goes on from: its own recipe up to neutral keys, whatever version wrote it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from sod.build.job import Place, long_lived_set_apart
from sod.build.job import find_place as find_place_under_lock
from sod.recipe import Recipe, parse_recipe, resolved
from sod.records import SodError
from sod.runlog import RunLog, recipe_hash, write_json_atomic
from sod.training import checkpoint
from sod.training.checkpoint import Position


def recipe(**changes: Any) -> Recipe:
    content = {"student": {"path": "s"}, "optim": {"lr": 0.001}, "train": {"steps": 4}}
    for section, keys in changes.items():
        content[section] = {**content.get(section, {}), **keys}
    return parse_recipe(content, "test")


def find_place(asked: Recipe, directory: Path, resume: bool, kind: str) -> Place:
    """As a run that finds its place and ends there."""
    with ExitStack() as resources:
        return find_place_under_lock(asked, directory, resume, kind, resources, pytest.fail)


def begun(directory: Path, recorded: dict[str, Any], kind: str = "train") -> RunLog:
    """A run that recorded this recipe and has a checkpoint of step 2."""
    log = RunLog.create(directory, recorded, seed=0)
    log.log({"step": 2, "kind": kind})
    save(log, log.recipe_sha256())
    return log


def save(log: RunLog, sha256: str) -> None:
    checkpoint.save(
        log.checkpoint_dir(2), Position(2, sha256), {"optimizer": {"moment": torch.ones(1)}}, lambda directory: None
    )


def test_a_new_run_and_its_resume_agree_on_the_hash(tmp_path: Path) -> None:
    """What the checkpoints of a new run will carry is what its directory asks for later."""
    new = find_place(recipe(), tmp_path / "run", False, "train")
    assert (new.log, new.resume, new.done) == (None, None, 0)
    begun(tmp_path / "run", resolved(recipe()))
    again = find_place(recipe(), tmp_path / "run", True, "train")
    assert again.log is not None
    assert again.recipe_hash == new.recipe_hash == again.log.manifest()["recipe_sha256"]
    assert again.done == 2


def test_a_key_that_a_later_version_adds_leaves_older_runs_resumable(tmp_path: Path) -> None:
    """The run knew nothing of `rollout.asynchronous`; it is resumed with its default, and with no other value."""
    older = resolved(recipe())
    del older["rollout"]["asynchronous"]
    begun(tmp_path / "run", older)
    assert find_place(recipe(), tmp_path / "run", True, "train").done == 2
    with pytest.raises(SodError, match=r"rollout\.asynchronous is false there and true here; "):
        find_place(recipe(rollout={"asynchronous": True}), tmp_path / "run", True, "train")


def test_a_run_of_format_1_goes_on_under_its_own_hash(tmp_path: Path) -> None:
    """It covers the whole recorded recipe, neutral keys too; they may change all the same."""
    log = begun(tmp_path / "run", resolved(recipe()))
    manifest = {key: value for key, value in log.manifest().items() if key not in ("format", "neutral_keys")}
    write_json_atomic(log.path / "manifest.json", manifest)
    save(log, recipe_hash(log.recipe()))
    place = find_place(recipe(train={"checkpoint_every": 1}), tmp_path / "run", True, "train")
    assert (place.done, place.recipe_hash) == (2, recipe_hash(log.recipe()))


def test_a_later_versions_table_of_neutral_keys_changes_no_hash(tmp_path: Path) -> None:
    """The run's manifest says which keys its hash leaves out."""
    log = begun(tmp_path / "run", resolved(recipe()))
    write_json_atomic(log.path / "manifest.json", log.manifest() | {"neutral_keys": ["name"]})
    save(log, log.recipe_sha256())
    assert find_place(recipe(), tmp_path / "run", True, "train").done == 2


def test_another_recipe_is_refused_before_there_is_a_checkpoint(tmp_path: Path) -> None:
    RunLog.create(tmp_path / "run", resolved(recipe()), 0)
    assert find_place(recipe(), tmp_path / "run", True, "train").resume is None
    with pytest.raises(SodError, match=r"run: was started with another recipe: train\.steps is 4 there and 5 here; "):
        find_place(recipe(train={"steps": 5}), tmp_path / "run", True, "train")


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    """The recorded recipe and the checkpoint must belong together, whatever is asked for."""
    log = begun(tmp_path / "run", resolved(recipe()))
    text = (log.path / "recipe.yaml").read_text()
    (log.path / "recipe.yaml").write_text(text.replace("lr: 0.001", "lr: 0.002", 1))
    with pytest.raises(SodError, match=r"step-000002: this checkpoint was written under another recipe"):
        find_place(recipe(optim={"lr": 0.002}), tmp_path / "run", True, "train")


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    begun(tmp_path / "run", resolved(recipe()), kind="sft")
    with pytest.raises(SodError, match="a run of `sod sft`; it cannot be resumed as `sod train`"):
        find_place(recipe(), tmp_path / "run", True, "train")


@pytest.fixture
def nothing_set_apart() -> Iterator[None]:
    """As a program begins; the tests' own is set apart again after it."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.mark.usefixtures("nothing_set_apart")
def test_what_lives_as_long_as_a_run_is_not_collected_over_and_over() -> None:
    """Frozen while the steps run, also where they fail, and never left so."""

    def step() -> None:
        with long_lived_set_apart():
            raise SodError(str(gc.get_freeze_count()))

    with pytest.raises(SodError) as failed:
        step()
    assert int(str(failed.value)) > 10_000
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("nothing_set_apart")
def test_what_the_program_around_a_run_has_set_apart_stays_so() -> None:
    gc.freeze()
    own = gc.get_freeze_count()
    with long_lived_set_apart():
        assert gc.get_freeze_count() == pytest.approx(own, rel=0.01)  # one or the other may end at any time
    assert gc.get_freeze_count() == pytest.approx(own, rel=0.01)
