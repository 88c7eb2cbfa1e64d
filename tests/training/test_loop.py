"""The loop: what is logged and saved when, and where it stops."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from sod.runlog import RunLog
from sod.training import checkpoint
from sod.training.loop import InterruptedRunError, Plan, Trainee, resume_point, run_steps
from sod.training.report import StepReport


class Counter:
    """A trainee whose whole state is the number of steps it has taken."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def step(self, step: int) -> StepReport:
        self.value += 1
        return StepReport(step, {"loss": 1.0 / step, "value": float(self.value)}, lambda: [{"step": step}])

    @property
    def trainee(self) -> Trainee:
        return Trainee(
            lambda: {"optimizer": self.value}, lambda d: (d / "weights").write_text(str(self.value)) and None
        )


def plan(steps: int = 7, every: int = 3, keep: int = 2, **more: Any) -> Plan:
    return Plan(steps, every, keep, "hash", **more)


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    """A new run directory."""
    return RunLog.create(tmp_path / "run", {"seed": 0}, 0)


def saved(log: RunLog) -> list[tuple[int, str]]:
    return [
        (checkpoint.verify(path), (checkpoint.model_of(path) / "weights").read_text()) for _, path in log.checkpoints()
    ]


def test_saves_on_schedule_and_at_the_end(log: RunLog) -> None:
    """Every third step and the last one, of which the newest two are kept; every step is logged and heard."""
    heard: list[int] = []
    counter = Counter()
    run_steps(plan(), log, 0, counter.step, counter.trainee, [lambda report: heard.append(report.step)])
    assert heard == [row["step"] for row in log.metrics()] == list(range(1, 8))
    assert saved(log) == [(6, "6"), (7, "7")]


def test_trajectories_and_evaluations_on_schedule(log: RunLog) -> None:
    """Episodes every second step; evaluations every third and at the end, in the same row of metrics."""
    counter = Counter()
    schedule = plan(trajectories_every=2, evaluate_every=3)
    run_steps(schedule, log, 0, counter.step, counter.trainee, [], lambda step: {"eval/x": step * 10.0})
    assert sorted(path.name for path in (log.path / "trajectories").iterdir()) == [
        f"step-{n:06d}.jsonl" for n in (2, 4, 6)
    ]
    assert {row["step"]: row.get("eval/x") for row in log.metrics() if "eval/x" in row} == {3: 30.0, 6: 60.0, 7: 70.0}


def test_goes_on_where_it_stopped(log: RunLog) -> None:
    """From a checkpoint of step 3, steps 4 to 7 follow and no other."""
    counter = Counter()
    run_steps(plan(steps=3), log, 0, counter.step, counter.trainee, [])
    point = resume_point(log, "hash", pytest.fail)
    assert point is not None
    assert (point.step, point.state) == (3, {"optimizer": 3})
    again = Counter(point.state["optimizer"])
    run_steps(plan(), log, point.step, again.step, again.trainee, [])
    assert [row["value"] for row in log.metrics()] == [1, 2, 3, 4, 5, 6, 7]


def test_nothing_to_resume(log: RunLog) -> None:
    """A run killed before its first checkpoint starts from the beginning; a partial one does not count."""
    assert resume_point(log, "hash", pytest.fail) is None
    log.checkpoint_dir(3).with_name(".step-000003.partial").mkdir()
    assert resume_point(log, "hash", pytest.fail) is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_finishes_the_step(number: int, code: int, log: RunLog) -> None:
    """A real signal in step 2: that step is logged and saved, and the handlers of before are back."""
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    counter = Counter()

    def step(n: int) -> StepReport:
        if n == 2:
            os.kill(os.getpid(), number)
        return counter.step(n)

    with pytest.raises(InterruptedRunError, match="after step 2 of 7") as caught:
        run_steps(plan(), log, 0, step, counter.trainee, [])
    assert caught.value.exit_code == code
    assert saved(log) == [(2, "2")]
    assert [row["step"] for row in log.metrics()] == [1, 2]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_second_signal_stops_at_once(log: RunLog) -> None:
    """Whoever asks twice is not kept waiting; the newest checkpoint stays."""
    counter = Counter()

    def step(n: int) -> StepReport:
        if n == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second signal did not stop the step")
        return counter.step(n)

    with pytest.raises(KeyboardInterrupt):
        run_steps(plan(), log, 0, step, counter.trainee, [])
    assert saved(log) == [(3, "3")]


def test_signal_in_the_last_step_is_a_finished_run(log: RunLog) -> None:
    """Nothing is left to go on with, so nothing was interrupted."""
    counter = Counter()

    def step(n: int) -> StepReport:
        if n == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return counter.step(n)

    run_steps(plan(), log, 0, step, counter.trainee, [])
    assert saved(log)[-1] == (7, "7")
