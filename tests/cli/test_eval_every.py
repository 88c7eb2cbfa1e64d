"""`sod eval RUN --every`: the checkpoints of a run as one table, one curve and one run of the trackers."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sod.runlog import RunLog

PNG = b"\x89PNG"


@pytest.fixture
def run(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run at `mine` of the working directory, with checkpoints at steps 2 and 3."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world.path / "sod", "mine")
    assert [step for step, _ in RunLog.open("mine").checkpoints()] == [2, 3]
    return Path("mine")


def every(sod: Any, run: Path, world: Any, *more: str) -> Any:
    return sod("eval", run, "--data", world.data("test"), "-k", "1", "--tasks", "2", "--every", *more)


def figures(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "evaluation.json").read_text())
    return content


@pytest.mark.slow
def test_each_checkpoint_is_evaluated_once(run: Path, world: Any, sod: Any) -> None:
    """As it would be by itself; a checkpoint that comes later is the only one played then."""
    later = shutil.move(run / "checkpoints" / "step-000003", "later")
    assert every(sod, run, world).code == 0
    shutil.move(later, run / "checkpoints" / "step-000003")
    alone = sod("eval", run, "--data", world.data("test"), "-k", "1", "--tasks", "2", "--out", "alone")
    assert alone.code == 0, alone.err
    ended = every(sod, run, world, "trackers=[tensorboard]")
    assert ended.code == 0, ended.err
    (before,) = [line for line in ended.err.splitlines() if "was evaluated before" in line]
    assert before.startswith("note: step 2: ")
    assert "/test-tasks2-k1-step2: " in before
    assert "step 2" in ended.out
    assert "step 3" in ended.out
    curve = run / "evaluations" / "test-tasks2-k1-curve"
    rows = json.loads(curve.with_suffix(".json").read_text())["steps"]
    for step in ("2", "3"):
        written = figures(run / "evaluations" / f"test-tasks2-k1-step{step}")
        assert written["step"] == int(step)
        assert rows[step] == {key: written[key] for key in rows[step]}
    assert rows["3"] == {key: figures(Path("alone"))[key] for key in rows["3"]}
    assert curve.with_suffix(".png").read_bytes().startswith(PNG)
    if find_spec("tensorboard") is not None:
        assert _points(curve / "trackers" / "tensorboard" / "tensorboard") == [
            (int(step), pytest.approx(rows[step]["avg_at_k"])) for step in ("2", "3")
        ]


def _points(directory: Path) -> list[tuple[int, Any]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("eval/avg_at_k")]


@pytest.mark.slow
def test_every_so_many_steps(run: Path, world: Any, sod: Any) -> None:
    """Into a directory that --out names, one for each step."""
    ended = every(sod, run, world, "--steps", "3", "--out", "out")
    assert ended.code == 0, ended.err
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "step3",
        "test-tasks2-k1-curve.json",
        "test-tasks2-k1-curve.png",
    ]


def test_what_has_no_such_checkpoints_is_refused(run: Path, world: Any, sod: Any) -> None:
    for model, more, said in (
        (run, ("--steps", "5"), "mine: no checkpoint is at a multiple of 5 steps; it has those of 2, 3"),
        (run / "checkpoints" / "step-000002", (), "--every is about the checkpoints of a run; name a run directory"),
    ):
        ended = every(sod, model, world, *more)
        assert (ended.code, len(ended.err.splitlines())) == (1, 1)
        assert said in ended.err
    ended = sod("eval", run, "--data", world.data("test"), "--steps", "5")
    assert (ended.code, "--steps 5: says which checkpoints --every takes" in ended.err) == (1, True)
