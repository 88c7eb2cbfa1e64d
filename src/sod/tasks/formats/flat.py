"""Rows with a prompt and a truth, each in a column of its own, whatever it is called.

So TRL's GRPO rows (`prompt`, any column of truths), verifiers (`prompt`, `answer`, `info`, `task`), AReaL (`messages`,
`answer`), OpenRLHF (`input`, `label`), slime (`prompt`, `label`, `metadata`), ROLL (`prompt`, `ground_truth`), MATH
(`problem`, `answer`), GSM8K (`question`, `answer` behind `####`) and most sets on the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sod.records import Task
from sod.tasks.formats.base import Fields, Shape
from sod.tasks.formats.columns import PROMPTS, TRUTHS, column_of, extra_of, prompt_of, source_of, tools_of, truths_in


def _matches(row: Mapping[str, Any]) -> bool:
    return column_of(row, PROMPTS) is not None and column_of(row, TRUTHS) is not None


def _read(fields: Fields, name: str) -> Task:
    truths = truths_in(fields)
    return Task(
        id=name,
        prompt=prompt_of(fields),
        ground_truth=truths[0],
        truths=truths[1:],
        data_source=source_of(fields),
        extra=extra_of(fields),
        tools=tools_of(fields, fields.row.get("tools"), "tools"),
    )


FLAT = Shape("flat", _matches, _read)


def _asks(row: Mapping[str, Any]) -> bool:
    return column_of(row, PROMPTS) is not None


def _read_prompt(fields: Fields, name: str) -> Task:
    return Task(
        id=name,
        prompt=prompt_of(fields),
        ground_truth="",
        data_source=source_of(fields),
        extra=extra_of(fields),
        tools=tools_of(fields, fields.row.get("tools"), "tools"),
    )


PROMPT_ALONE = Shape("prompt alone", _asks, _read_prompt)
"""Tasks without a truth, for rewards that need none."""
