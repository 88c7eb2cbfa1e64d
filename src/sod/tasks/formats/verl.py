"""verl's rows, and SkyRL's: `prompt` and `reward_model.ground_truth` (`reward_spec.ground_truth`).

Beside them stand `data_source` and `extra_info`. Evaluation sets of Open-AgentRL have their prompt as `problem`.
"""

from __future__ import annotations

from functools import partial

from sod.records import Task
from sod.tasks.formats.base import BadRowError, Fields, Shape, decoded
from sod.tasks.formats.columns import extra_of, prompt_of, source_of, tools_of, truths_in
from sod.tasks.truths import truths_of

RULES = ("rule", "exact_match")
"""Beginnings of `style` and `method` that mean what every verifier here does: it compares with the truth."""


def _read(column: str, fields: Fields, name: str) -> Task:
    prompt = prompt_of(fields)
    reward = decoded(fields.row.get(column), column, dict)
    truths = truths_in(fields) if "ground_truth" in fields.given else truths_of(fields.use(column, "ground_truth"))
    if not truths:
        raise BadRowError(f"no {column}.ground_truth")
    for key in ("style", "method"):
        if str(reward.get(key)).startswith(RULES):
            fields.use(column, key)  # another style stays unused, and so is named
    return Task(
        id=name,
        prompt=prompt,
        ground_truth=truths[0],
        truths=truths[1:],
        data_source=source_of(fields),
        extra=extra_of(fields),
        tools=tools_of(fields, fields.row.get("tools"), "tools"),
    )


VERL = Shape("verl", lambda row: "reward_model" in row, partial(_read, "reward_model"))
SKYRL = Shape("skyrl", lambda row: "reward_spec" in row, partial(_read, "reward_spec"))
