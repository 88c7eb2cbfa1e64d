"""prime-rl's rows (INTELLECT-2, SYNTHETIC-1): `prompt` and the truth in `verification_info`, mostly JSON text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sod.records import Task
from sod.tasks.formats.base import BadRowError, Fields, Shape
from sod.tasks.formats.columns import extra_of, prompt_of, source_of, truths_in
from sod.tasks.truths import truths_of

_INFO = "verification_info"


def _matches(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get(_INFO), Mapping) and "ground_truth" in row[_INFO]


def _read(fields: Fields, name: str) -> Task:
    truths = truths_in(fields) if "ground_truth" in fields.given else truths_of(fields.use(_INFO, "ground_truth"))
    if not truths:
        raise BadRowError(f"no {_INFO}.ground_truth")
    source = source_of(fields)
    return Task(
        id=name,
        prompt=prompt_of(fields),
        ground_truth=truths[0],
        truths=truths[1:],
        data_source=str(fields.use("task_type") or source) if source == "unknown" else source,
        extra=extra_of(fields),
    )


PRIME = Shape("prime-rl", _matches, _read)
