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
    Fault,
    FaultKind,
    Message,
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
)
SCHEMA = {"type": "function", "function": {"name": "python", "parameters": {"type": "object"}}}


def trajectory(fault: Fault | None = None) -> Trajectory:
    turns = (
        Turn(
            index=1,
            start=2,
            stop=5,
            text="<tool_call>",
            calls=(ToolCall("python", {"code": "1/0"}),),
            results=(ToolResult("ZeroDivisionError", error="exception", seconds=0.25),),
        ),
        Turn(index=2, start=6, stop=8, text="The answer is 4."),
    )
    return Trajectory(
        task_id="add-3",
        sample=1,
        prompt_tokens=2,
        token_ids=tuple(range(8)),
        turn_ids=(0, 0, 1, 1, 1, 0, 2, 2),
        sampled_logps=(0.0,) * 8,
        turns=turns,
        stop=StopReason.FAULT if fault else StopReason.ANSWER,
        answer="4",
        correct=True,
        reward=1.0,
        fault=fault,
    )


def test_a_trajectory_becomes_a_row_and_comes_back(run: RunLog) -> None:
    row = trajectory_row(trajectory(), divergence=[0.218, math.nan], weight=[1.0, 0.17])
    run.write_trajectories(12, [row, trajectory_row(trajectory())])
    assert (run.path / "trajectories" / "step-000012.jsonl").exists()
    first, second = run.trajectories(12)
    assert first == {
        "task_id": "add-3",
        "sample": 1,
        "stop": "answer",
        "reward": 1.0,
        "correct": True,
        "answer": "4",
        "verdict": "",
        "fault": None,
        "prompt_tokens": 2,
        "response_tokens": 6,
        "turns": [
            {
                "k": 1,
                "n_tokens": 3,
                "d_k": 0.218,
                "w_k": 1.0,
                "text": "<tool_call>",
                "calls": [{"name": "python", "arguments": {"code": "1/0"}}],
                "results": [{"text": "ZeroDivisionError", "error": "exception", "seconds": 0.25}],
            },
            {
                "k": 2,
                "n_tokens": 2,
                "d_k": None,
                "w_k": 0.17,
                "text": "The answer is 4.",
                "calls": [],
                "results": [],
            },
        ],
    }
    assert [(turn["d_k"], turn["w_k"]) for turn in second["turns"]] == [(None, None)] * 2


def test_a_fault_is_told_in_the_row() -> None:
    row = trajectory_row(trajectory(Fault(FaultKind.UNREACHABLE, "connection refused")))
    assert row["fault"] == {"kind": "unreachable", "detail": "connection refused"}
    assert row["stop"] == "fault"


def test_columns_that_do_not_fit_the_turns_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"add-3#1: 1 divergence values for 2 turns"):
        trajectory_row(trajectory(), divergence=[0.1])
    with pytest.raises(ValueError, match=r"add-3#1: 3 weight values for 2 turns"):
        trajectory_row(trajectory(), weight=[1.0, 1.0, 1.0])
