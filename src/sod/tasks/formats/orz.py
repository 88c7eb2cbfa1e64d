"""Open-Reasoner-Zero's rows: a conversation that ends with what the assistant should come to, in place of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sod.records import Task
from sod.tasks.formats.base import BadRowError, Fields, Shape
from sod.tasks.formats.columns import extra_of, source_of
from sod.tasks.formats.messages import prompt_messages
from sod.tasks.truths import truths_of

_COLUMN = "conversations"


def _matches(row: Mapping[str, Any]) -> bool:
    said = row.get(_COLUMN)
    return isinstance(said, list) and bool(said) and isinstance(said[-1], Mapping) and "ground_truth" in said[-1]


def _read(fields: Fields, name: str) -> Task:
    *asked, last = fields.use(_COLUMN)
    truths = truths_of(last["ground_truth"])
    if not truths:
        raise BadRowError("no ground_truth at the end of its conversation")
    return Task(
        id=name,
        prompt=prompt_messages(asked, _COLUMN, fields),
        ground_truth=truths[0],
        truths=truths[1:],
        data_source=source_of(fields),
        extra=extra_of(fields),
    )


ORZ = Shape("open-reasoner-zero", _matches, _read)
