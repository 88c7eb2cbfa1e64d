"""What a dialect has to know of the tools that are shown: which parameters are text, where arguments have no quotes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sod.chat.dialects.base import Dialect
from sod.chat.dialects.marked import Marked


def with_tools(dialect: Dialect, tools: Sequence[Mapping[str, Any]]) -> Dialect:
    """The dialect for these function schemas: in the families by tables a parameter that is a string is read as text.

    So `3` for such a parameter is the text "3", and 3 for any other: see `values`.
    """
    return replace(dialect, texts=frozenset(_texts(tools))) if isinstance(dialect, Marked) else dialect


def _texts(tools: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Each parameter of type string, with the name of its tool. Schemas of another make have none."""
    for tool in tools:
        function = _mapping(tool.get("function", tool))
        properties = _mapping(_mapping(function.get("parameters")).get("properties"))
        for key, schema in properties.items():
            if _mapping(schema).get("type") == "string":
                yield str(function.get("name")), str(key)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
