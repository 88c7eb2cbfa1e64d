"""What every shape of a data row is made of.

A shape recognises rows and reads them; what it asked a row for is remembered, so that the rest can be named as unused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, final

from sod.tasks.tables import json_or_none

T = TypeVar("T")
Row = dict[str, Any]


class BadRowError(Exception):
    """Why a row is skipped. Loaders turn it into a skipped row; it never leaves `sod.tasks`."""


@final
class Fields:
    """A row that remembers which of its fields were used."""

    def __init__(self, row: Mapping[str, Any], given: Collection[str] = ()) -> None:
        """`given` are the columns that the user named (`data.columns`), which go before what a shape would take."""
        self.row = row
        self.given = given
        self.remarks: dict[str, None] = {}  # in order
        self._used: set[tuple[str, ...]] = set()
        self._left: dict[str, None] = {}

    def remark(self, text: str) -> None:
        """Have it told that, in this row as in others of its file, `text` holds."""
        self.remarks[text] = None

    def use(self, *path: str) -> Any:
        """The value at a path, with all that is below it counted as used; None where there is none."""
        self._used.add(path)
        value: Any = self.row
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def leave(self, name: str) -> None:
        """Count what stands inside a used field, `messages[].name` say, as unused."""
        self._left[name] = None

    def unused(self) -> list[str]:
        """The dotted names of the fields that hold something and that nobody used."""
        return [*(".".join(path) or "(a column without a name)" for path in self._unused((), self.row)), *self._left]

    def _unused(self, above: tuple[str, ...], values: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
        for name, value in values.items():
            path = (*above, name)
            if path in self._used or value in (None, "", [], {}):
                continue
            if isinstance(value, Mapping) and any(used[: len(path)] == path for used in self._used):
                yield from self._unused(path, value)
            else:
                yield path


@final
@dataclass(frozen=True)
class Shape(Generic[T]):
    """A shape of rows: its name in messages and documents, what tells it, and how a row of it is read.

    `matches(row)` looks at the row's columns. `read(fields, id)` asks `fields` for what it needs, and raises
    BadRowError where the row cannot be used.
    """

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Fields, str], T]


def decoded(value: Any, column: str, kind: type[T]) -> T:
    """A nested column, from JSON text if need be; empty if the row has none."""
    if isinstance(value, str):
        text, value = value, json_or_none(value)
        if value is None and text not in ("", "null"):
            raise BadRowError(f"{column} is a string but not JSON")
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise BadRowError(f"{column} is not a {kind.__name__} but {type(value).__name__}")
    return value
