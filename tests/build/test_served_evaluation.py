"""Evaluations whose turns are sampled by servers that `engine.urls` names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sod
from engines.serving import Serving, stand_in
from sod.build.servers import refuse_unsampled
from sod.build.training import prepare_train
from sod.chat.render import Chat
from sod.models.load import save_model
from sod.models.scratch import new_qwen3
from sod.recipe import Recipe
from sod.records import SodError
from sod.tasks import chain
from sod.tasks.files import write_tasks


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, chat: Chat) -> Path:
    """A student and tasks."""
    place = tmp_path_factory.mktemp("served")
    student = new_qwen3(chat.tokenizer, layers=2, hidden=128, heads=2, ffn=128, context=2048, seed=5)
    save_model(student, chat.tokenizer, chat.template, chat.end_id, place / "model")
    splits = chain.splits({"test": 5}, 2, 3, seed=1)
    write_tasks(place / "test.parquet", [chain.as_task(c, n) for n, c in enumerate(splits["test"])])
    return place


@pytest.fixture
def server(place: Path, tmp_path: Path) -> Iterator[Serving]:
    """A server that speaks vLLM's routes, ended after the test."""
    server = stand_in(place / "model", tmp_path / "log")
    server.start()
    server.wait()
    yield server
    server.kill()


def evaluated(place: Path, to: Path, engine: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """The rows of an evaluation that takes the most probable tokens."""
    recipe = {
        "student": {"path": "x", "dtype": "float32"},
        "chat": {"template": "hermes"},
        "tools": {"python": None},
        "engine": engine,
        "rollout": {"max_turns": 1, "max_prompt_tokens": 200, "max_turn_tokens": 16, "max_response_tokens": 80},
        "evaluation": {"k": 2, "tasks": 0, "temperature": 0.0},
    }
    sod.evaluate(place / "model", place / "test.parquet", recipe=recipe, to=to, progress=False, **more)
    return [json.loads(line) for line in (to / "generations.jsonl").read_text().splitlines()]


def served(place: Path, url: str) -> dict[str, Any]:
    return {"kind": "vllm", "urls": [url], "push_dir": str(place), "restart_seconds": 1.0}


@pytest.mark.slow
def test_servers_play_what_this_process_would(place: Path, server: Serving, tmp_path: Path) -> None:
    """The same tokens of the same weights; and it is they who play: without them there is nothing."""
    here = evaluated(place, tmp_path / "here", {"kind": "torch"})
    there = evaluated(place, tmp_path / "there", served(place, server.url))
    assert len(there) == 10
    assert [row["token_ids"] for row in there] == [row["token_ids"] for row in here]
    assert list(place.glob("sod-weights-*")) == []
    server.kill()
    with pytest.raises(SodError, match=server.url):
        evaluated(place, tmp_path / "gone", served(place, server.url))
    assert not (tmp_path / "gone").exists()
    kept = evaluated(place, tmp_path / "there", served(place, "http://127.0.0.1:9"))
    assert kept == there, "finished is finished, wherever the servers are"


@pytest.mark.parametrize("temperature", [0.005, 2.5])
def test_a_temperature_that_servers_do_not_sample_at_is_refused(
    place: Path, tmp_path: Path, temperature: float
) -> None:
    """vLLM takes a hundredth for what is lower, and its log-probabilities are then of another distribution."""
    message = rf"temperature: vLLM samples at temperatures from 0.01 to 2, and this is {temperature:g}; set one of th"
    student, tasks = str(place / "model"), str(place / "test.parquet")
    recipe: dict[str, Any] = {
        "student": {"path": student},
        "data": {"train": tasks, "validation": tasks},
        "engine": {"kind": "vllm", "urls": ["http://127.0.0.1:9"]},
        "evaluation": {"temperature": temperature},
        "method": "grpo",
    }
    with pytest.raises(SodError, match=f"^evaluation.{message}ese, or 0 .greedy., or engine.kind=torch"):
        sod.evaluate(student, tasks, recipe=recipe, to=tmp_path / "out", progress=False)
    for keys in ({"train": {"evaluate_every": 1}}, {"evaluation": {}, "rollout": {"temperature": temperature}}):
        key = "rollout." if "rollout" in keys else "evaluation."
        with pytest.raises(SodError, match=f"^{key}{message}"):
            prepare_train(Recipe.model_validate({**recipe, **keys}), tmp_path / "run", False, str)
    for good in (0.0, 0.01, 2.0):
        refuse_unsampled(Recipe.model_validate({**recipe, "evaluation": {"temperature": good}}))
    assert not (tmp_path / "run").exists()


def test_several_processes_and_servers_do_not_go_together(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SodError, match="--workers 2: the servers at engine"):
        evaluated(place, tmp_path / "out", served(place, "http://127.0.0.1:9"), workers=2)
    assert not (tmp_path / "out").exists()
