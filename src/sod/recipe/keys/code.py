"""Keys whose value is code of the user's own: its import path in a file, or the object itself where Python passes it.

In a recipe that is written down an object is `passed-in:NAME`, which names it and cannot be imported: whoever goes on
with the run has to pass it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, PlainSerializer, WithJsonSchema

from sod.usercode import PASSED_IN

CALL = "call"
"""The name of every such key, whatever its section."""


def passed_name(thing: object) -> str:
    """What a function, a class or an object is called: its own name, or that of its class."""
    return str(getattr(thing, "__name__", type(thing).__name__))


def is_passed(value: object) -> bool:
    """Whether a key's value is the code itself."""
    return not isinstance(value, str)


def calls(recipe: BaseModel) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every key of a recipe that holds code: import paths, objects, and names of objects."""
    yield from _calls(recipe.model_dump(), "")


def _calls(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if name == CALL and isinstance(value, list):
            yield from _listed(value, key)
        elif name == CALL and value is not None and not isinstance(value, Mapping):
            yield key, value
        elif isinstance(value, Mapping):
            yield from _calls(value, f"{key}.")


def _listed(values: Sequence[Any], key: str) -> Iterator[tuple[str, Any]]:
    """The parts of a list, each the code or a mapping with a key `call` of its own."""
    for number, part in enumerate(values):
        yield f"{key}.{number}", part[CALL] if isinstance(part, Mapping) else part


def _usable(value: Any) -> Any:
    if isinstance(value, str) and value.strip():
        return value
    if value is None or isinstance(value, str | int | float | list | tuple | Mapping):
        raise ValueError("write module:name or ./file.py:name; from Python, pass the function or class itself")
    return value


def _written(value: Any) -> str:
    return value if isinstance(value, str) else PASSED_IN + passed_name(value)


Code = Annotated[
    Any,
    AfterValidator(_usable),
    PlainSerializer(_written, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string"}),
]
"""`module:name`, `./file.py:name`, or an object."""
