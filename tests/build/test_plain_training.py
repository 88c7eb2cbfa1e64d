"""Whole runs whose students only the plain engine samples from."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from architectures import LINEAR, tiny_config, tiny_model
from sod.build.training import prepare_train
from sod.models.load import save_model
from sod.recipe import Recipe
from sod.runlog import RunLog
from sod.tasks import chain
from sod.tasks.files import write_tasks

STUDENTS: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 8, "sliding_window": 48, "final_logit_softcapping": 20.0},
    "qwen3_5_text": LINEAR,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STUDENTS)
def test_steps_of_a_run(kind: str, chat: Any, tmp_path: Path) -> None:
    """Two steps of GRPO: it is told once, and what the sampler says of its tokens is what the trainer says."""
    sizes = {"vocab_size": len(chat.tokenizer), "max_position_embeddings": 1024}
    model = tiny_model(tiny_config(kind, **STUDENTS[kind], **sizes))
    save_model(model, chat.tokenizer, chat.template, chat.end_id, tmp_path / "model")
    write_tasks(
        tmp_path / "train.parquet",
        [chain.as_task(c, n) for n, c in enumerate(chain.splits({"train": 4}, 2, 3, seed=1)["train"])],
    )
    recipe = Recipe.model_validate(
        {
            "student": {"path": str(tmp_path / "model")},
            "method": "grpo",
            "chat": {"template": "hermes"},
            "data": {"train": str(tmp_path / "train.parquet")},
            "rollout": {
                "prompts": 2,
                "samples": 2,
                "max_turns": 2,
                "max_prompt_tokens": 200,
                "max_turn_tokens": 24,
                "max_response_tokens": 64,
            },
            "tools": {"python": {"workers": 1, "memory_mb": 256}},
            "train": {"steps": 2, "checkpoint_every": 2},
        }
    )
    notes: list[str] = []
    with closing(prepare_train(recipe, tmp_path / "run", False, notes.append)) as job:
        job.start([])
    (note,) = (note for note in notes if "sampled by the plain engine" in note)
    assert note.startswith(f"{tmp_path / 'model'}: architecture '{kind}' has ")
    rows = RunLog.open(tmp_path / "run").metrics()
    assert len(rows) == 2
    assert all(row["action_tokens"] > 0 and row["train_inference_gap"] < 1e-4 for row in rows)
