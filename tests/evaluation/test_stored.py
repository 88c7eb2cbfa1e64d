"""What an evaluation keeps: blocks that hold every episode once, rows that survive a kill, plans that tell apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.evaluation.blocks import LARGEST, SMALLEST, block_size, blocks_of
from sod.evaluation.stored import (
    Plan,
    append_groups,
    grouped,
    read_episodes,
    read_plan,
    read_votes,
    write_finished,
    write_plan,
)
from sod.records import Fault, FaultKind, Group, Message, SodError, StopReason, Task, Trajectory
from sod.runlog import trajectory_row

TASKS = [Task(f"t{n}", (Message("user", "?"),), "1") for n in range(3)]
PLAN = Plan(
    model={"name": "m", "sha256": "a" * 64},
    tasks={"name": "t.parquet", "number": 3, "sha256": "b" * 64},
    settings={"seed": 1, "rollout": {"max_turns": 4}, "student": {"device": "cpu"}},
    stages=(2,),
    block=4,
    step=40,
)


def episode(task: Task, sample: int, answer: str | None = "1", fault: Fault | None = None) -> Trajectory:
    stop = StopReason.ANSWER if fault is None else StopReason.FAULT
    return Trajectory(task.id, sample, 1, (5, 6), (0, 1), (0.0, -0.25), (), stop, answer, answer == "1", fault=fault)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True), st.integers(1, 40))
def test_blocks_hold_every_sample_of_every_task_once(tasks: int, stages: list[int], episodes: int) -> None:
    """And no more episodes than they may, unless a task alone has more."""
    blocks = blocks_of(tasks, sorted(stages), episodes)
    held = Counter(
        (task, sample)
        for block in blocks
        for task in range(block.first_task, block.last_task)
        for sample in range(block.first_sample, block.last_sample)
    )
    assert held == Counter((task, sample) for task in range(tasks) for sample in range(max(stages)))
    for block in blocks:
        together = block.last_task - block.first_task
        assert together == 1 or together * block.samples <= episodes


@pytest.mark.parametrize(
    ("episodes", "wide", "size"),
    [(10, False, SMALLEST), (10, True, LARGEST), (1024, False, 128), (100_000, False, LARGEST)],
)
def test_a_block_is_an_eighth_within_limits(episodes: int, wide: bool, size: int) -> None:
    assert block_size(episodes, wide) == size


def test_rows_survive_a_kill_and_the_latest_of_an_episode_counts(tmp_path: Path) -> None:
    """A row that was cut is not there; what is written after it is."""
    first = Group("t0", (episode(TASKS[0], 0), episode(TASKS[0], 1, "2")), ())
    append_groups(tmp_path, TASKS[:1], [first], None)
    path = tmp_path / "generations.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    assert list(read_episodes(tmp_path)) == [("t0", 0)]
    fault = Fault(FaultKind.SANDBOX, "down")
    again = Group("t0", (episode(TASKS[0], 0, "3"),), (episode(TASKS[0], 1, None, fault),))
    append_groups(tmp_path, TASKS[:1], [again], None)
    held = read_episodes(tmp_path)
    assert held == {("t0", 0): episode(TASKS[0], 0, "3"), ("t0", 1): episode(TASKS[0], 1, None, fault)}
    groups = grouped(TASKS, 2, held, faulted=[("t2", 1)])
    assert [(len(group.trajectories), len(group.faulted)) for group in groups] == [(1, 1), (0, 0), (0, 1)]


def test_a_finished_one_says_so_last(tmp_path: Path) -> None:
    """With what faulted, whose rows are gone, and what each episode voted for."""
    write_plan(tmp_path, PLAN)
    assert read_plan(tmp_path) == PLAN
    rows = [trajectory_row(episode(TASKS[0], 0), TASKS[0], None) | {"vote": "one"}]
    write_finished(tmp_path, PLAN, {"k": 2}, rows, [("t0", 1)])
    assert read_plan(tmp_path) == replace(PLAN, finished=True, faulted=(("t0", 1),))
    assert read_votes(tmp_path) == {("t0", 0): "one"}
    assert read_plan(tmp_path / "gone") is None


def test_a_plan_of_another_format_or_none_is_refused(tmp_path: Path) -> None:
    for content, said in (
        ('{"format": 9}', "format 9 is of another version of sod"),
        ('{"format": 1, "stages": [1]}', "not the plan of an evaluation"),
        ("[]", "not a JSON object"),
    ):
        (tmp_path / "plan.json").write_text(content)
        with pytest.raises(SodError, match=said):
            read_plan(tmp_path)


DIFFERENT = {
    "model": ({"model": {"name": "m", "sha256": "c" * 64}}, "model: m (aaaaaaaa) there and m (cccccccc) here"),
    "settings": (
        {"settings": {**PLAN.settings, "rollout": {"max_turns": 2}}},
        "rollout.max_turns: 4 there and 2 here",
    ),
    "device": ({"settings": {**PLAN.settings, "student": {"device": "cuda"}}}, None),
    "more samples": ({"stages": (2, 8)}, None),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_computes_something_else_is_told_apart(what: str) -> None:
    """By the first thing that differs; what changes no episode does not count."""
    changes, said = DIFFERENT[what]
    assert PLAN.differs(replace(PLAN, **changes)) == said
