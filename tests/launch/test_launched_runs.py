"""Whole runs that start their own servers: what becomes of these when something dies, and of the run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from engines.serving import vllm_program
from sod.chat.render import Chat
from sod.launch.ports import free_port
from sod.models.load import save_model
from sod.models.scratch import new_qwen3
from sod.tasks import chain
from sod.tasks.files import write_tasks
from support import descendants
from vllm_environment import make_environment

SECONDS = 240.0
OPTIONS = ["--enforce-eager", "--kv-cache-memory-bytes", str(2**27)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, chat: Chat) -> Path:
    """Student and teacher with heads that vLLM's build for CPUs has kernels for, tasks, and an environment."""
    place = tmp_path_factory.mktemp("launched")
    for name, seed in (("student", 5), ("teacher", 6)):
        model = new_qwen3(chat.tokenizer, layers=2, hidden=128, heads=2, ffn=128, context=2048, seed=seed)
        save_model(model, chat.tokenizer, chat.template, chat.end_id, place / name)
    tasks = chain.splits({"train": 4}, 2, 3, seed=1)["train"]
    write_tasks(place / "train.parquet", [chain.as_task(task, number) for number, task in enumerate(tasks)])
    make_environment(place / "venv")
    return place


Writer = Callable[..., Path]


@pytest.fixture
def recipe(place: Path, tmp_path: Path) -> Writer:
    """Writes a recipe with these sections changed."""

    def written(steps: int = 3, **sections: Any) -> Path:
        content: dict[str, Any] = {
            "student": {"path": str(place / "student")},
            "chat": {"template": "hermes"},
            "data": {"train": str(place / "train.parquet")},
            "tools": {"python": None},
            "engine": {"kind": "vllm", "environment": str(place / "venv"), "push_dir": str(tmp_path)},
            "rollout": {"prompts": 2, "samples": 2, "max_turns": 1, "max_prompt_tokens": 200}
            | {"max_turn_tokens": 16, "max_response_tokens": 80},
            "reward": {"overlong_buffer": 70},  # by their lengths episodes earn different rewards
            "method": "grpo",
            "optim": {"lr": 1e-3},
            "train": {"steps": steps, "checkpoint_every": 1},
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**content, **sections}))
        return path

    return written


Starter = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Starts `sod train`; what still runs after the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def begun(*arguments: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "sod", "train", *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "SOD_ALLOCATOR": "off", "COLUMNS": "1000"}
        with (tmp_path / "told").open("ab") as told:
            run = subprocess.Popen(command, text=True, env=environment, cwd=tmp_path, stdout=told, stderr=told)
        started.append(run)
        return run

    yield begun
    for run in started:
        run.kill()
        run.wait()


@pytest.mark.slow
def test_a_run_brings_up_its_servers_survives_the_end_of_one_and_leaves_none(
    recipe: Writer, start: Starter, tmp_path: Path, place: Path
) -> None:
    teacher = {"path": str(place / "teacher")}
    run = start(recipe(6, teacher=teacher, method="opd", launch={"teacher": {}}), "--run", tmp_path / "run")
    until(lambda: len(steps(tmp_path / "run")) > 1, run)
    children = descendants(run.pid)
    (server,) = [pid for pid in children if "vllm_stand_in" in command_of(pid)]
    os.kill(server, signal.SIGTERM)  # it ends by itself, as far as its keeper knows
    assert run.wait(SECONDS) == 0, told(tmp_path)
    assert "student ended (signal 15) and is started again" in told(tmp_path)
    assert len(steps(tmp_path / "run")) == 6
    assert {path.name for path in (tmp_path / "run" / "logs").iterdir()} == {"student.log", "teacher.log"}
    assert (tmp_path / "run" / "logs" / "student.log").read_text().count("stand-in for") == 2
    assert "servers" in told(tmp_path)
    assert not any(map(runs, children))


@pytest.mark.slow
def test_a_killed_run_leaves_no_server_in_the_way_of_its_resumption(
    recipe: Writer, start: Starter, tmp_path: Path
) -> None:
    where = recipe(4, launch={"student": {"port": free_port()}})
    run = start(where, "--run", tmp_path / "run")
    until(lambda: len(steps(tmp_path / "run")) > 1, run)
    children = descendants(run.pid)
    assert len(children) > 1
    run.kill()
    run.wait()
    until(lambda: not any(map(runs, children)))
    resumed = start("--resume", tmp_path / "run", "--allow-code")
    assert resumed.wait(SECONDS) == 0, told(tmp_path)
    assert steps(tmp_path / "run") == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_server_that_is_given_up_ends_the_run_at_once(recipe: Writer, start: Starter, tmp_path: Path) -> None:
    """Not when its time to come back is over, which is that of a first start."""
    run = start(recipe(500, launch={"restarts": 0, "start_seconds": 3600.0}), "--run", tmp_path / "run")
    until(lambda: len(steps(tmp_path / "run")) > 1, run)
    (server,) = [pid for pid in descendants(run.pid) if "vllm_stand_in" in command_of(pid)]
    os.kill(server, signal.SIGKILL)
    assert run.wait(SECONDS) == 1, told(tmp_path)
    assert "student: ended for the 1st time in a row" in told(tmp_path)
    assert re.search(r"error: no server is left of \S+, and none is started again", told(tmp_path))


@pytest.mark.slow
def test_ranks_that_are_killed_with_their_command_leave_no_server(
    recipe: Writer, start: Starter, tmp_path: Path, place: Path
) -> None:
    """Servers are children of rank 0, which is one of the launcher's."""
    sections = {"teacher": {"path": str(place / "teacher")}, "method": "opd", "launch": {"teacher": {}}}
    run = start(recipe(500, parallel={"shards": 2}, **sections), "--run", tmp_path / "run")
    until(lambda: len(steps(tmp_path / "run")) > 1, run)
    children = descendants(run.pid)
    named = ("vllm_stand_in", "scoring_server", "sod train")
    assert [sum(name in command_of(pid) for pid in children) for name in named] == [1, 1, 2]
    run.kill()
    run.wait()
    until(lambda: not any(map(runs, children)))


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_ends_its_servers_and_keeps_its_step(
    recipe: Writer, start: Starter, tmp_path: Path
) -> None:
    run = start(recipe(500), "--run", tmp_path / "run")
    until(lambda: len(steps(tmp_path / "run")) > 1, run)
    children = descendants(run.pid)
    run.send_signal(signal.SIGTERM)
    assert run.wait(SECONDS) == 143, told(tmp_path)
    assert not any(map(runs, children))
    assert steps(tmp_path / "run")


@pytest.mark.slow
def test_a_server_that_does_not_come_up_is_one_error_with_its_words_and_no_run(
    recipe: Writer, start: Starter, tmp_path: Path
) -> None:
    program = "#!/bin/sh\necho 'RuntimeError: no kernel for heads of 48'\nexit 1\n"
    broken = make_environment(tmp_path / "broken", program=program)
    where = recipe(engine={"kind": "vllm", "environment": str(broken)})
    assert start(where, "--run", tmp_path / "run").wait(SECONDS) == 1
    assert "error: student: ended before it served (exit code 1)" in told(tmp_path)
    assert "RuntimeError: no kernel for heads of 48" in told(tmp_path)
    assert not (tmp_path / "run" / "recipe.yaml").exists(), "the same command can be given again"


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_vllm_itself_is_brought_up_killed_brought_up_again_and_ended(
    recipe: Writer, start: Starter, tmp_path: Path, place: Path, role: str
) -> None:
    program = vllm_program()
    if program is None:
        pytest.skip("no environment with vLLM; `make vllm-env` makes one, and SOD_VLLM names another")
    environment = str(program.parents[1])
    sections: dict[str, Any] = {
        "student": {"engine": {"kind": "vllm", "environment": environment, "options": OPTIONS}},
        "teacher": {
            "engine": {"environment": environment},
            "teacher": {"path": str(place / "teacher")},
            "method": "opd",
            "launch": {"teacher": {"options": OPTIONS}},
        },
    }[role]
    run = start(recipe(8, **sections), "--run", tmp_path / "run")
    until(lambda: len(steps(tmp_path / "run")) > 1, run, 400.0)
    children = descendants(run.pid)
    (core,) = [pid for pid in children if "EngineCore" in command_of(pid)]
    os.kill(core, signal.SIGKILL)
    assert run.wait(700.0) == 0, told(tmp_path)
    assert f"{role} ended (exit code" in told(tmp_path)
    assert steps(tmp_path / "run") == list(range(1, 9))
    assert not any(map(runs, children))


def steps(run: Path) -> list[int]:
    """The steps that a run has done."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


def told(folder: Path) -> str:
    return (folder / "told").read_text()


def until(true: Callable[[], bool], run: subprocess.Popen[str] | None = None, seconds: float = SECONDS) -> None:
    """Wait for something to be so, while the run runs."""
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, f"not so within {seconds:g} s"
        assert run is None or run.poll() is None, "the run has ended"
        time.sleep(0.05)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
