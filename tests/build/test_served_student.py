"""Runs whose student is sampled by a server in another process: as they should be, and with a server that is killed."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from engines.serving import Serving, stand_in, vllm
from engines.vllm_bench import played, sampled
from sod.build.training import prepare_train
from sod.chat.render import Chat
from sod.engines.base import Sampled, SampleRequest, Sampling
from sod.engines.sampler import log_probs
from sod.engines.vllm import VllmEngine
from sod.engines.vllm_push import FilePusher
from sod.models.load import load_model, save_model
from sod.models.scratch import new_qwen3
from sod.models.support import Support
from sod.recipe import EngineSpec, Recipe
from sod.tasks import chain
from sod.tasks.files import write_tasks

LONGEST = 280


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, chat: Chat) -> Path:
    """A student with heads that vLLM's build for CPUs has kernels for, and tasks."""
    place = tmp_path_factory.mktemp("served")
    student = new_qwen3(chat.tokenizer, layers=2, hidden=128, heads=2, ffn=128, context=2048, seed=5)
    save_model(student, chat.tokenizer, chat.template, chat.end_id, place / "model")
    splits = chain.splits({"train": 4}, 2, 3, seed=1)
    write_tasks(place / "train.parquet", [chain.as_task(c, n) for n, c in enumerate(splits["train"])])
    return place


@pytest.fixture
def served() -> Iterator[list[Serving]]:
    """The servers of a test, ended after it."""
    servers: list[Serving] = []
    yield servers
    for server in servers:
        server.kill()


def recipe(place: Path, server: Serving, steps: int = 2) -> Recipe:
    content: dict[str, Any] = {
        "student": {"path": str(place / "model")},
        "chat": {"template": "hermes"},
        "data": {"train": str(place / "train.parquet")},
        "tools": {"python": None},
        "engine": {"kind": "vllm", "urls": [server.url], "push_dir": str(place), "restart_seconds": 600.0},
        "rollout": {"prompts": 2, "samples": 2, "max_turns": 1, "max_prompt_tokens": LONGEST - 80}
        | {"max_turn_tokens": 16, "max_response_tokens": 80},
        "reward": {"overlong_buffer": 70},  # by their lengths episodes earn different rewards
        "method": "grpo",
        "optim": {"lr": 1e-3},
        "train": {"steps": steps, "checkpoint_every": steps},
    }
    return Recipe.model_validate(content)


def rows(directory: Path) -> list[dict[str, Any]]:
    """The metrics of a run so far."""
    path = directory / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def trained(recipe: Recipe, directory: Path) -> tuple[Any, ...]:
    """A run's metrics and weights, and what was told of it."""
    told: list[str] = []
    job = prepare_train(recipe, directory, False, told.append)
    try:
        job.start([])
    finally:
        job.close()
    saved = sorted(directory.glob("checkpoints/*/model/model.safetensors"))[-1]
    return rows(directory), load_file(saved), told


def kill_in_the_second_step(server: Serving, directory: Path, patch: pytest.MonkeyPatch) -> None:
    """Once a step is written down, the next turns find their server killed while it has them, and started again."""
    submit, killed = VllmEngine.submit, list[str]()

    def submitted(engine: VllmEngine, requests: Sequence[SampleRequest], sampling: Sampling) -> None:
        submit(engine, requests, sampling)
        if requests and rows(directory) and not killed:
            killed.append("now")
            time.sleep(0.02)
            server.kill()
            server.start()

    patch.setattr(VllmEngine, "submit", submitted)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(weight, other[name]) for name, weight in one.items())


@pytest.mark.slow
def test_a_server_that_is_killed_in_a_step_changes_nothing(
    place: Path, served: list[Serving], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turns are sampled again with the same noise, by the weights of then."""
    server = stand_in(place / "model", tmp_path / "log", seconds=0.1)
    served.append(server)
    server.start()
    server.wait()
    whole, weights, told = trained(recipe(place, server), tmp_path / "whole")
    assert told == []
    assert [row["retries"] for row in whole] == [0.0] * 2
    assert max(row["train_inference_gap"] for row in whole) < 1e-5
    run = tmp_path / "killed"
    kill_in_the_second_step(server, run, monkeypatch)
    after, again, told = trained(recipe(place, server), run)
    assert [row["retries"] > 0 for row in after] == [False, True]
    assert [row["engine_deaths"] for row in after] == [0.0, 1.0]
    assert [row["faults"] for row in after] == [0.0] * 2
    assert [line.split(": ")[0] for line in told] == [server.url] * 2  # that it died, and that it is back
    assert equal(weights, again)
    assert not equal(weights, load_file(place / "model" / "model.safetensors"))
    assert list(place.glob("sod-weights-*")) == []


@pytest.fixture(scope="module")
def vllm_server(place: Path) -> Iterator[Serving]:
    """vLLM with the student; it takes most of a minute to start."""
    server = vllm(place / "model", place / "vllm.log", LONGEST)
    server.start()
    server.wait()
    yield server
    server.kill()


def away(model: Any, prompt: Sequence[int], turn: Sampled, sampling: Sampling) -> float:
    """How far a turn's log-probabilities are from the model's in double precision, at most."""
    ids = torch.tensor([[*prompt, *turn.token_ids]])
    with torch.no_grad():
        logits_TV = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    expected_T = log_probs(logits_TV, sampling).gather(1, torch.tensor(turn.token_ids)[:, None])[:, 0]
    return float((expected_T - torch.tensor(turn.logps)).abs().max())


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_samples_as_the_trainer_does(vllm_server: Serving, place: Path, chat: Chat) -> None:
    """Before and after a push, with and without truncation; a second turn is computed from the first one's cache."""
    model = load_model(str(place / "model"), "float32", Support.of(chat.tokenizer))
    spec = EngineSpec(kind="vllm", urls=[vllm_server.url])
    told: list[str] = []
    pusher = FilePusher(str(place / "pushed"))
    engine = VllmEngine(model, chat.stop_ids, [vllm_server.url], spec, pusher, LONGEST, 8, told.append)
    prompt = list(range(40, 140))
    turns: dict[str, Sampled] = {}
    for sampling in (Sampling(), Sampling(0.7), Sampling(0.7, 0.9, 20)):
        for _ in range(2):
            again = played(engine, [SampleRequest("e", prompt, 24, 3)], sampling)["e"]
            turns.setdefault(str(sampling), sampled(again))
            assert again.token_ids == turns[str(sampling)].token_ids
        assert away(model, prompt, sampled(again), sampling) < 1e-5
    before = engine.cached_tokens
    longer = [*prompt, *turns[str(Sampling())].token_ids, *range(50, 60)]
    second = sampled(played(engine, [SampleRequest("e", longer, 24, 3)], Sampling())["e"])
    assert engine.cached_tokens - before >= 96  # in blocks of 32
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.1)
    engine.sync(other)
    before = engine.cached_tokens
    after = sampled(played(engine, [SampleRequest("e", longer, 24, 3)], Sampling())["e"])
    assert engine.cached_tokens == before  # of other weights
    assert away(other, longer, after, Sampling()) < 1e-5 < 1e-2 < away(model, longer, after, Sampling())
    assert (second.version, after.version, told) == (0, 1, [])
    engine.close()


@pytest.mark.slow
@pytest.mark.vllm
def test_more_prompts_at_once_than_vllm_computes_in_one_go(vllm_server: Serving, place: Path, chat: Chat) -> None:
    """The last of them would be computed in two parts, and on a CPU vLLM dies of that where there is a seed."""
    model = load_model(str(place / "model"), "float32", Support.of(chat.tokenizer))
    spec = EngineSpec(kind="vllm", urls=[vllm_server.url])
    told: list[str] = []
    engine = VllmEngine(
        model, chat.stop_ids, [vllm_server.url], spec, FilePusher(str(place / "pushed")), LONGEST, 32, told.append
    )
    requests = [SampleRequest(f"e{n}", [40 + n, *range(40, 240)], 2, n) for n in range(32)]  # of 2,048 tokens in one go
    turns = played(engine, requests, Sampling())
    assert [sampled(turns[request.session]).version for request in requests] == [0] * 32
    assert (engine.deaths, told) == (0, [])
    engine.close()


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_is_killed_in_a_step(
    vllm_server: Serving, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step goes on when it is back; in every step its log-probabilities are the trainer's."""
    run = tmp_path / "run"
    kill_in_the_second_step(vllm_server, run, monkeypatch)
    found, _, told = trained(recipe(place, vllm_server), run)
    assert max(row["train_inference_gap"] for row in found) < 1e-5
    assert [row["retries"] > 0 for row in found] == [False, True]
    assert [row["faults"] for row in found] == [0.0] * 2
    assert [line.split(": ")[0] for line in told] == [vllm_server.url] * 2
