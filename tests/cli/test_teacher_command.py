"""`sod teacher score` and the run that distils from its file, as commands."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from scoring_server import ScoringServer
from sod.models.load import load_model, load_tokenizer, save_model
from sod.tasks import chain
from sod.tasks.files import write_conversations, write_tasks

pytestmark = pytest.mark.slow


@pytest.fixture
def recipe(tmp_path: Path, chat: Any, acting_model: Any, random_model: Any, conversations: Any) -> Path:
    """A recipe beside its files."""
    save_model(copy.deepcopy(acting_model), chat.tokenizer, chat.template, chat.end_id, tmp_path / "student")
    save_model(random_model(seed=7, sharpness=4.0), chat.tokenizer, chat.template, chat.end_id, tmp_path / "teacher")
    tasks = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"train": 4}, 2, 3, seed=1)["train"])]
    write_tasks(tmp_path / "train.parquet", tasks)
    write_conversations(tmp_path / "sft.parquet", conversations[:6])
    content = {
        "student": {"path": str(tmp_path / "student")},
        "teacher": {"path": str(tmp_path / "teacher")},
        "chat": {"template": "hermes"},
        "data": {"train": str(tmp_path / "train.parquet")},
        "tools": {"python": {"workers": 1, "memory_mb": 256, "preload": []}},
        "rollout": {
            "prompts": 2,
            "samples": 1,
            "max_turns": 2,
            "max_prompt_tokens": 200,
            "max_turn_tokens": 16,
            "max_response_tokens": 80,
        },
        "method": {"name": "opd", "divergence": {"kind": "forward_kl", "top_k": 4}},
        "train": {"steps": 1, "trajectories_every": 1},
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_conversations_and_a_run_are_scored_and_distilled_from(recipe: Path, tmp_path: Path, sod: Any) -> None:
    """By a teacher here, and by one on a server whose address and name are given; a run has its own recipe."""
    out, run = tmp_path / "scores.parquet", tmp_path / "run"
    ended = sod("teacher", "score", tmp_path / "sft.parquet", "--recipe", recipe, "--out", out)
    assert ended.code == 0, ended.err
    assert "episodes" in ended.out
    assert "6" in ended.out
    ended = sod("train", recipe, "teacher.path=null", f"teacher.scores={out}", "data.train=null", "--run", run)
    assert ended.code == 0, ended.err
    (row,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert row["loss"] > 0.0
    played = tmp_path / "played"
    assert sod("train", recipe, "--run", played).code == 0
    own_recipe = played / "recipe.yaml"  # as of a run whose student was sampled by servers
    content = yaml.safe_load(own_recipe.read_text())
    content["engine"] |= {"kind": "vllm", "urls": ["http://127.0.0.1:9"]}
    own_recipe.write_text(yaml.safe_dump(content))
    directory = str(tmp_path / "teacher")
    with ScoringServer(load_model(directory, "float32"), load_tokenizer(directory)) as server:
        own = [
            "teacher.path=null",
            f"teacher.url={server.url}",
            "teacher.model=t",
            f"teacher.cache={tmp_path / 'cache'}",
        ]
        ended = sod("teacher", "score", played, "--out", tmp_path / "played.parquet", "--top-k", "2", *own)
    assert ended.code == 0, ended.err
    assert "t at http://" in ended.out
    scores = f"teacher.scores={tmp_path / 'played.parquet'}"
    ended = sod("train", recipe, "teacher.path=null", scores, "--run", tmp_path / "other")
    assert "method.divergence.top_k=4: teacher.scores=" in ended.err
    ended = sod("teacher", "score", tmp_path / "sft.parquet")
    assert "is no run with a recipe of its own; name one with --recipe" in ended.err


def test_a_run_that_is_not_there_is_told_as_such(sod: Any) -> None:
    """Naming a recipe would not help where the path has a typing error."""
    ended = sod("teacher", "score", "runs/nope")
    assert ended.code == 1
    assert ended.err.startswith("error: runs/nope: no such run; correct the path")
