"""Rows of an environment: any row at all, since what it means is the environment's business.

A prompt and a truth are read where there are some; the environment is given the whole row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sod.records import Task
from sod.tasks.formats.base import Fields, Shape
from sod.tasks.formats.columns import PROMPTS, TRUTHS, holds, prompt_of, source_of, truths_in


def _matches(row: Mapping[str, Any]) -> bool:
    return True


def _read(fields: Fields, name: str) -> Task:
    prompt = prompt_of(fields) if holds(fields.row, PROMPTS) else ()
    truths = truths_in(fields) if holds(fields.row, TRUTHS) else ("",)
    source = source_of(fields)
    for column in fields.row:
        fields.use(column)
    return Task(name, prompt, truths[0], source, extra=dict(fields.row), truths=truths[1:])


WORLD = Shape("environment", _matches, _read)
