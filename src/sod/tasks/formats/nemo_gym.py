"""NeMo-Gym's rows: `responses_create_params` (a request of OpenAI's Responses API), the truth beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sod.records import Message, Task
from sod.tasks.formats.base import BadRowError, Fields, Shape, decoded
from sod.tasks.formats.columns import TRUTHS, column_of, extra_of, source_of, tools_of
from sod.tasks.formats.messages import prompt_messages
from sod.tasks.truths import truths_of

_REQUEST = "responses_create_params"
_VERIFIER = "verifier_metadata"
_TEXTS = ("input_text", "output_text", "text")


def _read(fields: Fields, name: str) -> Task:
    request = decoded(fields.row.get(_REQUEST), _REQUEST, dict)
    source = source_of(fields)
    if source == "unknown":
        source = str(fields.use("agent_ref", "name") or source)
    return Task(
        id=name,
        prompt=_prompt(fields),
        ground_truth=(truths := _truths(fields))[0],
        truths=truths[1:],
        data_source=source,
        extra=extra_of(fields),
        tools=tools_of(fields, request.get("tools"), _REQUEST, "tools"),
    )


def _prompt(fields: Fields) -> tuple[Message, ...]:
    given = fields.use("prompt") if "prompt" in fields.given else fields.use(_REQUEST, "input")
    messages = prompt_messages([_message(item) for item in given] if isinstance(given, list) else given, "input")
    instructions = fields.use(_REQUEST, "instructions")
    if isinstance(instructions, str) and instructions.strip():
        return (Message("system", instructions), *messages)
    return messages


def _message(item: Any) -> Any:
    """An item of a request as a chat message: contents of text parts as text, calls and their results as messages."""
    if not isinstance(item, Mapping):
        raise BadRowError(f"an item of input is no mapping but {type(item).__name__}")
    kind = item.get("type", "message")
    if kind == "function_call":
        call = {"id": item.get("call_id"), "name": item.get("name"), "arguments": item.get("arguments")}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    if kind == "function_call_output":
        output = item.get("output")
        text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": text}
    if kind != "message":
        raise BadRowError(f"an item of input is a {kind}, not a message")
    role = "system" if item.get("role") == "developer" else item.get("role")
    return {**item, "role": role, "content": _text(item.get("content"))}


def _text(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    others = [part for part in content if not isinstance(part, Mapping) or part.get("type") not in _TEXTS]
    if others:
        raise BadRowError("a message with a part that is no text")
    return "".join(str(part.get("text", "")) for part in content)


def _truths(fields: Fields) -> tuple[str, ...]:
    column = column_of(fields.row, TRUTHS)
    below = fields.row.get(_VERIFIER)
    if column is not None:
        truths = truths_of(fields.use(column))
    else:
        column = column_of(below, TRUTHS) if isinstance(below, Mapping) else None
        truths = () if column is None else truths_of(fields.use(_VERIFIER, column))
    if not truths:
        raise BadRowError(f"no expected_answer, and none in {_VERIFIER}")
    return truths


NEMO_GYM = Shape("nemo-gym", lambda row: _REQUEST in row, _read)
