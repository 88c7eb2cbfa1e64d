"""A message that is still put together from a row's items."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

from sod.records import Role
from sod.tasks.formats.base import Row
from sod.tasks.formats.calls import Call

CONTENTS = ("content", "parts", "value", "text", "output", "system_prompt")
"""Where the content of an item stands, the first that it has."""


@final
@dataclass
class Draft:
    """A message that is still put together.

    `part` says that the item is only a part of an assistant's turn: a call or a thought by itself. `malformed` counts
    the calls in its text that cannot be read, `answers` is the id of the call that a tool message answers, and `world`
    that its role is also the name of a user who is no person.
    """

    role: Role
    content: str = ""
    calls: list[Call] = field(default_factory=list)
    reasoning: str | None = None
    weight: float | None = None
    name: str | None = None
    answers: str | None = None
    part: bool = False
    malformed: int = 0
    world: bool = False


def content_of(item: Row) -> Any:
    """What an item says, as it is written; None for nothing."""
    return next((item[key] for key in CONTENTS if item.get(key) is not None), None)
