"""What a person types to a world, as an action: a call of one of its tools in a short form, else text."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from sod.environments.base import Action
from sod.records import ToolCall


class TypedError(Exception):
    """A line that begins as a call and cannot be read as one; the message says how it is written."""


def typed_action(line: str, tools: Sequence[Mapping[str, Any]]) -> Action:
    """A line as an action: `NAME ARGUMENTS` where `NAME` is one of the tools, else what is said.

    Arguments are a JSON object, `KEY=VALUE` words, or the values in order; the one of a tool that takes a single one is
    all the rest of the line. Raises TypedError.
    """
    name, _, rest = line.strip().partition(" ")
    functions = {tool["function"]["name"]: tool["function"] for tool in tools}
    if name not in functions:
        return line.strip()
    return (ToolCall(name, _arguments(rest.strip(), functions[name])),)


def usage(tool: Mapping[str, Any]) -> str:
    """How a call of a tool is typed: `search QUERY`."""
    function = tool["function"]
    return " ".join([str(function["name"]), *(name.upper() for name in _properties(function))])


def shown_action(action: Action) -> str:
    """An action as it can be typed."""
    if isinstance(action, str):
        return action
    return "; ".join(f"{call.name} {json.dumps(dict(call.arguments), ensure_ascii=False)}" for call in action)


def _arguments(text: str, function: Mapping[str, Any]) -> dict[str, Any]:
    properties = _properties(function)
    if text.startswith("{"):
        return _object(text)
    if len(properties) == 1 and text:
        ((name, schema),) = properties.items()
        text = text.removeprefix(f"{name}=")
        return {name: _value(text, schema)}
    words = _words(text)
    if all(word.partition("=")[0] in properties and "=" in word for word in words):
        pairs = [word.partition("=") for word in words]
        return {name: _value(value, properties[name]) for name, _, value in pairs}
    if len(words) > len(properties):
        raise TypedError(f"{function['name']} takes {len(properties)} arguments: put one of several words in quotes")
    given = zip(properties, words, strict=False)
    return {name: _value(word, properties[name]) for name, word in given}


def _object(text: str) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise TypedError(f"no JSON object: {error}") from None
    return value


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise TypedError(f"cannot be split into words: {error}") from None


def _value(text: str, schema: Any) -> Any:
    """A typed value: text where the schema says so or says nothing, else as JSON where it is some."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if kind in (None, "string"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _properties(function: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = function.get("parameters") or {}
    properties: Mapping[str, Any] = parameters.get("properties") or {}
    return properties
