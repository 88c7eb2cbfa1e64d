"""xLAM's and APIGen's rows: a query, tools and the calls that answer it, the last two as JSON text."""

from __future__ import annotations

from typing import Any

from sod.records import Message
from sod.tasks.base import Conversation
from sod.tasks.formats.base import BadRowError, Fields, Row, Shape
from sod.tasks.formats.calls import read_calls
from sod.tasks.formats.content import checked
from sod.tasks.formats.conversation import made
from sod.tasks.formats.tools import read_tools

_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "dict": "object", "list": "array"}


def _read(fields: Fields, name: str) -> Conversation:
    query = fields.use("query")
    if not isinstance(query, str) or not query:
        raise BadRowError("no query")
    calls = tuple(call for _, call in read_calls(fields.use("answers")))
    if not calls:
        raise BadRowError("no answers")
    messages = [Message("user", checked(query, "user")), Message("assistant", "", calls)]
    tools = tuple(map(_with_schema, read_tools(fields.use("tools"))))
    return made(fields, name, messages, tools)


def _with_schema(tool: Row) -> Row:
    """A tool whose parameters are a JSON schema: xLAM lists each with its type as Python spells it."""
    function = tool["function"]
    parameters = function.get("parameters")
    if not isinstance(parameters, dict) or "properties" in parameters or not parameters:
        return tool
    if not all(isinstance(declared, dict) for declared in parameters.values()):
        return tool
    required = [name for name, declared in parameters.items() if not _optional(declared)]
    properties = {name: _typed(declared) for name, declared in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": required}
    return {**tool, "function": {**function, "parameters": schema}}


def _optional(declared: Row) -> bool:
    return "default" in declared or "optional" in str(declared.get("type")).lower()


def _typed(declared: Row) -> Row:
    kind: Any = declared.get("type")
    if not isinstance(kind, str):
        return declared
    plain = kind.split(",")[0].strip()
    base = plain.split("[")[0].lower()
    return {**declared, "type": _TYPES.get(base, plain)}


XLAM = Shape("xlam", lambda row: "query" in row and "answers" in row and "tools" in row, _read)
