"""`data`."""

from __future__ import annotations

from typing import Literal

from sod.recipe.keys.section import Section


class DataSpec(Section):
    """Files (parquet, JSONL) or hub ids. RL rows in `train` and `validation`, conversations in `sft`."""

    train: str | None = None
    validation: str | None = None
    sft: str | None = None
    split: str = "train"
    overlong_prompts: Literal["skip", "refuse"] = "skip"
