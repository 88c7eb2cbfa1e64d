"""Checkpoints are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sod.records import SodError
from sod.training import checkpoint
from sod.training.checkpoint import Position


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
    listed = json.loads((saved / checkpoint.COMPLETE).read_text())["files"]
    assert listed == {name: len(data) for name, data in files(saved).items() if name != checkpoint.COMPLETE}


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
    assert set(files(saved.with_name("step-000008"))) == {"model.safetensors", checkpoint.TRAINER, checkpoint.COMPLETE}
    assert not partial.exists()


def test_replaces_a_checkpoint_of_the_same_step(saved: Path) -> None:
    """A replayed step's checkpoint takes the place of the old one, whole."""
    (saved / "stale").write_text("x")
    checkpoint.save(saved, Position(7, "abc"), {}, write_model(b"new weights"))
    assert checkpoint.verify(saved) == 7
    assert (saved / "model.safetensors").read_bytes() == b"new weights"
    assert not (saved / "stale").exists()


@pytest.mark.parametrize("name", ["model.safetensors", checkpoint.TRAINER, checkpoint.COMPLETE])
@pytest.mark.parametrize("cut", [True, False], ids=["cut", "removed"])
def test_verify_names_what_is_wrong(name: str, cut: bool, saved: Path) -> None:
    """A file that is missing or cut short is named, with the way out."""
    if cut:
        with open(saved / name, "r+b") as file:
            file.truncate(3)
    else:
        (saved / name).unlink()
    with pytest.raises(SodError) as caught:
        checkpoint.verify(saved)
    assert name in str(caught.value)
    assert f"remove {saved}" in str(caught.value)
    with pytest.raises(SodError):
        checkpoint.load(saved, "abc")


@pytest.mark.parametrize("text", ["", "[]", "null", '{"step": 1}', '{"step": "x", "files": {}}'])
def test_marker_of_another_shape(text: str, saved: Path) -> None:
    """JSON that is no marker is refused as cut short, not with a traceback."""
    (saved / checkpoint.COMPLETE).write_text(text)
    with pytest.raises(SodError, match="cut short"):
        checkpoint.verify(saved)


def test_another_recipe(saved: Path) -> None:
    """The optimizer state of another recipe is not taken over."""
    with pytest.raises(SodError, match="another recipe"):
        checkpoint.load(saved, "abd")


def rewritten(directory: Path, **keys: Any) -> None:
    """Change what `trainer.pt` says, and the size that the marker has of it. A key set to None goes."""
    trainer = torch.load(directory / checkpoint.TRAINER, weights_only=True) | keys
    torch.save({key: value for key, value in trainer.items() if value is not None}, directory / checkpoint.TRAINER)
    marker = json.loads((directory / checkpoint.COMPLETE).read_text())
    marker["files"][checkpoint.TRAINER] = (directory / checkpoint.TRAINER).stat().st_size
    (directory / checkpoint.COMPLETE).write_text(json.dumps(marker))


@pytest.mark.parametrize("teacher", [None, [1.0, 2.0]])
def test_format_1_is_read(teacher: list[float] | None, saved: Path) -> None:
    """There the teacher's state lay among the optimizer's: each comes back under its own name, or not at all."""
    rewritten(saved, format=None, state=None, optimizer={"adamw": {"step": 7}, "masters": None, "teacher": teacher})
    state = checkpoint.load(saved, "abc").state
    assert state["optimizer"] == {"adamw": {"step": 7}, "masters": None}
    assert state.get("teacher") == teacher


def test_a_later_format_is_refused(saved: Path) -> None:
    rewritten(saved, format=checkpoint.FORMAT + 1)
    with pytest.raises(SodError, match="of a later version of sod"):
        checkpoint.load(saved, "abc")


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
