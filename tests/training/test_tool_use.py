"""When vanishing tool calls are told, and when not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sod.training.tool_use import ToolUse, span_of


def told(rows: Sequence[tuple[float, float]], span: int = 1, recalled: int = 0) -> list[str]:
    """What is said of steps with these shares of episodes that call and turns, the first `recalled` of an older run."""
    heard: list[str] = []
    watched = ToolUse(span, heard.append)
    metrics = [{"tool_use": use, "turns": turns, "reward": -0.5} for use, turns in rows]
    watched.recall(metrics[:recalled])
    for step, row in enumerate(metrics[recalled:], recalled + 1):
        watched.look(step, row)
    return heard


def test_calls_that_vanish_are_told_once_with_step_and_figures() -> None:
    (line,) = told([(0.8, 3.0), (0.7, 3.0), (0.06, 1.5), (0.0, 1.0), (0.9, 3.0), (0.0, 1.0)])
    assert line.startswith(
        "step 3: the student stops calling its tools: in its last step 6% of the episodes called one, with 1.5 turns "
        "an episode and a reward of -0.50; in its first step 80%, 3.0 and -0.50."
    )
    assert "optim.lr" in line


def test_turns_that_collapse_are_told_too() -> None:
    """With 4 turns after the first at the start, 0.4 are the limit."""
    (line,) = told([(0.8, 5.0), (0.3, 1.5), (0.3, 1.4)])
    assert line.startswith("step 3: ")


@pytest.mark.parametrize(
    "rows",
    [
        [(0.8, 3.0), (0.1, 1.5), (0.09, 1.5)],  # few calls, but some
        [(0.24, 1.2), (0.0, 1.0)],  # hardly any at the start
        [(0.5, 1.5), (0.4, 1.0)],  # one turn is what episodes had
        [(1.0, 30.0), (1.0, 6.0)],  # a world that is left sooner
    ],
)
def test_nothing_is_said_of_less(rows: list[tuple[float, float]]) -> None:
    assert told(rows) == []


def test_small_steps_are_looked_at_together() -> None:
    """16 episodes a step: the first two steps and the latest two."""
    span = span_of(16)
    assert span == 2
    rows = [(0.6, 2.5), (0.7, 2.4), (0.6, 3.0), (0.0, 1.0)]
    assert told(rows, span) == []
    (line,) = told([*rows, (0.0, 1.0)], span)
    assert line.startswith("step 5: ")
    assert "in its last 2 steps 0%" in line
    assert "in its first 2 steps 65%" in line


def test_a_resumed_run_remembers_its_start_and_what_was_told() -> None:
    rows = [(0.8, 3.0), (0.8, 3.0), (0.0, 1.0), (0.0, 1.0)]
    assert len(told(rows, recalled=2)) == 1
    assert told(rows, recalled=3) == []
    assert told(rows[2:]) == []  # without its start nothing fell


@pytest.mark.parametrize(("episodes", "span"), [(1, 32), (31, 2), (32, 1), (1024, 1)])
def test_a_span_holds_enough_episodes(episodes: int, span: int) -> None:
    assert span_of(episodes) == span
