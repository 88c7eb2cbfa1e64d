"""verl's rows: `prompt` and `reward_model.ground_truth`, with `data_source` and `extra_info` beside them."""

from __future__ import annotations

from sod.records import Task
from sod.tasks.formats.base import BadRowError, Fields, Shape, decoded
from sod.tasks.formats.messages import prompt_messages
from sod.tasks.truths import truths_of


def _read(fields: Fields, name: str) -> Task:
    prompt = prompt_messages(fields.use("prompt"), "prompt")
    decoded(fields.row.get("reward_model"), "reward_model", dict)
    truths = truths_of(fields.use("reward_model", "ground_truth"))
    if not truths:
        raise BadRowError("no reward_model.ground_truth")
    if str(fields.row["reward_model"].get("style")).startswith("rule"):
        fields.use("reward_model", "style")  # what every verifier here is; another style stays unused, and is named
    return Task(
        id=name,
        prompt=prompt,
        ground_truth=truths[0],
        truths=truths[1:],
        data_source=str(fields.use("data_source") or "unknown"),
        extra=decoded(fields.use("extra_info"), "extra_info", dict),
    )


VERL = Shape("verl", lambda row: "reward_model" in row, _read)
