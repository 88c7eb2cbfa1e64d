"""Keys whose value is code of the user's own: its import path in a file, or the object itself where Python passes it.

In a recipe that is written down an object is `passed-in:NAME`, which names it and cannot be imported: whoever goes on
with the run has to pass it again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from sod.usercode import PASSED_IN

CALL = "call"
"""What every such key is called, whatever its section."""


def passed_name(thing: object) -> str:
    """What code is called: a function's or class's own name, that of an object's class, the last of an import path."""
    if isinstance(thing, str):
        return re.split("[:.]", thing)[-1]
    return str(getattr(thing, "__name__", type(thing).__name__))


def is_imported(value: Any) -> bool:
    """Whether a value is an import path: neither code, nor the name of code that was passed in, nor a word alone.

    A word without a colon is never imported: `environment.call` takes it for a world that comes with sod.
    """
    return isinstance(value, str) and ":" in value and not value.startswith(PASSED_IN)


def _usable(value: Any) -> Any:
    if isinstance(value, str) and value.strip():
        return value
    if value is None or isinstance(value, str | int | float | list | tuple | Mapping):
        raise PydanticCustomError(  # unlike a ValueError it leaves the key and its value to be named
            "code", "write module:name or ./file.py:name; from Python, pass the function or class itself"
        )
    return value


def written(value: Any) -> str:
    """The value as recipes and messages write it."""
    return value if isinstance(value, str) else PASSED_IN + passed_name(value)


Code = Annotated[
    Any,
    AfterValidator(_usable),
    PlainSerializer(written, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string"}),
]
"""`module:name`, `./file.py:name`, or an object."""
