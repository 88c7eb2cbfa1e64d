"""The processes of a run as its recipe asks for them, told before any is started."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sod.build.devices import Devices, find_devices
from sod.build.method import make_method
from sod.build.servers import Servers, find_servers, server_places
from sod.chat.render import Chat
from sod.models.load import save_model
from sod.preflight.estimate import estimated
from sod.preflight.processes import Process, processes
from sod.recipe import Recipe, parse_recipe
from sod.records import SodError
from support import descendants
from vllm_environment import make_environment

MIB = 2**20
Reader = Callable[..., Recipe]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("venv"))


@pytest.fixture(scope="module")
def student(random_model: Callable[..., Any], chat: Chat, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "student"
    save_model(random_model(layers=3), chat.tokenizer, chat.template, chat.end_id, directory)
    return directory


@pytest.fixture
def read(student: Path, environment: Path) -> Reader:
    """A recipe of a method without a teacher, with these sections."""

    def made(**sections: Any) -> Recipe:
        engine = {"kind": "vllm", "environment": str(environment), **sections.pop("engine", {})}
        engine = {key: value for key, value in engine.items() if value is not None}
        return parse_recipe(
            {"student": {"path": str(student)}, "method": "grpo", "engine": engine, **sections}, "r.yaml"
        )

    return made


def servers_of(recipe: Recipe) -> Servers:
    return find_servers(recipe, make_method(recipe.method), find_devices(recipe, str), str)


def told(recipe: Recipe) -> dict[str, Process]:
    return {one.name: one for one in processes(recipe, ["sod", "train", "my recipe.yaml"], str)}


@pytest.mark.slow
def test_a_run_in_one_process_is_one_process(read: Reader) -> None:
    (trainer,) = told(read(engine={"kind": "torch", "environment": None})).values()
    assert (trainer.name, trainer.devices, trainer.address) == ("trainer", "cpu", "")
    assert trainer.command == "sod train 'my recipe.yaml'"
    assert re.fullmatch(r"[\d.]+ [MG]iB at its peak, in sampling", trainer.memory)


@pytest.mark.slow
def test_servers_are_told_with_all_that_would_start_them_and_none_is_started(
    read: Reader, student: Path, environment: Path
) -> None:
    before = set(descendants(os.getpid()))
    options = ["--kv-cache-memory-bytes", str(64 * MIB)]
    found = told(read(engine={"servers": 2, "options": options}, launch={"student": {"port": 20200}}))
    assert list(found) == ["trainer", "student-1", "student-2"]
    second = found["student-2"]
    assert second.devices == "cpu"
    assert second.address == "http://127.0.0.1:20201"
    assert re.fullmatch(r"served weights \d+ MiB \+ served cache 64 MiB", second.memory)
    assert f"{environment}/bin/vllm serve {student} --dtype float32" in second.command
    assert "OMP_NUM_THREADS=" in second.command
    assert "--no-enable-chunked-prefill" in second.command
    assert second.command.endswith("--host 127.0.0.1 --port 20201")
    assert "in the update" in found["trainer"].memory, "nothing is sampled in the trainer"
    assert set(descendants(os.getpid())) == before


@pytest.mark.slow
def test_a_port_that_nobody_named_may_be_another(read: Reader) -> None:
    assert told(read())["student"].address.endswith(", or another free port")


@pytest.mark.slow
def test_servers_that_run_already_are_named_and_not_started(read: Reader) -> None:
    found = told(read(engine={"urls": ["http://10.0.0.1:8000"], "environment": None}))
    assert found["student"] == Process("student", "not started here", "", "http://10.0.0.1:8000")


@pytest.mark.slow
def test_a_server_on_gpus_takes_its_share_of_each(read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 * 2**30, 80 * 2**30))
    launch = {"student": {"gpus": [2, 3], "memory_share": 0.5}}
    found = told(read(engine={"options": ["--enforce-eager"]}, launch=launch))["student"]
    assert found.devices == "cuda:2, cuda:3"
    assert found.memory == " + ".join(["vLLM's share 40.00 GiB"] * 2)
    assert "CUDA_VISIBLE_DEVICES=2,3" in found.command
    assert "chunked-prefill" not in found.command
    assert "--tensor-parallel-size 2 --gpu-memory-utilization 0.5" in found.command


def test_the_trainers_gpu_is_left_to_it(read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    devices = Devices(torch.device("cuda", 0), torch.device("cuda", 0))
    (place,) = server_places(read(), make_method(read().method), devices)
    assert place.gpus == (1,)
    with pytest.raises(SodError, match=r"launch\.student: its servers need 2 GPUs, and 1 of 2 here are nobody's"):
        server_places(read(engine={"servers": 2}), make_method(read().method), devices)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    (place,) = server_places(read(parallel={"shards": 3}), make_method(read().method), devices)
    assert place.gpus == (3,)  # the ranks of the trainer have the others


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"launch": {"student": {"gpus": [0]}}}, "launch.student.gpus: there is no GPU 0 here (none)"),
        ({"engine": {"environment": "/nowhere"}}, "engine.environment: there is no vLLM in /nowhere"),
        (
            {"engine": {"options": ["-tp", "2"]}},
            "launch.student: its servers need 2 GPUs, and 0 of 0 here are nobody's",
        ),
        (
            {"engine": {"urls": ["http://127.0.0.1:1"], "environment": None}, "launch": {"restarts": 1}},
            "launch.restarts=1 does nothing here: the run starts no server",
        ),
        (
            {"engine": {"kind": "torch", "environment": None}, "launch": {"student": {"port": 9000}}},
            "this process samples (engine.kind=torch)",
        ),
        ({"student": {"path": "/nowhere"}}, "/nowhere"),
    ],
)
def test_what_would_keep_a_run_from_starting_is_told(
    read: Reader, sections: dict[str, Any], line: str, tmp_path: Path
) -> None:
    with pytest.raises(SodError, match=re.escape(line)):
        told(read(**sections))


def test_a_port_in_use_is_told(read: Reader) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SodError, match=rf"launch\.student\.port: port {port} is in use"):
            told(read(launch={"student": {"port": port}}))


@pytest.mark.parametrize(
    "version", ["0.33.0", *(pytest.param(old, marks=pytest.mark.slow) for old in ("0.31.9", "1.0"))]
)
def test_another_vllm_than_the_pinned_one_is_refused(read: Reader, tmp_path: Path, version: str) -> None:
    other = make_environment(tmp_path / "venv", version)
    recipe = read(engine={"environment": str(other)})
    with pytest.raises(SodError, match=re.escape(f"engine.environment: {other}/bin/vllm: vLLM {version}, and")):
        servers_of(recipe)


def test_a_served_teacher_is_asked_as_long_as_its_server_may_take_to_come_back(read: Reader, student: Path) -> None:
    launch = {"start_seconds": 300.0, "teacher": {"port": 20202}}
    recipe = read(method="opd", teacher={"path": str(student)}, launch=launch, engine={"kind": "torch"})
    spec = servers_of(recipe).recipe.teacher
    assert spec is not None
    assert (spec.path, spec.url, spec.model) == (None, "http://127.0.0.1:20202/v1", str(student))
    assert spec.problem() is None
    assert (spec.attempts - 8) * spec.backoff_max_seconds / 2 >= 300.0


def test_a_method_that_plays_nothing_starts_nothing(read: Reader) -> None:
    assert servers_of(read(method="sft")).places == ()


def test_the_recipe_gets_the_urls_of_what_is_started(read: Reader) -> None:
    recipe = read(engine={"servers": 2})
    servers = servers_of(recipe)
    assert servers.recipe.engine.urls == [place.url for place in servers.places]
    assert [plan.url for plan in servers.plans(recipe)] == servers.recipe.engine.urls
    assert servers.recipe.engine.restart_seconds == recipe.launch.start_seconds > recipe.engine.restart_seconds
    local = read(engine={"kind": "torch", "environment": None})
    assert servers_of(local).recipe is local


@pytest.mark.slow
def test_the_plan_of_a_run_has_its_servers_and_no_engine_in_the_trainer(read: Reader) -> None:
    options = ["--kv-cache-memory-bytes", str(64 * MIB)]
    served = {part.name: part.bytes for part in estimated(read(engine={"options": options})).parts}
    local = {part.name for part in estimated(read(engine={"kind": "torch", "environment": None})).parts}
    assert served["student: served cache"] == 64 * MIB
    assert any("engine's cache" in name for name in local)
    assert not any("engine's cache" in name for name in served)
