"""A run in ALFWorld, from a recipe that names nothing but the world."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sod.build.training import prepare_train
from sod.models.load import save_model
from sod.recipe import Recipe
from sod.runlog.trajectories import read_trajectory_rows


def silent(text: str) -> None:
    """Notes are not what is tested here."""


@pytest.mark.slow
def test_a_student_is_trained_in_alfworld(tmp_path: Path, chat: Any, acting_model: Any, clone: Any) -> None:
    pytest.importorskip("alfworld")
    save_model(clone(acting_model), chat.tokenizer, chat.template, chat.end_id, tmp_path / "model")
    model = {"path": str(tmp_path / "model")}
    rollout = {"prompts": 2, "samples": 2, "max_turns": 2, "max_turn_tokens": 16}
    rollout |= {"max_prompt_tokens": 1500, "max_response_tokens": 400}
    world = {"call": "sod.environments.alfworld:AlfWorld", "train": 2, "timeout_seconds": 300}
    content = {"student": model, "teacher": model, "chat": {"template": "hermes"}, "environment": world}
    recipe = Recipe.model_validate(content | {"rollout": rollout, "method": "sod", "train": {"steps": 1}})
    with closing(prepare_train(recipe, tmp_path / "run", False, silent)) as job:
        job.start([])
    (file,) = (tmp_path / "run" / "trajectories").glob("*.jsonl")
    rows = read_trajectory_rows(file)
    assert len(rows) == 4
    assert not any(row.get("fault") for row in rows)
    for row in rows:
        assert "-= Welcome to TextWorld, ALFRED! =-" in row["prompt"][-1]["content"]
        assert [tool["function"]["name"] for tool in row["tools"]] == ["act"]
    (one, other) = {row["prompt"][-1]["content"].partition("Your task is to: ")[2] for row in rows}
    assert one != other
