"""Runs whose teacher is a real HTTP server over a real model: they learn what they would from it in their process."""

from __future__ import annotations

import copy
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from other_teacher import other_model, other_tokenizer
from scoring_server import ScoringServer
from sod.build.training import prepare_train
from sod.chat.render import Chat
from sod.models.load import load_model, save_model
from sod.recipe import Recipe
from sod.records import SodError
from sod.tasks import chain
from sod.tasks.files import write_tasks
from sod.training.report import StepReport

TASKS = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"train": 6}, 2, 3, seed=1)["train"])]
ROUNDING = 0.02
"""How far weights may differ by rounding, as a share of their way: Adam's first steps do not care how small a gradient
is. What the gradients differ by is in `tests/training/test_choice_gradients.py`.
"""
SERVED = {"model": "t", "backoff_seconds": 0.05, "backoff_max_seconds": 1.0, "seconds": 60.0}


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any, chat: Chat, acting_model: Any, random_model: Callable[..., Any]) -> Path:
    """A student that makes calls, a teacher of its tokenizer and one of another."""
    directory: Path = tmp_path_factory.mktemp("served")
    save_model(copy.deepcopy(acting_model), chat.tokenizer, chat.template, chat.end_id, directory / "student")
    save_model(random_model(seed=7, sharpness=4.0), chat.tokenizer, chat.template, chat.end_id, directory / "alike")
    tokenizer = other_tokenizer()
    save_model(other_model(tokenizer, 1.0), copy.deepcopy(tokenizer), None, chat.end_id, directory / "other")
    write_tasks(directory / "train.parquet", TASKS)
    return directory


@pytest.fixture
def make_recipe(place: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """`make_recipe(teacher, method, ...)`: a recipe over these models; a served teacher has a cache of the test's."""

    def make(teacher: Any = None, method: Any = "sod", **sections: Any) -> Recipe:
        if isinstance(teacher, dict) and "url" in teacher:
            teacher = {**SERVED, "cache": str(tmp_path / "cache"), **teacher}
        content = {
            "student": {"path": str(place / "student")},
            "teacher": teacher,
            "chat": {"template": "hermes"},
            "data": {"train": str(place / "train.parquet")},
            "rollout": {
                "prompts": 2,
                "samples": 2,
                "max_turns": 2,
                "max_prompt_tokens": 200,
                "max_turn_tokens": 24,
                "max_response_tokens": 120,
            },
            "optim": {"lr": 1e-3},
            "tools": {"python": {"workers": 1, "memory_mb": 256, "preload": []}},
            "train": {"steps": 2, "checkpoint_every": 1},
            "method": method,
            **sections,
        }
        return Recipe.model_validate(content)

    return make


@pytest.fixture(scope="module")
def alike(place: Path, chat: Chat) -> Iterator[ScoringServer]:
    """A server of the teacher with the student's tokenizer."""
    with ScoringServer(load_model(str(place / "alike"), "float32"), chat.tokenizer) as server:
        yield server


def trained(recipe: Recipe, directory: Path, told: list[str] | None = None) -> dict[str, torch.Tensor]:
    """The weights that a run of the recipe ends with."""
    with closing(prepare_train(recipe, directory, False, ([] if told is None else told).append)) as job:
        job.start([])
    return weights_of(directory)


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    newest = max((directory / "checkpoints").iterdir())
    return load_file(newest / "model" / "model.safetensors")


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


METHODS: dict[str, Any] = {
    "sod": "sod",
    "sage": "sage",
    "opd top-k": {"name": "opd", "divergence": {"kind": "jsd", "top_k": 5}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_served_teacher_gives_the_weights_of_the_same_one_in_the_process(
    name: str, make_recipe: Any, place: Path, alike: ScoringServer, tmp_path: Path
) -> None:
    """Two steps of a real run, of a plain advantage, of the teacher's confidence and of its top k."""
    local = trained(make_recipe({"path": str(place / "alike")}, METHODS[name]), tmp_path / "local")
    served = trained(make_recipe({"url": alike.url}, METHODS[name]), tmp_path / "served")
    start = load_file(place / "student" / "model.safetensors")
    assert apart(start, local) > 1e-3
    assert apart(local, served) < ROUNDING * apart(start, local)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sod", "opd top-k"])
def test_a_server_of_sglangs_dialect_teaches(
    name: str, make_recipe: Any, place: Path, alike: ScoringServer, tmp_path: Path
) -> None:
    local = trained(make_recipe({"path": str(place / "alike")}, METHODS[name]), tmp_path / "local")
    with ScoringServer(alike.model, alike.tokenizer, forms=("generate", "echo"), as_ids=False, falsy=True) as server:
        served = trained(make_recipe({"url": server.url}, METHODS[name]), tmp_path / "served")
    start = load_file(place / "student" / "model.safetensors")
    assert apart(local, served) < ROUNDING * apart(start, local)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "temperature": (
        {"rollout": {"temperature": 0.7}},
        r"rollout\.temperature=0\.7: teacher\.url=http://u scores at temperature 1 only; set rollout\.temperature=1",
    ),
    "whole": ({"method": {"name": "opd", "divergence": "jsd"}}, r"needs full log-probabilities from its teacher"),
    "plays": ({"method": "tcod_b2f"}, r"its teacher plays episodes, in this process; set teacher\.path"),
    "itself": ({"method": "opsd_gt"}, r"teacher\.url=http://u does nothing here: opsd_gt's teacher is the student"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_served_teacher_cannot_do_is_told_before_anything_is_read(name: str, tmp_path: Path) -> None:
    keys, line = REFUSED[name]
    content = {"student": {"path": "nowhere"}, "teacher": {"url": "http://u", "model": "t"}, "data": {"train": "x"}}
    with pytest.raises(SodError, match=line):
        prepare_train(Recipe.model_validate({**content, **keys}), tmp_path / "run", False, print)


@pytest.mark.slow
def test_a_served_teacher_is_proven_before_weights_are_read(
    make_recipe: Any, alike: ScoringServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sod.build.job.load_model", lambda *a: pytest.fail("weights were read"))
    short = ScoringServer(alike.model, alike.tokenizer, context=300)
    for teacher, keys, line in (
        ({"url": alike.url, "model": "u"}, {}, rf"teacher\.model=u: {alike.url} serves t; take one of these"),
        ({"url": "http://127.0.0.1:9/v1"}, {}, r"cannot be reached \(ConnectError\); start the server"),
        ({"url": short.url}, {}, r"takes 299 tokens of a trajectory at most, and rollout\.max_prompt_tokens \(200\)"),
        ({"url": alike.url, "cache": "/dev/null/x"}, {}, r"teacher\.cache=/dev/null/x: cannot be used"),
        (
            {"url": alike.url},
            {"method": {"name": "opd", "divergence": {"kind": "jsd", "top_k": 21}}},
            r"method\.divergence\.top_k=21: teacher\.url=http.* gives 20 tokens at most; take fewer, or have it give "
            r"more \(vLLM: --max-logprobs 21",
        ),
    ):
        with pytest.raises(SodError, match=line):
            prepare_train(make_recipe(teacher, **keys), tmp_path / "run", False, print)
    short.__exit__()


@pytest.mark.slow
def test_a_teacher_of_another_tokenizer_is_served(make_recipe: Any, place: Path, chat: Chat, tmp_path: Path) -> None:
    """By `chunk`, which reads log-probabilities of its own tokens: the weights of the same one in the process."""
    with ScoringServer(load_model(str(place / "other"), "float32"), other_tokenizer()) as server:
        method = {"name": "sod", "alignment": "chunk"}  # of a local one simct would be the default
        local = trained(make_recipe({"path": str(place / "other")}, method), tmp_path / "local")
        teacher = {"url": server.url, "tokenizer": str(place / "other")}
        served = trained(make_recipe(teacher), tmp_path / "served")
    start = load_file(place / "student" / "model.safetensors")
    assert apart(start, local) > 1e-3
    assert apart(local, served) < ROUNDING * apart(start, local)


class OwnProcess:
    """The scoring server of a model directory in a process of its own, which can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.directory = directory
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.start()

    def start(self) -> None:
        script = Path(__file__).parent.parent / "scoring_server.py"
        self.process = subprocess.Popen([sys.executable, str(script), str(self.directory), str(self.port)])

    def wait(self) -> None:
        """Until it answers."""
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.1)
            else:
                return

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def killable(place: Path) -> Iterator[OwnProcess]:
    server = OwnProcess(place / "alike")
    server.wait()
    yield server
    server.kill()


@pytest.mark.slow
def test_a_server_that_is_killed_comes_back_and_then_is_not_missed(
    killable: OwnProcess, make_recipe: Any, tmp_path: Path
) -> None:
    """A step waits for it without a fault; the same run again asks for nothing that was answered, with nobody there."""
    recipe = make_recipe({"url": killable.url, "attempts": 500, "backoff_max_seconds": 0.5, "breaker_seconds": 0.5})

    def kill(report: StepReport) -> None:
        if report.step == 1:
            killable.kill()
            killable.start()

    with closing(prepare_train(recipe, tmp_path / "one", False, print)) as job:
        job.start([kill])
    killable.kill()
    rows = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    assert [row["faults"] for row in rows] == [0.0, 0.0]
    told: list[str] = []
    weights = trained(recipe, tmp_path / "two", told)
    assert [line for line in told if "going on with the answers in teacher.cache" in line] != []
    assert apart(weights, weights_of(tmp_path / "one")) == 0.0
    elsewhere = make_recipe({"url": killable.url, "cache": str(tmp_path / "empty")})
    with pytest.raises(SodError, match=r"cannot be reached \(ConnectError\); start the server"):
        prepare_train(elsewhere, tmp_path / "three", False, print)


@pytest.mark.slow
def test_one_of_several_teachers_that_dies_costs_its_own_tasks_alone(
    make_recipe: Any, place: Path, alike: ScoringServer, tmp_path: Path
) -> None:
    """Faults of these, up to the rate at which a run stops, in a line that says which teacher is away."""
    named = [replace(task, data_source=f"s{number % 2}") for number, task in enumerate(TASKS)]
    write_tasks(tmp_path / "tasks.parquet", named)
    data = {"train": str(tmp_path / "tasks.parquet")}
    rollout = {"prompts": 6, "samples": 1, "max_turns": 1, "max_turn_tokens": 24}
    rollout |= {"max_prompt_tokens": 200, "max_response_tokens": 120}
    for rate in (1.0, 0.1):
        with ScoringServer(alike.model, alike.tokenizer) as server:
            away = {**SERVED, "url": server.url, "cache": str(tmp_path / f"{rate}"), "attempts": 1, "sources": ["s1"]}
            teachers = {"a": {"path": str(place / "alike")}, "b": away}
            limits = {"max_fault_rate": rate, **({"fault_window": 6} if rate < 1 else {})}
            recipe = make_recipe(data=data, teachers=teachers, rollout={**rollout, **limits})

            def dies(number: int, answer: dict[str, Any]) -> Any:
                first_step = number < 2 + 3  # after the probes
                return (200, {}, answer) if first_step else (500, {}, "engine dead")

            server.change = dies
            with closing(prepare_train(recipe, tmp_path / f"run-{rate}", False, print)) as job:
                if rate == 1.0:
                    job.start([])
                else:
                    with pytest.raises(SodError, match=rf"teachers\.b: {server.url}: HTTP 500: 'engine dead'"):
                        job.start([])
    rows = [json.loads(line) for line in (tmp_path / "run-1.0" / "metrics.jsonl").read_text().splitlines()]
    assert [row["faults"] for row in rows] == [0.0, 3.0]


@pytest.mark.slow
def test_teachers_by_the_source_of_a_task(make_recipe: Any, place: Path, alike: ScoringServer, tmp_path: Path) -> None:
    """One served and one here, each for its tasks: the weights of one teacher for both; another weight, others."""
    named = [replace(task, data_source=f"s{number % 2}") for number, task in enumerate(TASKS)]
    write_tasks(tmp_path / "tasks.parquet", named)
    data = {"train": str(tmp_path / "tasks.parquet")}
    here = {"path": str(place / "alike")}
    served = {**SERVED, "url": alike.url, "cache": str(tmp_path / "cache"), "sources": ["s1"]}
    one = trained(make_recipe(here, data=data), tmp_path / "one")
    two = trained(make_recipe(data=data, teachers={"a": here, "b": served}), tmp_path / "two")
    start = load_file(place / "student" / "model.safetensors")
    assert apart(one, two) < ROUNDING * apart(start, one)
    assert alike.asked[-1]["prompt"]
    heavy = make_recipe(data=data, teachers={"a": here, "b": {**served, "weight": 5.0}})
    assert apart(one, trained(heavy, tmp_path / "three")) > 10 * apart(one, two)
    other = make_recipe(data=data, teachers={"a": {**here, "sources": ["s0"]}, "b": {**served, "sources": ["s2"]}})
    with pytest.raises(SodError, match=r"teachers: none has the tasks of source 's1'; name it in the sources of one"):
        prepare_train(other, tmp_path / "four", False, print)
    whole = make_recipe(data=data, teachers={"a": here, "b": served}, method={"name": "opd", "divergence": "jsd"})
    with pytest.raises(SodError, match=r"method opd needs full log-probabilities from its teacher, teachers\.b\.url="):
        prepare_train(whole, tmp_path / "five", False, print)
