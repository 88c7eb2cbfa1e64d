"""What keys do that a run of a step does not show: those of services, of the quickstart's world, of `sod compare`, and
those that act on time, threads and processes alone. `every_setting.py` names each test here.
"""

from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Lock, Timer
from typing import Any

import pytest
import torch
from every_setting import OF_A_SERVED_TEACHER, SFT, TOOL
from own_tools import OWN_KEYS, answers
from settings_bench import Bench, files_of, put, quicken

import environment_games
from engines.vllm_stand_in import StandIn
from rewards.judge_server import completion
from scoring_server import ScoringServer
from sod import service as asked_service
from sod.alignment.estimators import Chunk
from sod.build.data import make_chat
from sod.build.devices import Devices
from sod.build.environment import world_tasks
from sod.build.idle import idle_anywhere, refuse_idle
from sod.build.job import prepare_torch
from sod.build.method import make_method
from sod.build.own_rewards import own_rewards
from sod.build.rollout import student_engine
from sod.build.servers import find_servers
from sod.build.supervised import prepare_sft
from sod.build.teachers import scorer_of, served_teacher, stored_episodes, teacher_vocabulary
from sod.build.tools import make_local_sandbox, make_reward_function, make_sandbox
from sod.build.training import prepare_train
from sod.build.translation import chats_of, span_measure
from sod.build.worlds import environment_maker, make_worlds
from sod.chat.render import Chat
from sod.cli.ranks import joined
from sod.compare.cells import run_unit
from sod.compare.order import order_of_work
from sod.compare.own import judged_tasks, tuning_tasks
from sod.compare.units import Comparison, Unit
from sod.engines.base import SampleRequest, Sampling
from sod.environments.base import Reset, WorldRequest
from sod.launch.fleet import Fleet
from sod.models.load import save_model
from sod.objective.scores import ScoreNeed
from sod.quickstart.run import make_world
from sod.recipe import PythonSpec, Recipe, TeacherSpec, parse_recipe
from sod.records import Fault, Program, SodError
from sod.rewards import math_worker_main
from sod.rewards.function import Score, scored
from sod.teachers import score_cache
from sod.teachers.local import LocalTeacher
from sod.tools.sandbox import filters, fusion
from sod.tools.sandbox.base import ProgramLimits
from support import CONTAINER_PROFILE, answered, descendants
from tools.bad_server import BadServer, always, hello
from vllm_environment import make_environment

UNSAFE = """
import sys
sys.modules["landlock"] = None
from sod.build.teachers import scorer_of, served_teacher, stored_episodes, teacher_vocabulary
from sod.build.tools import make_local_sandbox
from sod.recipe import PythonSpec
from sod.records import Program, SodError
from sod.tools.sandbox.base import ProgramLimits
for unsafe in (False, True):
    try:
        sandbox = make_local_sandbox(PythonSpec(unsafe=unsafe, preload=[]), ProgramLimits())
    except SodError as error:
        print(error)
print(sandbox.level, sandbox.execute([Program("print(1)")])[0].stdout)
sandbox.close()
"""
MATH_WORKER = Path(math_worker_main.__file__)
QUICK = {"attempts": 1, "backoff_seconds": 0.0, "connect_seconds": 20.0, "grace_seconds": 20.0, "breaker_seconds": 60.0}
"""A service that is asked once, and has all the time it may need."""
PATIENT = {"attempts": 1, "backoff_seconds": 0.0, "seconds": 20.0, "breaker_seconds": 60.0}
"""The same of a judge."""

SERVICE: Mapping[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "url": ({}, {"url": "{other}"}, "good"),
    "concurrency": ({"concurrency": 3}, {"concurrency": 1}, "good"),
    "connect_seconds": ({"connect_seconds": 0.1}, {"connect_seconds": 0.2}, "full"),
    "grace_seconds": ({"grace_seconds": 0.1}, {"grace_seconds": 0.2}, "hang"),
    "attempts": ({}, {"attempts": 3}, "http_500"),
    "backoff_seconds": ({"attempts": 3}, {"attempts": 3, "backoff_seconds": 0.01}, "http_500"),
    "backoff_max_seconds": (
        {"attempts": 3, "backoff_seconds": 0.01},
        {"attempts": 3, "backoff_seconds": 0.01, "backoff_max_seconds": 0.005},
        "http_500",
    ),
    "breaker_failures": ({}, {"breaker_failures": 2}, "http_500"),
    "breaker_seconds": ({"breaker_failures": 1}, {"breaker_failures": 1, "breaker_seconds": 0.0}, "http_500"),
}
"""Keys of `tools.python.fusion`: options of a service, others, and how the service behaves."""

JUDGE: Mapping[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "url": ({}, {"url": "{other}"}, "good"),
    "model": ({}, {"model": "other"}, "good"),
    "rubric": ({}, {"rubric": "Is it polite?"}, "good"),
    "weight": ({}, {"weight": -0.5}, "good"),
    "best": ({}, {"best": 5}, "good"),
    "show_truth": ({}, {"show_truth": False}, "good"),
    "request": ({}, {"request": {"temperature": 0.5}}, "good"),
    "max_calls": ({}, {"max_calls": 2}, "good"),
    "max_tokens": ({"concurrency": 1}, {"concurrency": 1, "max_tokens": 2}, "good"),  # known once an answer is there
    "cache": ({}, {"cache": "{elsewhere}"}, "good"),
    "concurrency": ({"concurrency": 3}, {"concurrency": 1}, "good"),
    "seconds": ({"seconds": 0.1}, {"seconds": 0.2}, "hang"),
    "attempts": ({}, {"attempts": 3}, "http_500"),
    "backoff_seconds": ({"attempts": 3}, {"attempts": 3, "backoff_seconds": 0.01}, "http_500"),
    "backoff_max_seconds": (
        {"attempts": 3, "backoff_seconds": 0.01},
        {"attempts": 3, "backoff_seconds": 0.01, "backoff_max_seconds": 0.005},
        "http_500",
    ),
    "breaker_failures": ({"concurrency": 1}, {"concurrency": 1, "breaker_failures": 2}, "http_500"),
    "breaker_seconds": (
        {"concurrency": 1, "breaker_failures": 1},
        {"concurrency": 1, "breaker_failures": 1, "breaker_seconds": 0.0},
        "http_500",
    ),
}
"""Keys of `reward.judge`: options of a judge, others, and how its service behaves."""

SHAPE = {"layers": 1, "hidden": 16, "heads": 2, "ffn": 16}
OTHER_SHAPE = {"layers": 2, "hidden": 32, "heads": 1, "ffn": 24}
SMALL_SFT = {"steps": 2, "batch_size": 2, "checkpoint_every": 2, "optim": {"lr": 1e-2}}
SMALL_WORLD: dict[str, Any] = {
    "shortest": 2,
    "longest": 3,
    "slips": 0.2,
    "sft": 12,
    "train": 4,
    "validation": 3,
    "test": 3,
    "vocab_size": 330,
    "context": 4096,
    "teacher": SHAPE,
    "student": SHAPE,
    "teacher_sft": SMALL_SFT,
}
OF_THE_WORLD: Mapping[str, Any] = {
    "shortest": 1,
    "longest": 4,
    "slips": 0.9,
    "privileged": 0.5,
    "failures": 0.9,
    "sft": 11,
    "train": 5,
    "validation": 2,
    "test": 4,
    "vocab_size": 340,
    "context": 4000,
    **{f"{role}.{key}": value for role in ("teacher", "student") for key, value in OTHER_SHAPE.items()},
    **{f"teacher_{key}": example.value for key, example in SFT.items()},
}
"""Keys of `world`, at other values."""
EQUAL_IN_THE_WORLD = {
    "teacher_sft.optim.micro_batch_tokens": 100_000,
    "teacher_sft.optim.recompute": True,
    "teacher_sft.optim.compile": False,
}

OF_COMPARE: Mapping[str, Any] = {
    "lrs": [1e-3, 1e-2, 1e-1],
    "tuning_steps": 2,
    "tuning_seed": 9,
    "test": "test.jsonl",
}
OF_ENVIRONMENT: Mapping[str, tuple[Any, Any]] = {
    "call": ("environment_games:Counter", "environment_games:TrlCounter"),
    "interface": ("auto", "gym"),
    "tasks": (2, 3),
    "success": (1.0, 0.5),
    "verified": (False, True),
    "timeout_seconds": (20.0, 0.05),
    "concurrency": (1, 2),
}
"""Keys of `environment`, at two values each."""
OF_ALIGNMENT: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "kind": ({"kind": "uld"}, {"kind": "simct"}),
    "min_coverage": ({"kind": "uld", "min_coverage": 0.2}, {"kind": "uld", "min_coverage": 0.9}),
    "top_k": ({"kind": "strict_topk"}, {"kind": "strict_topk", "top_k": 2}),
    "beta": ({"kind": "gold"}, {"kind": "gold", "beta": 0.1}),
    "matched": ({"kind": "gold"}, {"kind": "gold", "matched": 0.3}),
    "unit_score": ({"kind": "simct"}, {"kind": "simct", "unit_score": "logit"}),
}
"""Keys of `method.alignment`, in two sections each."""
OF_ENGINE: Mapping[str, dict[str, Any]] = {
    "kind": {"kind": "torch"},
    "urls": {"urls": ["{other}"]},
    "servers": {"servers": 2},
    "environment": {"environment": "elsewhere"},
    "options": {"options": ["--enforce-eager"]},
    "push": {"push_dir": None, "push": "nccl"},
    "push_dir": {"push_dir": "{folder}/other"},
    "tolerance": {"tolerance": 1e-12},
    "turn_seconds": {"turn_seconds": 0.05},
    "restart_seconds": {"restart_seconds": 0.0},
}
"""Keys of `engine`, changed. What a run would start is `tests/launch`'s; beside `urls` it is refused."""
OF_LAUNCH: Mapping[str, Any] = {
    "start_seconds": 5.0,
    "restarts": 0,
    "student.gpus": [2],
    "student.memory_share": 0.3,
    "student.port": 20_211,
    "teacher.gpus": [3],
    "teacher.memory_share": 0.3,
    "teacher.port": 20_212,
    "teacher.options": ["--enforce-eager"],
    "teacher.name": "b",
}
"""Keys of `launch`, each at another value."""
TEACHER: Mapping[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "url": ({}, {"url": "{other}"}, "good"),
    "model": ({}, {"model": "other"}, "good"),
    "api_key_env": ({}, {"api_key_env": "OTHER_KEY"}, "good"),
    "concurrency": ({"concurrency": 3}, {"concurrency": 1}, "slow"),
    "tokens_in_flight": ({}, {"tokens_in_flight": 1}, "slow"),
    "max_request_tokens": ({}, {"max_request_tokens": 10}, "good"),
    "seconds": ({"seconds": 1.0}, {"seconds": 1.5}, "hang"),
    "attempts": ({}, {"attempts": 3}, "500"),
    "backoff_seconds": ({"attempts": 3}, {"attempts": 3, "backoff_seconds": 0.01}, "500"),
    "backoff_max_seconds": (
        {"attempts": 3, "backoff_seconds": 0.01},
        {"attempts": 3, "backoff_seconds": 0.01, "backoff_max_seconds": 0.005},
        "500",
    ),
    "breaker_failures": ({"concurrency": 1}, {"concurrency": 1, "breaker_failures": 2}, "500"),
    "breaker_seconds": (
        {"concurrency": 1, "breaker_failures": 1},
        {"concurrency": 1, "breaker_failures": 1, "breaker_seconds": 0.0},
        "500",
    ),
    "cache": ({}, {"cache": "{elsewhere}"}, "good"),
    "cache_gb": ({}, {"cache_gb": 1e-9}, "good"),
}
"""Keys of a served teacher: options of one, others, and how its server behaves."""
OF_TEACHERS: Mapping[str, dict[str, Any]] = {
    **{key: {"url": "http://u", "model": "m", key: "/x"} for key in ("cache", "tokenizer")},
    **{key: {"url": "http://u", "model": "m", key: 0.5} for key in ("seconds", "cache_gb", "backoff_seconds")},
    **{key: {"url": "http://u", "model": "m", key: 7.5} for key in ("backoff_max_seconds", "breaker_seconds")},
    **{key: {"url": "http://u", "model": "m", key: 3} for key in ("concurrency", "tokens_in_flight", "attempts")},
    **{key: {"url": "http://u", "model": "m", key: 4} for key in ("max_request_tokens", "breaker_failures")},
    "url": {"url": "http://v", "model": "m"},
    "model": {"url": "http://u", "model": "n"},
    "api_key_env": {"url": "http://u", "model": "m", "api_key_env": "KEY"},
    "path": {"path": "p"},
    "dtype": {"path": "p", "dtype": "bfloat16"},
    "device": {"path": "p", "device": "cpu"},
    "weight": {"path": "p", "weight": 2.0},
    "sources": {"path": "p", "sources": ["a"]},
    "scores": {"scores": "f"},
}
"""Keys of each of several teachers, in a section each."""
TABLES = (
    {f"launch.{key}" for key in OF_LAUNCH},
    {f"engine.{key}" for key in OF_ENGINE},
    {f"teachers.NAME.{key}" for key in OF_TEACHERS},
    {f"environment.{key}" for key in OF_ENVIRONMENT},
    {f"tools.python.fusion.{key}" for key in SERVICE},
    {f"reward.judge.{key}" for key in JUDGE},
    {f"world.{key}" for key in [*OF_THE_WORLD, *EQUAL_IN_THE_WORLD]},
    {f"compare.{key}" for key in OF_COMPARE},
    {f"tools.NAME.{key}" for key in OWN_KEYS},
    {f"method.alignment.{key}" for key in OF_ALIGNMENT},
)


class Counting:
    """The good answer, and how many requests were answered at a time."""

    def __init__(self, answer: Callable[[bytes], bytes] = hello) -> None:
        self.answer = answer
        self.now = self.most = 0
        self._lock = Lock()

    def __call__(self, body: bytes) -> bytes:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.2)
        with self._lock:
            self.now -= 1
        return self.answer(body)


def asked(options: Mapping[str, Any], behaviour: str, patch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """What a service sees, and what its client makes of it, of three programs and of one more."""
    pauses: list[float] = []

    def noted(*arguments: Any) -> float:
        pauses.append(backoff(*arguments))
        return 0.0

    backoff, counting = fusion.backoff, Counting()
    plan = always("good") if behaviour in ("good", "full") else always(behaviour)  # type: ignore[arg-type]
    with BadServer(plan, counting) as server, BadServer(always("http_500")) as other, ExitStack() as opened:
        patch.setattr(fusion, "backoff", noted)
        url = no_place_left(opened) if behaviour == "full" else server.url
        service = {"url": url, **QUICK, **options}
        if service["url"] == "{other}":
            service["url"] = other.url
        spec = PythonSpec.model_validate({"fusion": service})
        sandbox = make_sandbox(spec, ProgramLimits(seconds=0.1, memory_mb=64))
        opened.callback(sandbox.close)
        outcomes = [*sandbox.execute([Program("1")] * 3), *sandbox.execute([Program("1")])]
        patch.undo()
        faults = sorted(outcome.detail for outcome in outcomes if isinstance(outcome, Fault))
        return server.requests, other.requests, counting.most, faults, sorted(pauses)


def launched(section: Mapping[str, Any], venv: Path, model: Path) -> list[Any]:
    """The servers that a run with this section of `launch` would start, and the patience with each."""
    content = {"student": {"path": str(model)}, "teacher": {"path": str(model)}, "method": "opd", "launch": section}
    content["engine"] = {"kind": "vllm", "environment": str(venv)}
    if "name" in section["teacher"]:
        content["teachers"] = {"a": content.pop("teacher") | {"sources": ["x"]}, "b": {"path": f"{model}/"}}
    recipe = parse_recipe(content, "here")
    method = make_method(recipe.method)
    servers = find_servers(recipe, method, Devices(torch.device("cpu"), torch.device("cpu")), str)
    with ExitStack() as opened:
        fleet = servers.begin(recipe, venv, opened, str)
    named = {place.name: place.is_named for place in servers.places}
    return [
        (
            [part if named[server.name] or part != str(server.plan.port) else "PORT" for part in server.plan.command],
            server.plan.environment,
            server.patience,
        )
        for server in fleet.servers
    ]


@pytest.fixture(scope="module")
def launching(model: Any, chat: Chat, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An environment with a program called vllm, and a model."""
    place = tmp_path_factory.mktemp("launching")
    save_model(model, chat.tokenizer, chat.template, chat.end_id, place / "model")
    return make_environment(place / "venv"), place / "model"


@pytest.mark.parametrize("key", OF_LAUNCH)
def test_a_key_of_launch(key: str, launching: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr("sod.build.servers.version", lambda program, where: "0.32.0")
    monkeypatch.setattr(Fleet, "start", lambda self: None)
    own = {"name": "a"} if key == "teacher.name" else {}
    before, after = {"teacher": own}, {"teacher": dict(own)}
    put(after, key, OF_LAUNCH[key])
    outcomes = [launched(section, *launching) for section in (before, before, after)]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] != outcomes[2]


def no_place_left(opened: ExitStack) -> str:
    """The address of a server that takes no more connections."""
    listener = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    for _ in range(4):
        waiting = opened.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(listener.getsockname())
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.parametrize("key", SERVICE)
def test_a_key_of_a_service(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options, others, behaviour = SERVICE[key]
    before, after = asked(options, behaviour, monkeypatch), asked(others, behaviour, monkeypatch)
    assert before != after
    assert asked(options, behaviour, monkeypatch) == before


def graded(options: Mapping[str, Any], behaviour: str, patch: pytest.MonkeyPatch, place: Path) -> tuple[Any, ...]:
    """What a judge's service is asked, and what comes of it, of three episodes."""
    pauses: list[float] = []

    def noted(*arguments: Any) -> float:
        pauses.append(backoff(*arguments))
        return 0.0

    backoff, counting = asked_service.backoff, Counting(lambda body: completion("Score: 4")[2].encode())
    plan = always(behaviour)  # type: ignore[arg-type]
    with BadServer(plan, counting) as server, BadServer(always("http_500")) as other, ExitStack() as opened:
        patch.setattr(asked_service, "backoff", noted)
        given = {"url": server.url, "model": "m", "cache": str(place / "cache"), **PATIENT, **options}
        named = {"{other}": other.url, "{elsewhere}": str(place / "elsewhere")}
        given = {key: named.get(value, value) if isinstance(value, str) else value for key, value in given.items()}
        content = {"student": {"path": "s"}, "reward": {"judge": given}}
        rewards = own_rewards(parse_recipe(content, "here"), opened, lambda text: None)
        try:
            scores = scored(rewards, [answered(text, "5") for text in "abc"])
        except SodError as error:
            return (str(error).rpartition("; ")[2],)
        finally:
            patch.undo()
        faults = [score.detail.replace(server.url, "") for score in scores if isinstance(score, Fault)]
        parts = [score.parts for score in scores if isinstance(score, Score)]
        kept = sorted(str(path.parent.parent.relative_to(place)) for path in place.glob("*/*/*.json"))
        bodies = sorted(body.decode() for body in server.bodies)
        return bodies, other.requests, counting.most, faults, parts, sorted(pauses), kept


@pytest.mark.slow
@pytest.mark.parametrize("key", JUDGE)
def test_a_key_of_the_judge(key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options, others, behaviour = JUDGE[key]
    before = graded(options, behaviour, monkeypatch, tmp_path / "one")
    after = graded(others, behaviour, monkeypatch, tmp_path / "two")
    assert before != after
    assert graded(options, behaviour, monkeypatch, tmp_path / "three") == before


def engine_section(keys: Mapping[str, Any], urls: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """The section with these keys, at a server."""
    if keys.get("kind") == "torch":
        return {"kind": "torch"}
    section = {"kind": "vllm", "urls": ["{one}"], "push_dir": "{folder}/pushed", "restart_seconds": 20.0, **keys}
    section["urls"] = [urls[url] for url in section["urls"]]
    if section["push_dir"] is not None:
        section["push_dir"] = section["push_dir"].replace("{folder}", str(folder))
    return section


def engine_outcome(keys: Mapping[str, Any], model: Any, chat: Chat, folder: Path) -> tuple[Any, ...]:
    """What samples with these keys of `engine`, who was asked, where weights lie; and what comes of a server that is
    away for a moment. Or why it is refused.
    """
    with ExitStack() as stack:
        servers = [StandIn(copy.deepcopy(model), seconds=0.2) for _ in range(2)]
        for server in servers:
            stack.callback(server.close)
        section = engine_section(keys, {"{one}": servers[0].url, "{other}": servers[1].url}, folder)
        recipe = parse_recipe({"student": {"path": "s"}, "engine": section}, "here")
        try:
            refuse_idle(list(idle_anywhere(recipe)), recipe, False, str)
            engine = student_engine(recipe, chat, model, notice=str)
        except SodError as error:
            return ("refused", str(error).replace(servers[0].url, "").split(" ")[0])
        stack.callback(engine.close)
        engine.submit([SampleRequest("e", (20, 21), 1, 1)], Sampling())
        outcomes: list[Any] = []
        while not outcomes:
            outcomes += engine.advance(1)
        answered = [type(outcome).__name__ for _, outcome in outcomes]
        where = sorted(path.parent.name for path in folder.glob("*/sod-weights-*"))
        went = [len(server.served.asked) for server in servers]
        return type(engine).__name__, answered, where, went, away_for_a_moment(engine, model, servers[0])


def away_for_a_moment(engine: Any, model: Any, server: StandIn) -> str:
    """What the next push comes to where the server is started again during it."""
    server.close()
    later: list[StandIn] = []
    timer = Timer(0.5, lambda: later.append(StandIn(copy.deepcopy(model), server.port)))
    timer.start()
    try:
        engine.sync(model)
    except SodError as error:
        return str(error)
    finally:
        timer.join()
        later[0].close()
    return "went on"


@pytest.fixture(scope="module")
def plain_engine(model: Any, chat: Chat, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """What comes of the section that no key is changed in: the same twice, else any key would seem to change it."""
    one, other = (engine_outcome({}, model, chat, tmp_path_factory.mktemp("plain")) for _ in range(2))
    assert one == other == ("VllmEngine", ["Sampled"], ["pushed"], [1, 0], "went on")
    return one


@pytest.mark.slow
@pytest.mark.parametrize("key", OF_ENGINE)
def test_a_key_of_the_engine(key: str, plain_engine: tuple[Any, ...], model: Any, chat: Chat, tmp_path: Path) -> None:
    assert engine_outcome(OF_ENGINE[key], model, chat, tmp_path) != plain_engine


def taught(options: Mapping[str, Any], behaviour: str, patch: pytest.MonkeyPatch, place: Path, of: Any) -> Any:
    """What a teacher's server is asked, and what comes of it, of three rows that are scored twice."""
    model, tokenizer, batch = of
    pauses: list[float] = []

    def noted(*arguments: Any) -> float:
        pauses.append(backoff(*arguments))
        return 0.0

    def change(number: int, answer: Any) -> Any:
        if behaviour == "hang" or (behaviour == "slow" and number):
            time.sleep(4.0 if behaviour == "hang" else 0.2)
        return (500, {}, "down") if behaviour == "500" and number else (200, {}, answer)

    backoff = asked_service.backoff
    with ScoringServer(model, tokenizer) as server, ScoringServer(model, tokenizer) as other, ExitStack() as opened:
        patch.setattr(asked_service, "backoff", noted)
        patch.setattr(score_cache, "CHECKED_EVERY", 1)
        patch.setenv("SOD_TEACHER_API_KEY", "mine")
        patch.setenv("OTHER_KEY", "other")
        server.change = change
        given = {"url": server.url, "model": "t", "cache": str(place / "cache"), **PATIENT, **options}
        named = {"{other}": other.url, "{elsewhere}": str(place / "elsewhere")}
        spec = TeacherSpec(**{k: named.get(v, v) if isinstance(v, str) else v for k, v in given.items()})
        try:
            teacher = served_teacher(spec, "teacher", tokenizer, 0, 0, pytest.fail)
        except SodError as error:
            return str(error).replace(server.url, "")
        opened.callback(teacher.close)
        scores = teacher.score(batch, (), ScoreNeed())
        teacher.score(batch, (), ScoreNeed())
        patch.undo()
        faults = sorted(fault.detail.replace(server.url, "") for fault in scores.faults.values())
        keys = {headers["Authorization"] for headers in server.headers}
        kept = sorted(str(path.parent.relative_to(place)) for path in place.glob("*/*.sqlite"))
        overlapping = behaviour == "slow" and server.most > 1  # the others are answered too soon to tell
        asked = len(server.asked), len(other.asked), overlapping, teacher.server.kept
        return asked, faults, sorted(pauses), keys, kept


@pytest.mark.slow
@pytest.mark.parametrize("key", TEACHER)
def test_a_key_of_a_server_of_a_teacher(
    key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Any, tokenizer: Any, random_batch: Any
) -> None:
    options, others, behaviour = TEACHER[key]
    of = model, tokenizer, random_batch(rows=3, seed=1)
    before = taught(options, behaviour, monkeypatch, tmp_path / "one", of)
    after = taught(others, behaviour, monkeypatch, tmp_path / "two", of)
    assert before != after
    assert taught(options, behaviour, monkeypatch, tmp_path / "three", of) == before


def test_a_key_of_a_served_teacher(tmp_path: Path, model: Any, clone: Any, random_batch: Any) -> None:
    """Those that are not about a server; `test_a_key_of_a_server_of_a_teacher` has the others, which are all."""
    assert sorted([*TEACHER, "scores", "tokenizer", "weight", "sources"]) == sorted(OF_A_SERVED_TEACHER)

    def recipe_of(**teacher: Any) -> Recipe:
        return parse_recipe({"student": {"path": "s"}, "method": "opd", "teacher": teacher}, "here")

    opd = make_method(recipe_of(path="p").method)
    server = {"url": "http://u", "model": "m"}
    assert teacher_vocabulary(recipe_of(**server), opd) is None
    assert teacher_vocabulary(recipe_of(**server, tokenizer="other"), opd) == "other"
    for name in ("one", "other"):
        with pytest.raises(SodError, match=f"{name}.parquet: no such file"):
            stored_episodes(recipe_of(scores=str(tmp_path / f"{name}.parquet")), opd, pytest.fail)
    teacher, batch = LocalTeacher(clone(model), 100), random_batch(rows=2, seed=1)
    plain = scorer_of(recipe_of(path="p"), opd, {"teacher": teacher}, None)
    heavy = scorer_of(recipe_of(path="p", weight=2.0), opd, {"teacher": teacher}, None)
    episodes = [answered("a"), answered("b")]
    assert plain.score(batch, episodes, ScoreNeed()).weight_B is None
    assert heavy.score(batch, episodes, ScoreNeed()).weight_B.tolist() == [2.0, 2.0]  # type: ignore[union-attr]
    with pytest.raises(SodError, match=r"teacher\.sources: the one teacher has all tasks"):
        recipe_of(path="p", sources=["a"])


@pytest.mark.parametrize("key", OF_TEACHERS)
def test_a_key_of_one_of_several_teachers(key: str) -> None:
    """It means what it means of the one teacher; what is only for that one is refused."""
    section = OF_TEACHERS[key]
    several = {"student": {"path": "s"}, "teachers": {"a": section}}
    if key == "scores":
        with pytest.raises(SodError, match=r"teachers\.a: scores is for the one teacher of a run"):
            parse_recipe(several, "here")
        return
    spec = parse_recipe(several, "here").teaching["teachers.a"]
    assert spec == TeacherSpec(**section)
    assert getattr(spec, key) != TeacherSpec.model_fields[key].default


def own_reward_of(tmp_path: Path, **keys: Any) -> Any:
    """The reward function of a recipe with an own one that says when it began and ended."""
    (tmp_path / "slow_reward.py").write_text(
        "import time\nspans = []\ndef slow(episode):\n    begun = time.monotonic()\n    time.sleep(0.5)\n"
        "    spans.append((begun, time.monotonic()))\n    return 1.0\n"
    )
    call = f"{tmp_path}/slow_reward.py:slow"
    recipe = parse_recipe({"student": {"path": "s"}, "reward": {"call": call, **keys}}, "here")
    return make_reward_function(recipe, ExitStack(), [])


def test_seconds_of_own_reward_functions(tmp_path: Path) -> None:
    (late,) = own_reward_of(tmp_path, call_seconds=0.1)([answered("a")])
    (early,) = own_reward_of(tmp_path, call_seconds=60.0)([answered("a")])
    assert late.fault is not None
    assert early.fault is None


def test_workers_of_own_reward_functions(tmp_path: Path) -> None:
    overlaps = []
    for workers in (1, 2):
        rewarding = own_reward_of(tmp_path, call_workers=workers)
        spans = rewarding.own[0].function.__globals__["spans"]
        spans.clear()
        rewarding([answered("a"), answered("b")])
        (begun, ended), (other_begun, other_ended) = spans
        overlaps.append(begun < other_ended and other_begun < ended)
    assert overlaps == [False, True]


def world_of(keys: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """The files of a small world with these keys of `world`; or why it is refused."""
    content: dict[str, Any] = {
        "student": {"path": ""},
        "chat": {"template": "hermes"},
        "tools": {"python": {"preload": []}},
        "sft": SMALL_SFT,
        "world": SMALL_WORLD,
    }
    for key, value in keys.items():
        put(content, f"world.{key}", value)
    try:
        make_world(Recipe.model_validate(content), directory, run_quietly, lambda text: None)
    except SodError as error:
        return {"refused": str(error)}
    return files_of(directory)


def run_quietly(title: str, job: Any) -> None:
    """Run the job of a stage."""
    job.start([])
    job.close()


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, Any]]]:
    """`small_world(KEY=VALUE)`: its files."""
    place = tmp_path_factory.mktemp("worlds")
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        yield lambda keys: world_of(keys, place / f"run-{len(list(place.iterdir()))}")


@pytest.fixture(scope="module")
def plain_world(small_world: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """The world that the others differ from; made twice, it is the same."""
    made = small_world({})
    assert made == small_world({})
    assert "refused" not in made
    return made


@pytest.mark.slow
@pytest.mark.parametrize("key", OF_THE_WORLD)
def test_a_key_of_the_world(key: str, small_world: Callable[..., Any], plain_world: dict[str, Any]) -> None:
    """It changes a file of data or of a model, or is refused by its name in `sft`."""
    made = small_world({key: OF_THE_WORLD[key]})
    if "refused" in made:
        assert key.removeprefix("teacher_") in made["refused"]
    assert made != plain_world
    assert ("refused" in made) == (key in ("teacher_sft.optim.mini_batch_prompts", "teacher_sft.max_tokens"))


@pytest.mark.slow
@pytest.mark.parametrize("key", EQUAL_IN_THE_WORLD)
def test_a_key_that_changes_nothing_in_the_world(
    key: str, small_world: Callable[..., Any], plain_world: dict[str, Any]
) -> None:
    """As `optim.micro_batch_tokens` and `optim.recompute`: the same data, and as many files."""
    made = small_world({key: EQUAL_IN_THE_WORLD[key]})
    assert made.keys() == plain_world.keys()
    assert {name for name in made if made[name] != plain_world[name]} <= {
        f"teacher-sft/{name}" for name in ("metrics.jsonl", "checkpoints/step-000002/model/model.safetensors")
    }


def comparison(directory: Path, **keys: Any) -> Comparison:
    """A comparison of small worlds, by runs of a step."""
    content = {
        "student": {"path": ""},
        "chat": {"template": "hermes"},
        "tools": {"python": None},
        "rollout": {
            "prompts": 1,
            "samples": 1,
            "max_turns": 1,
            "max_prompt_tokens": 200,
            "max_turn_tokens": 4,
            "max_response_tokens": 9,
        },
        "evaluation": {"k": 1, "tasks": 1},
        "train": {"steps": 1},
        "sft": SMALL_SFT,
        "world": SMALL_WORLD,
        "compare": {"lrs": [1e-3, 1e-2], "tuning_steps": 1, "tuning_seed": 8, **keys},
    }
    return Comparison(Recipe.model_validate(content), directory / "out", directory / "work", 1, {})


@pytest.mark.slow
@pytest.mark.parametrize("key", OF_COMPARE)
def test_a_key_of_compare(key: str, tmp_path: Path) -> None:
    """What is to be done, or what a trial says of itself, differs."""

    def planned(**keys: Any) -> list[Unit]:
        return order_of_work(comparison(tmp_path, **keys), ["opd"], [0], {}, 1)

    def tried(name: str, **keys: Any) -> dict[str, Any]:
        made = comparison(tmp_path / name, **keys)
        run_unit(made, Unit("world", 8))
        return run_unit(made, Unit("trial", 8, "opd", 1e-3))

    change = {key: OF_COMPARE[key]}
    if key == "test":  # that it is played: tests/compare/test_own_recipes.py
        whole = comparison(tmp_path, **change).recipe.model_copy(update={"world": None})
        assert (judged_tasks(whole).named, tuning_tasks(whole).named) == ("test.jsonl", None)
    elif key == "tuning_steps":
        before, after = tried("before"), tried("after", **change)
        assert (before["curve"]["step"], after["curve"]["step"]) == ([1], [1, 2])
    else:
        assert planned() == planned()
        assert planned() != planned(**change)


@pytest.mark.parametrize(
    ("key", "among_others", "in_one_process"),
    [
        (
            "shards",
            r"=2, and a launcher has started 1 processes",
            "=2: only the commands `sod train` and `sod sft` start",
        ),
        ("sequence", *[r"=2 does not divide the number of processes, 1; set parallel\.shards=2, or"] * 2),
    ],
)
def test_a_key_of_the_ranks(
    key: str, among_others: str, in_one_process: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many processes there have to be. That they train as one does: tests/distributed and tests/cli."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launched = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in launched.items():
        monkeypatch.setenv(name, str(value))
    recipe = Recipe.model_validate({"student": {"path": "nowhere"}})
    with joined(recipe, tmp_path) as ranks:
        assert (ranks.number, ranks.count) == (0, 1)
    other = recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update={key: 2})})
    with pytest.raises(SodError, match=rf"^parallel\.{key}{among_others}"):
        joined(other, tmp_path).__enter__()
    for prepare in (prepare_train, prepare_sft):
        with pytest.raises(SodError, match=rf"^parallel\.{key}{in_one_process}"):
            prepare(other, tmp_path / "run", False, str)


@pytest.mark.slow
def test_an_asynchronous_rollout_waits_for_no_call(bench: Bench) -> None:
    """The calls of a step's first turns come together in lockstep, and each by itself where nothing is waited for."""
    lockstep = bench.run("sod", TOOL, faults=0).batches
    asynchronous = bench.run("sod", {**TOOL, "rollout.asynchronous": True}, faults=0).batches
    assert max(lockstep) > 1
    assert set(asynchronous) == {1}
    assert sum(lockstep) == sum(asynchronous)


def math_limits(**reward: int) -> list[str]:
    """The limits that the interpreter of the math verifier was started with: workers, CPU seconds, seconds, ..."""
    recipe = Recipe.model_validate({"student": {"path": "s"}, "reward": reward})
    with ExitStack() as opened:
        (judged,) = make_reward_function(recipe, opened, [])([answered("\\boxed{x+1}", "1+x")])
        assert judged.correct
        commands = [Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in descendants(os.getpid())]
        (command,) = [command for command in commands if str(MATH_WORKER) in command]
        return command[command.index(str(MATH_WORKER)) + 1 :]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_seconds_of_the_math_verifier() -> None:
    """They reach its interpreter, whose limits `tests/rewards/test_math_workers.py` shows to hold."""
    assert math_limits(math_seconds=9)[1] == "9"
    assert math_limits(math_seconds=4)[1] == "4"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_workers_of_the_math_verifier() -> None:
    assert math_limits(workers=3)[0] == "3"
    assert math_limits(workers=1)[0] == "1"


@pytest.mark.slow
def test_workers_of_the_sandbox() -> None:
    """Two programs run at the same time where there are two workers, and one after the other where there is one."""

    def overlap(workers: int) -> bool:
        sandbox = make_local_sandbox(PythonSpec(workers=workers, preload=[]), ProgramLimits(seconds=60.0))
        try:
            spans = sandbox.execute([Program("import time\nprint(time.time())\ntime.sleep(2)\nprint(time.time())")] * 2)
        finally:
            sandbox.close()
        (begun, ended), (other_begun, other_ended) = [map(float, span.stdout.split()) for span in spans]
        return begun < other_ended and other_begun < ended

    assert [overlap(1), overlap(2)] == [False, True]


@pytest.mark.slow
def test_an_unsafe_sandbox() -> None:
    """Where the machine does not permit isolation, it is refused, and with `unsafe` it runs programs all the same."""
    pytest.importorskip("pyseccomp")
    script = CONTAINER_PROFILE.format(tools=str(Path(filters.__file__).parents[1])) + UNSAFE
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    refusal, unsafe, *_ = done.stdout.splitlines()
    assert refusal.endswith("or set `unsafe` if you trust the programs")
    assert unsafe == "unsafe 1"


@pytest.mark.slow
@pytest.mark.parametrize("key", OWN_KEYS)
def test_a_key_of_a_tool_of_ones_own(key: str, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tools that are shown differ, or what a call gives."""
    if key in ("mcp", "offer", "variables"):
        pytest.importorskip("mcp")
    monkeypatch.setenv("SHELF_SECRET", "told")
    section, change, name, arguments = OWN_KEYS[key]
    before = answers(tmp_path, section, name, arguments, tokenizer)
    assert before == answers(tmp_path, section, name, arguments, tokenizer)
    assert before != answers(tmp_path, {**section, **change}, name, arguments, tokenizer)


def test_threads() -> None:
    here = Devices(torch.device("cpu"), torch.device("cpu"))
    prepare_torch(Recipe.model_validate({"student": {"path": "s"}, "threads": 2}), here)
    assert torch.get_num_threads() == 2
    prepare_torch(Recipe.model_validate({"student": {"path": "s"}}), here)
    assert torch.get_num_threads() == 2, "null leaves it as it is"


def in_environment(key: str, value: Any) -> Any:
    """What a key of `environment` decides at this value."""
    base = {
        "call": "environment_games:Slow" if key in ("timeout_seconds", "concurrency") else OF_ENVIRONMENT["call"][0]
    }
    content = {"student": {"path": "model"}, "environment": {**base, key: value}}
    recipe = parse_recipe(content, "here")
    spec = recipe.environment
    assert spec is not None
    tasks = world_tasks(None, "data.train", recipe, spec, pytest.fail)
    if key in ("call", "interface"):
        return type(environment_maker(spec)())
    if key == "tasks":
        return [task.id for task in tasks]
    if key in ("success", "verified"):
        with ExitStack() as opened:
            judge = make_reward_function(recipe, opened, tasks)
            episode = answered("\\boxed{7}", "7")
            parts = {"environment": 0.75}
            (judged,) = judge([replace(episode, trajectory=replace(episode.trajectory, reward_parts=parts))])
        return judged.correct, judged.reward_parts
    worlds = make_worlds(spec)
    began = worlds.run([WorldRequest(name, Reset(tasks[0], 1)) for name in ("one", "other")])
    worlds.close()
    return [began[0].detail if isinstance(began[0], Fault) else "", environment_games.Slow.most_at_once()]


@pytest.mark.parametrize("key", OF_ENVIRONMENT)
def test_a_key_of_an_environment(key: str) -> None:
    one, other = OF_ENVIRONMENT[key]
    assert in_environment(key, one) != in_environment(key, other)


@pytest.mark.parametrize("key", OF_ALIGNMENT)
def test_a_key_of_the_alignment(key: str, chat: Chat, random_model: Callable[..., Any], tmp_path: Path) -> None:
    """The loss of the same three tokens in two spans, and how much must match."""
    model = str(tmp_path / "model")
    save_model(random_model(), copy.deepcopy(chat.tokenizer), chat.template, chat.end_id, Path(model))

    generator, columns = torch.Generator().manual_seed(1), len(chat.tokenizer)
    logits = [torch.randn(3, columns, generator=generator) for _ in range(2)]
    ids, start, stop = torch.tensor([5, 6, 7]), torch.tensor([0, 1]), torch.tensor([1, 3])
    part = Chunk(*logits, ids, ids, start, stop, start, stop)

    def what_comes_of(section: dict[str, Any]) -> tuple[list[float], float]:
        content = {"student": {"path": model}, "method": {"name": "opd", "alignment": section}}
        recipe = parse_recipe(content, "here")
        method = make_method(recipe.method)
        translation = chats_of(recipe, method, model, LocalTeacher.offers, lambda text: None)[1]
        assert translation is not None
        assert method.alignment is not None
        return span_measure(method.alignment, translation, torch.device("cpu"))(part).tolist(), translation.min_coverage

    one, other = OF_ALIGNMENT[key]
    assert what_comes_of(one) == what_comes_of(one)
    assert what_comes_of(one) != what_comes_of(other)


CALLS = (
    "{{ tools | tojson if tools else '' }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '<tool_call>' + (c.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)


def of_dialect(name: str) -> Recipe:
    return parse_recipe({"student": {"path": "model"}, "chat": {"dialect": name}}, "here")


def test_a_key_of_the_dialect(tokenizer: Any) -> None:
    """chat.dialect names the one dialect that is tried, and what is taken is told."""
    own = copy.deepcopy(tokenizer)
    own.chat_template = CALLS
    told: list[str] = []
    for dialect in ("auto", "hermes"):
        recipe = of_dialect(dialect)
        assert make_chat(recipe, own, told.append).dialect.name == "hermes"
    assert told == [
        "chat.template=auto took the tokenizer's own template, as it shows the tools and its calls are read as hermes; "
        "`sod chat` shows it"
    ] * len(told)
    assert len(told) == 2
    with pytest.raises(SodError, match=r"the qwen-xml dialect does not read the calls .*; use chat\.template=hermes$"):
        make_chat(of_dialect("qwen-xml"), own, told.append)
