"""Trajectories as JSON lines: `trajectories/step-*.jsonl` of a run, `generations.jsonl` of an evaluation.

Format 2 is for reading and for computing: what people read (prompt, text, calls, results) beside the token ledger
and the numbers that belong to its tokens. Lists over tokens are as long as `token_ids`. Format 1 had what people read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sod.records import (
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
from sod.runlog.files import read_lines, write_json_atomic, write_lines_atomic

FORMAT = 2
NEW_FIELDS = (
    "prompt",
    "tools",
    "truths",
    "reward_parts",
    "environment",
    "prompt_ids",
    "token_ids",
    "turn_ids",
    "sampled_logps",
    "teacher_logps",
    "advantages",
    "versions",
)
"""What a row of format 1 does not have."""


def trajectory_row(
    trajectory: Trajectory,
    task: Task | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    turn_gap: Sequence[float | None] | None = None,
    weight: Sequence[float | None] | None = None,
    coverage: Sequence[float] | None = None,
    teacher_logps: Sequence[float | None] | None = None,
    advantages: Sequence[float] | None = None,
    began: int = 0,
) -> dict[str, Any]:
    """A trajectory as one JSON-able row of format 2, with what its task, teacher and method add to it.

    `tools` are the schemas that the model was shown. `turn_gap` (d_k, nats/token), `weight` (w_k) and `coverage`
    are aligned with `trajectory.turns`; `teacher_logps` (nats) and `advantages` with `trajectory.token_ids`, of which
    the row keeps the values at action tokens and has null at context. A teacher of another tokenizer has null at the
    tokens that it cannot score, and `coverage` is the share of each turn's contents that it can. What is not given is
    null as a whole; turns have no coverage then. `versions` count the steps that the weights of each sampled turn had
    behind them, `began` of them before the engine counted.
    Raises ValueError if a list is not as long as the turns or the tokens.
    """
    turns, tokens = len(trajectory.turns), len(trajectory.token_ids)
    _check_length(trajectory, "turn_gap", turn_gap, turns, "turns")
    _check_length(trajectory, "weight", weight, turns, "turns")
    _check_length(trajectory, "coverage", coverage, turns, "turns")
    _check_length(trajectory, "teacher_logps", teacher_logps, tokens, "tokens")
    _check_length(trajectory, "advantages", advantages, tokens, "tokens")
    blank: list[float | None] = [None] * turns
    columns = zip(trajectory.turns, turn_gap or blank, weight or blank, coverage or blank, strict=True)
    fault, opening = trajectory.fault, trajectory.opening
    return {
        "format": FORMAT,
        "task_id": trajectory.task_id,
        "sample": trajectory.sample,
        "stop": trajectory.stop.value,
        "reward": trajectory.reward,
        "reward_parts": trajectory.reward_parts,
        "correct": trajectory.correct,
        "answer": trajectory.answer,
        "verdict": trajectory.verdict,
        "fault": None if fault is None else {"kind": fault.kind, "detail": fault.detail, "retryable": fault.retryable},
        "truths": None if task is None or task.verifier == "code" else [task.ground_truth, *task.truths],  # no tests
        "prompt": _prompt_rows(task, opening),
        "tools": None if tools is None and opening is None else [dict(schema) for schema in _shown(opening, tools)],
        "environment": None if opening is None else {"seed": opening.seed, "earned": opening.earned},
        "prompt_tokens": trajectory.prompt_tokens,
        "response_tokens": trajectory.response_tokens,
        "turns": [_turn_row(*of_turn) for of_turn in columns],
        "prompt_ids": trajectory.token_ids[: trajectory.prompt_tokens],
        "token_ids": trajectory.token_ids,
        "turn_ids": trajectory.turn_ids,
        "sampled_logps": trajectory.sampled_logps,
        "teacher_logps": _at_actions(trajectory, teacher_logps),
        "advantages": _at_actions(trajectory, advantages),
        "versions": [began + version for version in trajectory.versions],
    }


def read_trajectory_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of either format, each with every field of format 2: null where format 1 has none.

    Their turns are as they were written: those of format 1 lack `start` and `said`.
    Cut lines are left out with a warning. Raises SodError where the file cannot be read, a line is no JSON object, or
    a row is of a later format.
    """
    return [full_row(row, f"{path}:{number}") for number, row in read_lines(path)]


def full_row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A row of either format with every field of format 2. Raises SodError, naming `where`, for a later format."""
    version = row.get("format", 1)
    if version not in (1, FORMAT):
        raise SodError(f"{where}: trajectory format {version!r} is of a later version of sod; read it there")
    return {**dict.fromkeys(NEW_FIELDS), **row, "format": version}


def trajectory_of(row: Mapping[str, Any]) -> Trajectory:
    """The trajectory that a row of format 2 was made of. Raises ValueError for a row of format 1, which has no tokens.

    Equal to the original, but for NaN and infinities in a call's arguments, which JSON does not have.
    """
    if row["token_ids"] is None:
        raise ValueError(f"{row['task_id']}#{row['sample']}: a row of format 1 has no token ids")
    fault = row["fault"]
    return Trajectory(
        task_id=row["task_id"],
        sample=row["sample"],
        prompt_tokens=row["prompt_tokens"],
        token_ids=tuple(row["token_ids"]),
        turn_ids=tuple(row["turn_ids"]),
        sampled_logps=tuple(row["sampled_logps"]),
        turns=tuple(_turn_of(turn) for turn in row["turns"]),
        stop=StopReason(row["stop"]),
        answer=row["answer"],
        correct=row["correct"],
        reward=row["reward"],
        reward_parts=row["reward_parts"],
        verdict=row["verdict"],
        fault=None if fault is None else Fault(FaultKind(fault["kind"]), fault["detail"], fault["retryable"]),
        opening=_opening_of(row),
        versions=tuple(row.get("versions") or ()),
    )


def write_evaluation(directory: Path, figures: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `evaluation.json` (the figures and where they come from) and `generations.jsonl` (a row per episode)."""
    write_lines_atomic(directory / "generations.jsonl", rows)
    write_json_atomic(directory / "evaluation.json", figures)


def _prompt_rows(task: Task | None, opening: Opening | None) -> list[dict[str, Any]] | None:
    """The prompt that the student read; None where nobody knows it."""
    if opening is not None:
        return [_message_row(message) for message in opening.prompt]
    return None if task is None else [_message_row(message) for message in task.prompt]


def _shown(opening: Opening | None, tools: Sequence[Mapping[str, Any]] | None) -> Sequence[Mapping[str, Any]]:
    return tools or () if opening is None else opening.tools


def _opening_of(row: Mapping[str, Any]) -> Opening | None:
    world = row.get("environment")
    if world is None:
        return None
    return Opening(world["seed"], tuple(map(_message_of, row["prompt"])), tuple(row["tools"]), world["earned"])


def _turn_row(turn: Turn, turn_gap: float | None, weight: float | None, coverage: float | None) -> dict[str, Any]:
    row = {
        "k": turn.index,
        "start": turn.start,
        "n_tokens": turn.stop - turn.start,
        "d_k": turn_gap,
        "w_k": weight,
        "text": turn.text,
        "said": {
            "thinking": turn.said.thinking,
            "answer": turn.said.answer,
            "calls": [_call_row(call) for call in turn.said.calls],
        },
        "calls": [_call_row(call) for call in turn.calls],
        "results": [{"text": r.text, "error": r.error, "seconds": r.seconds} for r in turn.results],
        "reply": turn.reply,
        "reward": turn.reward,
    }
    return row if coverage is None else row | {"coverage": coverage}


def _turn_of(row: Mapping[str, Any]) -> Turn:
    said = row["said"]
    return Turn(
        index=row["k"],
        start=row["start"],
        stop=row["start"] + row["n_tokens"],
        text=row["text"],
        calls=tuple(ToolCall(**call) for call in row["calls"]),
        results=tuple(ToolResult(**result) for result in row["results"]),
        said=Said(said["thinking"], said["answer"], tuple(_call_of(call) for call in said["calls"])),
        reply=row.get("reply"),
        reward=row.get("reward", 0.0),
    )


def _message_row(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        row["tool_calls"] = [_call_row(call) for call in message.tool_calls]
    if message.name is not None:
        row["name"] = message.name
    if message.reasoning is not None:
        row["reasoning"] = message.reasoning
    return row


def _message_of(row: Mapping[str, Any]) -> Message:
    calls = tuple(ToolCall(**call) for call in row.get("tool_calls", ()))
    return Message(row["role"], row["content"], calls, row.get("name"), row.get("reasoning"))


def _call_row(call: ToolCall | MalformedCall) -> dict[str, Any]:
    if isinstance(call, MalformedCall):
        return {"error": call.error, "detail": call.detail}
    row = {"name": call.name, "arguments": dict(call.arguments)}
    return row if call.id is None else row | {"id": call.id}


def _call_of(row: Mapping[str, Any]) -> ToolCall | MalformedCall:
    return MalformedCall(**row) if "error" in row else ToolCall(**row)


def _at_actions(trajectory: Trajectory, values: Sequence[float | None] | None) -> list[float | None] | None:
    """The values at action tokens, None at context."""
    if values is None:
        return None
    return [value if turn else None for value, turn in zip(values, trajectory.turn_ids, strict=True)]


def _check_length(trajectory: Trajectory, name: str, values: Sequence[Any] | None, count: int, unit: str) -> None:
    if values is not None and len(values) != count:
        raise ValueError(f"{trajectory.task_id}#{trajectory.sample}: {len(values)} {name} values for {count} {unit}")
