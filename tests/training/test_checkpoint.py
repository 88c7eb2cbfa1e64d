"""Checkpoints are whole or not there."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sod.records import SodError
from sod.runlog import RunLog
from sod.training import checkpoint
from sod.training.checkpoint import BrokenCheckpointError, Position
from sod.training.loop import clear_way

WEIGHTS = "model/model.safetensors"
DAMAGES = [
    *(
        (f"{how} {name}", f"{name} {what}")
        for name in (WEIGHTS, checkpoint.TRAINER)
        for how, what in (
            ("changed", "has changed"),
            ("cut", "has "),
            ("emptied", "has 0 bytes"),
            ("missing", "is missing"),
        )
    ),
    ("changed COMPLETE.json", "COMPLETE.json is cut short or changed"),
    ("cut COMPLETE.json", "COMPLETE.json is cut short or changed"),
    ("emptied COMPLETE.json", "COMPLETE.json is cut short or changed"),
    ("missing COMPLETE.json", "COMPLETE.json is missing"),
    ("empty directory", "COMPLETE.json is missing"),
]
"""What may happen to a checkpoint, and what is said of it."""


def spoil(directory: Path, damage: str) -> None:
    """Do to a checkpoint what `damage` says."""
    how, name = damage.split(" ")
    path = directory / name
    if damage == "empty directory":
        shutil.rmtree(directory)
        directory.mkdir()
    elif how == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        middle = len(content) // 2
        first = max(0, middle - 32)
        flipped = bytes(byte ^ 0xFF for byte in content[first : first + 64])
        changed = content[:first] + flipped + content[first + 64 :]
        path.write_bytes({"changed": changed, "cut": content[:middle], "emptied": b""}[how])


def write_model(content: bytes = b"weights") -> Any:
    return lambda directory: (directory / "model.safetensors").write_bytes(content)


def files(directory: Path) -> dict[str, bytes]:
    """Every file below `directory`, hidden ones too."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of step 7."""
    checkpoint.save(
        tmp_path / "step-000007", Position(7, "abc"), {"optimizer": {"moments": torch.arange(5.0)}}, write_model()
    )
    return tmp_path / "step-000007"


def test_round_trip(saved: Path) -> None:
    """Position, optimizer state and torch's random state come back."""
    torch.manual_seed(5)
    expected_state = torch.get_rng_state()
    checkpoint.save(saved, Position(8, "abc"), {"optimizer": {"moments": torch.arange(3.0)}}, write_model())
    torch.rand(10)
    point = checkpoint.load(saved, "abc")
    assert (point.directory, point.step) == (saved, 8)
    assert torch.equal(point.state["optimizer"]["moments"], torch.arange(3.0))
    assert torch.equal(torch.get_rng_state(), expected_state)
    assert checkpoint.verify(saved) == 8
    assert point.model == saved / "model"
    assert {path.name for path in saved.iterdir()} == {"model", checkpoint.TRAINER, checkpoint.COMPLETE}
    listed = json.loads((saved / checkpoint.COMPLETE).read_text())["files"]
    assert listed.keys() == {WEIGHTS, checkpoint.TRAINER}
    for name, entry in listed.items():
        written = files(saved)[name]
        assert entry == {"size": len(written), "sha256": hashlib.sha256(written).hexdigest()}


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), OSError("broken pipe"), RuntimeError("PytorchStreamWriter")]
)
def test_failing_write_leaves_the_old_checkpoint(error: Exception, saved: Path) -> None:
    """Half-way through a new checkpoint: one line that names it, the old bytes, and nothing partial."""

    def fail(directory: Path) -> None:
        (directory / "model.safetensors").write_bytes(b"half")
        raise error

    before = files(saved.parent)
    for target in (saved, saved.with_name("step-000008")):
        with pytest.raises(SodError) as caught:
            checkpoint.save(target, Position(8, "abc"), {}, fail)
        assert str(caught.value).startswith(f"{target}: cannot write the checkpoint: ")
        assert "\n" not in str(caught.value)
        assert ("no space left" in str(caught.value)) == (getattr(error, "errno", 0) == 28)
        assert files(saved.parent) == before
        assert [path.name for path in saved.parent.iterdir()] == ["step-000007"]
    assert checkpoint.verify(saved) == 7


def test_safetensors_failure_is_one_line(saved: Path) -> None:
    """Safetensors has an error class of its own for a failed write; this is the real one."""
    safetensors = pytest.importorskip("safetensors.torch")

    def fail(directory: Path) -> None:
        safetensors.save_file({"a": torch.zeros(100)}, directory / "gone" / "model.safetensors")

    with pytest.raises(SodError, match="cannot write the checkpoint"):
        checkpoint.save(saved.with_name("step-000008"), Position(8, "abc"), {}, fail)
    assert [path.name for path in saved.parent.iterdir()] == ["step-000007"]


def test_interrupted_write_is_started_afresh(saved: Path) -> None:
    """What a kill left of a partial checkpoint does not end up in the next one."""
    partial = saved.with_name(".step-000008.partial")
    partial.mkdir()
    (partial / "leftover").write_text("old")
    checkpoint.save(saved.with_name("step-000008"), Position(8, "abc"), {}, write_model())
    assert set(files(saved.with_name("step-000008"))) == {WEIGHTS, checkpoint.TRAINER, checkpoint.COMPLETE}
    assert not partial.exists()


def test_replaces_a_checkpoint_of_the_same_step(saved: Path) -> None:
    """A replayed step's checkpoint takes the place of the old one, whole; what was there is kept beside it."""
    (saved / "stale").write_text("x")
    old = files(saved)
    for content in (b"weights of another", b"new weights"):
        checkpoint.save(saved, Position(7, "abc"), {}, write_model(content))
    assert files(saved.with_name("step-000007.aside")) == old
    assert files(saved.with_name("step-000007.aside-2"))[WEIGHTS] == b"weights of another"
    assert checkpoint.verify(saved) == 7
    assert (saved / WEIGHTS).read_bytes() == b"new weights"
    assert not (saved / "stale").exists()


@pytest.mark.parametrize(("damage", "named"), DAMAGES, ids=[damage for damage, _ in DAMAGES])
def test_damage_is_named_and_the_one_before_is_used(damage: str, named: str, saved: Path) -> None:
    """Whatever happened to the newest: it says what, stays as it is, and the one before serves, also with `keep` 1."""
    newest = saved.with_name("step-000008")
    checkpoint.save(newest, Position(8, "abc"), {"optimizer": torch.rand(400)}, write_model(bytes(range(256)) * 4))
    spoil(newest, damage)
    broken = files(newest)
    for read in (checkpoint.verify, lambda directory: checkpoint.load(directory, "abc")):
        with pytest.raises(BrokenCheckpointError) as caught:
            read(newest)
        assert str(caught.value).startswith(f"{newest}: ")
        assert named in str(caught.value)
        assert "\n" not in str(caught.value)
    told: list[str] = []
    found = [(7, saved), (8, newest)]
    assert checkpoint.newest_good(found, lambda path: checkpoint.load(path, "abc"), told.append).step == 7
    (line,) = told
    assert str(newest) in line
    assert str(saved) in line
    assert named in line
    checkpoint.prune(found, 1)
    assert checkpoint.verify(saved) == 7
    assert files(newest) == broken


def test_only_where_no_good_one_is_left_it_is_an_error(saved: Path) -> None:
    """One line that says of each what is wrong."""
    newest = saved.with_name("step-000008")
    checkpoint.save(newest, Position(8, "abc"), {}, write_model())
    spoil(newest, "changed trainer.pt")
    spoil(saved, "empty directory")
    with pytest.raises(SodError) as caught:
        checkpoint.newest_good([(7, saved), (8, newest)], checkpoint.verify, pytest.fail)
    for part in (str(saved.parent), "no good checkpoint", "step-000007: not a", "step-000008: trainer.pt has changed"):
        assert part in str(caught.value)


def test_a_trainer_file_that_no_longer_loads_is_broken(saved: Path) -> None:
    """Of the older formats, which have no hashes; and so is one of another step than the marker's."""
    newest = saved.with_name("step-000008")
    checkpoint.save(newest, Position(8, "abc"), {}, write_model())
    rewritten(newest, step=9)
    with pytest.raises(BrokenCheckpointError, match=r"trainer.pt: of step 9, where COMPLETE.json is of step 8"):
        checkpoint.load(newest, "abc")
    for content in (b"no pickle", pickle.dumps([1, 2], 2), pickle.dumps({"format": 2}, 2)):
        (newest / checkpoint.TRAINER).write_bytes(content)
        rewritten_marker(newest)
        with pytest.raises(BrokenCheckpointError, match=r"trainer.pt: not the state of a run"):
            checkpoint.load(newest, "abc")


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "null", '{"step": 1}', '{"step": "x", "files": {}}', '{"step": 7, "files": {}}'),
        *('{"step": 7, "files": {"../x": 1, "trainer.pt": 1}}', '{"step": 7, "files": {"trainer.pt": {"size": 1}}}'),
    ],
)
def test_marker_of_another_shape(text: str, saved: Path) -> None:
    """JSON that is no marker is refused as cut short, not with a traceback."""
    (saved / checkpoint.COMPLETE).write_text(text)
    with pytest.raises(BrokenCheckpointError, match="cut short"):
        checkpoint.verify(saved)


def test_another_recipe(saved: Path) -> None:
    """The optimizer state of another recipe is not taken over."""
    with pytest.raises(SodError, match="another recipe"):
        checkpoint.load(saved, "abd")


def rewritten(directory: Path, **keys: Any) -> None:
    """Change what `trainer.pt` says, and make the checkpoint one without hashes. A key set to None goes."""
    trainer = torch.load(directory / checkpoint.TRAINER, weights_only=True) | keys
    torch.save({key: value for key, value in trainer.items() if value is not None}, directory / checkpoint.TRAINER)
    rewritten_marker(directory)


def rewritten_marker(directory: Path) -> None:
    """The marker that formats 1 and 2 had, for the files as they are now."""
    step = json.loads((directory / checkpoint.COMPLETE).read_text())["step"]
    sizes = {name: len(data) for name, data in files(directory).items() if name != checkpoint.COMPLETE}
    (directory / checkpoint.COMPLETE).write_text(json.dumps({"step": step, "files": sizes}))


@pytest.mark.parametrize("teacher", [None, [1.0, 2.0]])
def test_format_1_is_read(teacher: list[float] | None, saved: Path) -> None:
    """There the teacher's state lay among the optimizer's: each comes back under its own name, or not at all."""
    rewritten(saved, format=None, state=None, optimizer={"adamw": {"step": 7}, "masters": None, "teacher": teacher})
    state = checkpoint.load(saved, "abc").state
    assert state["optimizer"] == {"adamw": {"step": 7}, "masters": None}
    assert state.get("teacher") == teacher


@pytest.mark.parametrize("flat", [True, False], ids=["beside trainer.pt", "in model"])
def test_the_model_lies_where_its_format_has_it(flat: bool, saved: Path) -> None:
    """Formats 1 and 2 had the model's files beside `trainer.pt`."""
    if flat:
        (saved / WEIGHTS).rename(saved / "model.safetensors")
        (saved / "model").rmdir()
        rewritten_marker(saved)
    point = checkpoint.load(saved, "abc")
    assert point.model == (saved if flat else saved / "model")
    assert (point.model / "model.safetensors").read_bytes() == b"weights"


def test_a_later_format_is_refused(saved: Path) -> None:
    """Neither is it broken: an older checkpoint must not quietly take its place."""
    marker = (saved / checkpoint.COMPLETE).read_text()
    (saved / checkpoint.COMPLETE).write_text(marker.replace('"format": 3', '"format": 4'))
    for _ in ("marker", "trainer.pt"):
        with pytest.raises(SodError, match="of a later version of sod") as caught:
            checkpoint.load(saved, "abc")
        assert not isinstance(caught.value, BrokenCheckpointError)
        (saved / checkpoint.COMPLETE).write_text(marker)
        rewritten(saved, format=checkpoint.FORMAT + 1)


def test_state_belongs_to_a_namespace(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="state of 'moments': the namespaces are optimizer, teacher"):
        checkpoint.save(tmp_path / "step-000001", Position(1, ""), {"moments": 1}, write_model())
    assert not (tmp_path / "step-000001").exists()


@pytest.mark.parametrize(("keep", "left"), [(1, [3]), (2, [2, 3]), (3, [1, 2, 3]), (9, [1, 2, 3])])
def test_prune_keeps_the_newest(keep: int, left: list[int], tmp_path: Path) -> None:
    """The newest stay, whatever there is."""
    made = []
    for step in (1, 2, 3):
        path = tmp_path / f"step-{step:06d}"
        checkpoint.save(path, Position(step, ""), {}, write_model())
        made.append((step, path))
    checkpoint.prune(made, keep)
    assert sorted(checkpoint.verify(path) for path in tmp_path.iterdir()) == left


def test_prune_does_not_count_what_is_broken(tmp_path: Path) -> None:
    """With room for two, the newest two good ones stay; the broken one between them is left as it is."""
    made = []
    for step in (1, 2, 3, 4):
        made.append((step, tmp_path / f"step-{step:06d}"))
        checkpoint.save(made[-1][1], Position(step, ""), {}, write_model())
    spoil(made[2][1], f"missing {WEIGHTS}")
    checkpoint.prune(made, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000003", "step-000004"]
    assert not (made[2][1] / WEIGHTS).exists()


WATCHED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


def killed_at(count: int, work: Callable[[], None]) -> bool:
    """Do `work` in a fork that kills itself at its `count`-th act on the file system; whether it came that far."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
        return os.waitstatus_to_exitcode(status) != 0
    acts = 0

    def watch(event: str, _: tuple[Any, ...]) -> None:
        nonlocal acts
        if event in WATCHED:
            acts += 1
            if acts == count:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(watch)
        work()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("in_the_way", [False, True], ids=["free", "a broken one in the way"])
def test_a_kill_between_any_two_acts_leaves_a_good_checkpoint(in_the_way: bool, tmp_path: Path) -> None:
    """SIGKILL at every single act of `save` and `prune`: the old checkpoint or the new one is good, and it goes on."""

    def work() -> None:
        checkpoint.save(new, Position(8, "abc"), {"optimizer": 8}, write_model())
        checkpoint.prune([(7, old), (8, new)], 1)

    for count in itertools.count(1):
        directory = tmp_path / str(count)
        log = RunLog.create(directory, {}, 0)
        old, new = log.checkpoint_dir(7), log.checkpoint_dir(8)
        checkpoint.save(old, Position(7, "abc"), {"optimizer": 7}, write_model())
        if in_the_way:
            new.mkdir()
        killed = killed_at(count, work)
        step = checkpoint.newest_good(log.checkpoints(), checkpoint.verify, lambda line: None)
        assert step in ((7, 8) if killed else (8,))
        clear_way(log, step)
        checkpoint.save(log.checkpoint_dir(9), Position(9, "abc"), {}, write_model())
        checkpoint.prune(log.checkpoints(), 1)
        assert [found for found, _ in log.checkpoints()] == [9]
        assert not list((directory / "checkpoints").glob(".*"))
        if not killed:
            break
    assert count > 15
