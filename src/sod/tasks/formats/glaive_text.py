"""How Glaive writes functions and calls into texts; sets made of it have the same texts in other columns."""

from __future__ import annotations

import json
import re
from typing import Any

from sod.tasks.formats.base import BadRowError, Row
from sod.tasks.formats.tools import read_tools

_QUOTED = re.compile(r""""arguments"\s*:\s*'""")
_ACCESS = "with access to the following functions. Use them if required"
_DECODER = json.JSONDecoder()


def quoted_call(call: str) -> str:
    """A call as JSON: Glaive puts arguments in single quotes, within which their JSON is not escaped."""
    opened = _QUOTED.search(call)
    body = call.strip().removesuffix("}").rstrip()
    if opened is None or not body.endswith("'") or len(body) <= opened.end():
        return call
    return f"{call[: opened.end() - 1]}{json.dumps(body[opened.end() : -1])}}}"


def functions_in(system: str) -> tuple[str, tuple[Row, ...]]:
    """`(the text without them, the functions)` of a system text that lists functions, one JSON object below the other.

    Raises BadRowError where one of them is no JSON.
    """
    lead, found, listed = system.partition(_ACCESS)
    start = listed.find("{")
    if not found or start < 0:
        return system, ()
    tools: list[Any] = []
    while start < len(listed) and listed[start] == "{":
        try:
            value, start = _DECODER.raw_decode(listed, start)
        except ValueError as error:
            raise BadRowError("a function that the system text lists is no JSON") from error
        tools.append(value)
        while start < len(listed) and listed[start].isspace():
            start += 1
    rest = [f"{lead.strip()}." if lead.strip() else "", listed[start:].strip()]
    return "\n".join(part for part in rest if part), read_tools(tools, "system")
