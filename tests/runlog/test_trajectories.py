"""Trajectories as rows: what they hold, that they come back, and rows of runs before them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.records import (
    ROLES,
    Fault,
    FaultKind,
    MalformedCall,
    Message,
    Opening,
    Said,
    SodError,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
    Turn,
)
from sod.runlog import RunLog, read_trajectory_rows, trajectory_of, trajectory_row, write_evaluation

FORMAT_1 = Path(__file__).parents[1] / "data" / "format1-run" / "run"
TASK = Task(
    "add-3",
    (Message("system", "Use the tool."), Message("user", "1 + 3 = ?")),
    "4",
    truths=("four",),
)
SCHEMA = {"type": "function", "function": {"name": "python", "parameters": {"type": "object"}}}


FIRST = Turn(
    index=1,
    start=2,
    stop=5,
    text="hm</think><tool_call>",
    calls=(ToolCall("python", {"code": "1/0"}), ToolCall("", {})),
    results=(ToolResult("ZeroDivisionError", error="exception", seconds=0.25), ToolResult("bad", error="invalid_json")),
    said=Said("hm", "", (ToolCall("python", {"code": "1/0"}), MalformedCall("invalid_json", "no brace"))),
)
SECOND = Turn(index=2, start=6, stop=8, text="The answer is 4.", said=Said("", "The answer is 4."))


def trajectory(fault: Fault | None = None) -> Trajectory:
    return Trajectory(
        task_id="add-3",
        sample=1,
        prompt_tokens=2,
        token_ids=tuple(range(8)),
        turn_ids=(0, 0, 1, 1, 1, 0, 2, 2),
        sampled_logps=(0.0, 0.0, -0.5, -0.25, -1.5, 0.0, -0.125, -2.0),
        turns=(FIRST, SECOND),
        stop=StopReason.FAULT if fault else StopReason.ANSWER,
        answer="4",
        correct=True,
        reward=1.5,
        reward_parts={"correct": 1.0, "tool_bonus": 0.5},
        fault=fault,
    )


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog.create(tmp_path / "run", {}, seed=7)


def test_a_row_holds_the_episode_and_what_was_made_of_it(log: RunLog) -> None:
    scores = [math.nan, math.nan, -0.1, -0.2, -0.3, math.nan, -0.4, -0.5]
    row = trajectory_row(
        trajectory(),
        TASK,
        [SCHEMA],
        turn_gap=[0.218, math.nan],
        weight=[1.0, 0.17],
        teacher_logps=scores,
        advantages=[0.0, 0.0, 1.0, 2.0, 3.0, 0.0, 4.0, 5.0],
    )
    log.write_trajectories(12, [row])
    assert (log.path / "trajectories" / "step-000012.jsonl").exists()
    (read,) = log.trajectories(12)
    assert read == {
        "format": 2,
        "task_id": "add-3",
        "sample": 1,
        "stop": "answer",
        "reward": 1.5,
        "reward_parts": {"correct": 1.0, "tool_bonus": 0.5},
        "correct": True,
        "answer": "4",
        "verdict": "",
        "fault": None,
        "truths": ["4", "four"],
        "prompt": [{"role": "system", "content": "Use the tool."}, {"role": "user", "content": "1 + 3 = ?"}],
        "tools": [SCHEMA],
        "environment": None,
        "prompt_tokens": 2,
        "response_tokens": 6,
        "prompt_ids": [0, 1],
        "token_ids": [0, 1, 2, 3, 4, 5, 6, 7],
        "turn_ids": [0, 0, 1, 1, 1, 0, 2, 2],
        "sampled_logps": [0.0, 0.0, -0.5, -0.25, -1.5, 0.0, -0.125, -2.0],
        "teacher_logps": [None, None, -0.1, -0.2, -0.3, None, -0.4, -0.5],
        "advantages": [None, None, 1.0, 2.0, 3.0, None, 4.0, 5.0],
        "versions": [],
        "turns": [
            {
                "k": 1,
                "start": 2,
                "n_tokens": 3,
                "d_k": 0.218,
                "w_k": 1.0,
                "text": "hm</think><tool_call>",
                "said": {
                    "thinking": "hm",
                    "answer": "",
                    "calls": [
                        {"name": "python", "arguments": {"code": "1/0"}},
                        {"error": "invalid_json", "detail": "no brace"},
                    ],
                },
                "calls": [{"name": "python", "arguments": {"code": "1/0"}}, {"name": "", "arguments": {}}],
                "results": [
                    {"text": "ZeroDivisionError", "error": "exception", "seconds": 0.25},
                    {"text": "bad", "error": "invalid_json", "seconds": 0.0},
                ],
                "reply": None,
                "reward": 0.0,
            },
            {
                "k": 2,
                "start": 6,
                "n_tokens": 2,
                "d_k": None,
                "w_k": 0.17,
                "text": "The answer is 4.",
                "said": {"thinking": "", "answer": "The answer is 4.", "calls": []},
                "calls": [],
                "results": [],
                "reply": None,
                "reward": 0.0,
            },
        ],
    }


def test_what_is_not_known_is_null(log: RunLog) -> None:
    log.write_trajectories(1, [trajectory_row(trajectory())])
    (row,) = log.trajectories(1)
    unknown = {"truths", "prompt", "tools", "teacher_logps", "advantages", "fault", "environment"}
    assert {key for key, value in row.items() if value is None} == unknown
    assert [(turn["d_k"], turn["w_k"]) for turn in row["turns"]] == [(None, None)] * 2


def test_a_fault_is_told_in_the_row() -> None:
    row = trajectory_row(trajectory(Fault(FaultKind.UNREACHABLE, "connection refused", retryable=False)))
    assert row["fault"] == {"kind": "unreachable", "detail": "connection refused", "retryable": False}
    assert row["stop"] == "fault"


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("turn_gap", [0.1], "1 turn_gap values for 2 turns"),
        ("weight", [1.0, 1.0, 1.0], "3 weight values for 2 turns"),
        ("turn_gap", [], "0 turn_gap values for 2 turns"),
        ("teacher_logps", [0.0] * 5, "5 teacher_logps values for 8 tokens"),
        ("advantages", [0.0] * 9, "9 advantages values for 8 tokens"),
    ],
)
def test_columns_that_do_not_fit_are_an_error(column: str, values: list[float], message: str) -> None:
    arguments: dict[str, Any] = {column: values}
    with pytest.raises(ValueError, match=f"add-3#1: {message}"):
        trajectory_row(trajectory(), **arguments)


# --- back to records ---------------------------------------------------------------------------------

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CALLS = st.builds(
    ToolCall, st.text(max_size=8), st.dictionaries(st.text(max_size=5), VALUES, max_size=3), st.none() | st.text()
)
MALFORMED = st.builds(MalformedCall, st.text(max_size=8), st.text(max_size=8))
RESULTS = st.builds(ToolResult, st.text(max_size=8), st.none() | st.text(max_size=8), FLOATS)
SAID = st.builds(Said, st.text(max_size=8), st.text(max_size=8), st.lists(CALLS | MALFORMED, max_size=2).map(tuple))

PROMPTS = st.lists(st.builds(Message, st.sampled_from(ROLES), st.text(max_size=8)), max_size=2).map(tuple)
OPENINGS = st.none() | st.builds(Opening, st.integers(0, 2**63 - 1), PROMPTS, st.just((SCHEMA,)), FLOATS)


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    """Any ledger: a prompt, then turns with or without context behind them."""
    turn_ids = [0] * draw(st.integers(0, 3))
    prompt_tokens = len(turn_ids)
    turns = []
    for k in range(1, draw(st.integers(1, 4))):
        start = len(turn_ids)
        turn_ids += [k] * draw(st.integers(0, 3))
        texts = (draw(st.text(max_size=8)), draw(st.lists(CALLS, max_size=2)), draw(st.lists(RESULTS, max_size=2)))
        world = draw(st.none() | st.text(max_size=8)), draw(FLOATS)
        turns.append(Turn(k, start, len(turn_ids), texts[0], tuple(texts[1]), tuple(texts[2]), draw(SAID), *world))
        turn_ids += [0] * draw(st.integers(0, 2))
    logps = [draw(FLOATS) if turn else 0.0 for turn in turn_ids]
    return Trajectory(
        task_id=draw(st.text(max_size=8)),
        sample=draw(st.integers(0, 9)),
        prompt_tokens=prompt_tokens,
        token_ids=tuple(draw(st.integers(0, 200_000)) for _ in turn_ids),
        turn_ids=tuple(turn_ids),
        sampled_logps=tuple(logps),
        turns=tuple(turns),
        stop=draw(st.sampled_from(StopReason)),
        answer=draw(st.none() | st.text(max_size=8)),
        correct=draw(st.booleans()),
        reward=draw(FLOATS),
        verdict=draw(st.text(max_size=8)),
        fault=draw(st.none() | st.builds(Fault, st.sampled_from(FaultKind), st.text(max_size=8), st.booleans())),
        reward_parts=draw(st.dictionaries(st.text(max_size=5), FLOATS, max_size=2)),
        opening=draw(OPENINGS),
    )


@settings(deadline=None)  # it writes files, on whatever disk
@given(st.lists(trajectories(), max_size=3))
def test_a_trajectory_comes_back_equal_to_itself(
    tmp_path_factory: pytest.TempPathFactory, played: list[Trajectory]
) -> None:
    log = RunLog.create(tmp_path_factory.mktemp("rows"), {}, 0)
    log.write_trajectories(1, [trajectory_row(one) for one in played])
    assert [trajectory_of(row) for row in log.trajectories(1)] == played


# --- files of other versions -------------------------------------------------------------------------


def test_rows_of_format_1_come_back_with_what_they_lack_as_null() -> None:
    """A file that format 1's own code wrote: what people read is there, and nothing to compute with."""
    path = FORMAT_1 / "trajectories" / "step-000001.jsonl"
    rows = read_trajectory_rows(path)
    assert rows == RunLog.open(FORMAT_1).trajectories(1)
    now = trajectory_row(trajectory())
    for row, line in zip(rows, path.read_text().splitlines(), strict=True):
        written = json.loads(line)
        assert "format" not in written
        assert row["format"] == 1
        assert row.keys() == now.keys()
        assert {key: row[key] for key in written} == written
        assert all(row[key] is None for key in row.keys() - written.keys() - {"format"})
        with pytest.raises(ValueError, match=f"{row['task_id']}#{row['sample']}: a row of format 1 has no token ids"):
            trajectory_of(row)
    calls = [call for row in rows for turn in row["turns"] for call in turn["calls"]]
    assert {call["name"] for call in calls} == {"python"}


def test_a_file_may_hold_both_formats(tmp_path: Path) -> None:
    """A run of format 1 that goes on today writes its later steps in format 2; so may a file joined by hand."""
    path = tmp_path / "both.jsonl"
    older = {"task_id": "a", "sample": 0}
    path.write_text("\n".join(json.dumps(row) for row in (older, trajectory_row(trajectory()))) + "\n")
    first, second = read_trajectory_rows(path)
    assert (first["format"], first["token_ids"]) == (1, None)
    assert trajectory_of(second) == trajectory()


@pytest.mark.parametrize("version", [3, "2", None])
def test_a_row_of_a_later_format_is_named(tmp_path: Path, version: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"task_id": "a"}) + "\n" + json.dumps({"format": version}) + "\n")
    with pytest.raises(SodError, match=r"rows\.jsonl:2: trajectory format .* later version of sod"):
        read_trajectory_rows(path)


def test_a_cut_row_is_left_out_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(trajectory_row(trajectory())) + '\n{"format": 2, "task')
    with pytest.warns(UserWarning, match=r"rows\.jsonl:2: a cut line"):
        assert [trajectory_of(row) for row in read_trajectory_rows(path)] == [trajectory()]


def test_an_evaluation_keeps_its_figures_and_every_episode(tmp_path: Path) -> None:
    other = replace(trajectory(), sample=2)
    write_evaluation(tmp_path / "eval", {"k": 2}, (trajectory_row(one, TASK) for one in (trajectory(), other)))
    assert json.loads((tmp_path / "eval" / "evaluation.json").read_text()) == {"k": 2}
    rows = read_trajectory_rows(tmp_path / "eval" / "generations.jsonl")
    assert [trajectory_of(row) for row in rows] == [trajectory(), other]
    assert [row["truths"] for row in rows] == [["4", "four"]] * 2
