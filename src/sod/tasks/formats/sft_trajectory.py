"""Our own episodes (`trajectories/*.jsonl` of a run, `generations.jsonl` of an evaluation) as conversations.

The turns are written anew from what the dialect read of them, so their tokens need not be those that were sampled. A
turn with a call that could not be read keeps it as text and is context, as is what the tool answered: it is shown and
not trained on. The last turn of an episode that ran out of tokens was cut off, and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sod.chat.dialects import hermes
from sod.records import MalformedCall, Message, Said, StopReason, ToolCall
from sod.tasks.base import Conversation
from sod.tasks.formats.base import BadRowError, Fields, Row, Shape
from sod.tasks.formats.calls import read_call
from sod.tasks.formats.content import checked
from sod.tasks.formats.conversation import made
from sod.tasks.formats.messages import read_messages
from sod.tasks.formats.tools import read_tools

_FIGURES = ("format", "task_id", "sample", "stop", "reward_parts", "correct", "answer", "verdict", "truths")
_WORLD = ("environment",)
_NUMBERS = ("prompt_tokens", "response_tokens", "prompt_ids", "token_ids", "turn_ids", "sampled_logps")
_SIGNALS = ("teacher_logps", "advantages")


def _read(fields: Fields, name: str) -> Conversation:
    for column in (*_FIGURES, *_WORLD, *_NUMBERS, *_SIGNALS):
        fields.use(column)  # what is known of the episode, not what was said in it
    fault = fields.use("fault")
    if fault:
        kind = fault.get("kind") if isinstance(fault, dict) else fault
        raise BadRowError(f"its episode ended in a fault of ours ({kind})")
    if not fields.row.get("prompt"):
        raise BadRowError("an episode without its prompt (a run of format 1 whose tasks were not found)")
    turns = fields.use("turns")
    try:
        turns = turns[:-1] if fields.row["stop"] == StopReason.LENGTH.value else turns
        said = [message for turn in turns for message in _turn(turn)]
    except (AttributeError, KeyError, TypeError) as error:
        raise BadRowError("its turns are not as sod writes them") from error
    while said and said[-1].role == "user":  # an environment's last word, which nobody answered
        said.pop()
    if not said:
        raise BadRowError("its only turn was cut off")
    prompt = read_messages(fields.use("prompt"), "prompt", fields)
    return made(fields, name, (*prompt, *said), read_tools(fields.use("tools")))


def _turn(turn: Row) -> Iterator[Message]:
    """What the assistant said in a turn, and what its tools or an environment answered."""
    said = _said(turn)
    readable = tuple(call for call in said.calls if isinstance(call, ToolCall))
    weight = 1.0 if len(readable) == len(said.calls) else 0.0
    reasoning = said.thinking.strip("\n") or None
    yield Message("assistant", said.answer, readable, reasoning=reasoning, weight=weight)
    calls, results = turn.get("calls") or [], turn.get("results") or []
    for call, result in zip(calls, results, strict=False):  # no results: the calls were not run
        yield Message("tool", checked(str(result["text"]), "tool"), name=call.get("name") or None)
    if turn.get("reply") is not None:
        yield Message("user", checked(str(turn["reply"]), "user"))


def _said(turn: Row) -> Said:
    """What the dialect read of a turn; of format 1, which had no other dialect and no record of it, Hermes reads it."""
    row = turn.get("said")
    if row is None:
        return hermes.read(checked(turn["text"], "assistant"))
    calls = [
        MalformedCall(str(call["error"]), str(call.get("detail"))) if "error" in call else read_call(call)[1]
        for call in row.get("calls") or []
    ]
    return Said(checked(row["thinking"], "assistant"), checked(row["answer"], "assistant"), tuple(calls))


def is_trajectory(row: Mapping[str, Any]) -> bool:
    """Whether a row is an episode of ours."""
    return "task_id" in row and "stop" in row and isinstance(row.get("turns"), list)


TRAJECTORY = Shape("trajectory", is_trajectory, _read)
