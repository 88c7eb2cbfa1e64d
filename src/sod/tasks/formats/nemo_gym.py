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
_TESTS = ("unit_tests", "test")
_ABOUT_TESTS = ("entry_point", "code_prompt", "fn_name")


def _matches(row: Mapping[str, Any]) -> bool:
    return bool(row.get(_REQUEST))  # an empty one stands beside a row of another shape


def _read(fields: Fields, name: str) -> Task:
    request = decoded(fields.row.get(_REQUEST), _REQUEST, dict)
    tests = _tests(fields)
    truths = (json.dumps(tests),) if tests else _truths(fields)
    source = source_of(fields)
    if source == "unknown":
        source = str(fields.use("agent_ref", "name") or source)
    return Task(
        id=name,
        prompt=_prompt(fields),
        ground_truth=truths[0],
        truths=truths[1:],
        data_source=source,
        extra=extra_of(fields),
        tools=tools_of(fields, request.get("tools"), _REQUEST, "tools"),
        verifier="code" if tests else None,
    )


def _tests(fields: Fields) -> dict[str, Any]:
    """The tests of a program below the verifier's fields, by name; empty where there are none."""
    below = fields.row.get(_VERIFIER)
    if not isinstance(below, Mapping) or not any(below.get(name) for name in _TESTS):
        return {}
    return {name: fields.use(_VERIFIER, name) for name in (*_TESTS, *_ABOUT_TESTS) if below.get(name)}


def _prompt(fields: Fields) -> tuple[Message, ...]:
    given = fields.use("prompt") if "prompt" in fields.given else fields.use(_REQUEST, "input")
    messages = prompt_messages(given, "input", fields)
    instructions = fields.use(_REQUEST, "instructions")
    if isinstance(instructions, str) and instructions.strip():
        return (Message("system", instructions), *messages)
    return messages


def _truths(fields: Fields) -> tuple[str, ...]:
    column = "ground_truth" if "ground_truth" in fields.given else column_of(fields.row, TRUTHS)
    below = fields.row.get(_VERIFIER)
    if column is not None:
        truths = truths_of(fields.use(column))
    else:
        column = column_of(below, TRUTHS) if isinstance(below, Mapping) else None
        truths = () if column is None else truths_of(fields.use(_VERIFIER, column))
    if not truths:
        raise BadRowError(
            f"no expected_answer, and none in {_VERIFIER}; where another column has it, "
            f"name that: data.columns='{{ground_truth: COLUMN}}', for one inside another with a dot"
        )
    return truths


NEMO_GYM = Shape("nemo-gym", _matches, _read)
