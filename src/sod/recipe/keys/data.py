"""`data`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sod.recipe.keys.section import Section


class DataSpec(Section):
    """Where tasks and conversations come from: parquet or JSONL files, or Hugging Face hub ids."""

    train: str | None = Field(None, description="tasks to train on: rows with prompt and reward_model.ground_truth")
    validation: str | None = Field(None, description="tasks for evaluations during training, rows as in data.train")
    sft: str | None = Field(None, description="conversations for supervised fine-tuning: rows with messages")
    split: str = Field("train", description="split of a hub dataset; files have none")
    min_reward: float | None = Field(
        None, description="SFT on episodes of a run: rows that earned less are left out; null: all of them"
    )
    overlong_prompts: Literal["skip", "refuse"] = Field(
        "skip", description="what to do with prompts over rollout.max_prompt_tokens: skip and count them, or stop"
    )
