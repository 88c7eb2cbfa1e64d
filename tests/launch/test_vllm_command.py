"""How vLLM is found and started, with a stand-in for its environment; and the real one where the machine has it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from sod.engines.vllm_options import serve_options
from sod.launch.placement import Placed
from sod.launch.ports import free_port
from sod.launch.server import Patience, Server
from sod.launch.vllm import gpus_of, program, scoring_options, served, version
from sod.records import SodError
from vllm_environment import make_environment


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment with a package `vllm` 0.32.1+cpu and a program of that name."""
    for name in ("SOD_VLLM", "VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return make_environment(tmp_path / "venv")


def test_vllm_is_found_where_the_recipe_the_machine_or_nobody_says(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = environment / "bin" / "vllm"
    assert program(str(environment), "engine.environment") == expected
    monkeypatch.setenv("SOD_VLLM", str(environment))
    assert program(None, "engine.environment") == expected
    monkeypatch.delenv("SOD_VLLM")
    monkeypatch.chdir(environment.parent)
    with pytest.raises(SodError, match=re.escape("engine.environment: there is no vLLM in .venv-vllm")) as raised:
        program(None, "engine.environment")
    assert "make vllm-env" in str(raised.value)
    environment.rename(environment.parent / ".venv-vllm")
    assert program(None, "engine.environment") == environment.parent / ".venv-vllm" / "bin" / "vllm"


def test_its_version_is_told_without_importing_it(environment: Path) -> None:
    assert version(environment / "bin" / "vllm", "here") == "0.32.1"


@pytest.mark.parametrize("broken", ["python that is gone", "no vllm"])
def test_an_environment_that_is_broken_is_told(environment: Path, broken: str) -> None:
    python = environment / "bin" / "python"
    if broken == "no vllm":
        (metadata,) = environment.glob("lib/python*/site-packages/vllm-*.dist-info")
        metadata.rename(environment / "elsewhere")
    else:
        python.unlink()
        python.symlink_to("/nowhere/python")
    said = {"no vllm": "PackageNotFoundError: ", "python that is gone": "No such file or directory: "}[broken]
    with pytest.raises(SodError, match=rf"^here: its Python cannot tell of a vLLM \(.*{said}.*make it anew"):
        version(environment / "bin" / "vllm", "here")


def test_a_servers_log_does_not_grow_by_a_line_for_each_request() -> None:
    for options in (serve_options("m", "float32", 100, "file", 4), scoring_options("m", "float32", 0, [])):
        assert "--disable-uvicorn-access-log" in options


@pytest.mark.parametrize("part", ["bin/vllm", "bin"])
def test_a_part_of_an_environment_is_none(environment: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOD_VLLM", str(environment / part))
    with pytest.raises(
        SodError, match=rf"^engine.environment \(SOD_VLLM\): .*/{part} is a part of an environment; name"
    ):
        program(None, "engine.environment")


@pytest.mark.parametrize(
    ("options", "gpus"),
    [
        ([], 1),
        (["--enforce-eager", "--tensor-parallel-size", "2"], 2),
        (["-tp=2", "--pipeline-parallel-size=3"], 6),
        (["--data-parallel-size", "4", "-tp", "2"], 8),
    ],
)
def test_a_servers_options_say_how_many_gpus_it_takes(options: list[str], gpus: int) -> None:
    assert gpus_of(options, "engine.options") == gpus


@pytest.mark.parametrize("options", [["-tp"], ["-tp", "two"], ["--tensor-parallel-size=0"]])
def test_a_number_of_gpus_that_is_none_is_named(options: list[str]) -> None:
    with pytest.raises(SodError, match=r"engine\.options: -.*is followed by a number of GPUs"):
        gpus_of(options, "engine.options")


def test_a_server_on_gpus_sees_these_alone_and_is_spread_over_them(environment: Path) -> None:
    place = Placed("student-1", "launch.student", 9000, (2, 3), memory_share=0.5)
    plan = served(environment / "bin" / "vllm", ["m", "--dtype", "bfloat16"], {"OWN": "1"}, place, beside=1)
    assert plan.command[1:] == (
        *("serve", "m", "--dtype", "bfloat16", "--host", "127.0.0.1", "--port", "9000"),
        *("--tensor-parallel-size", "2", "--gpu-memory-utilization", "0.5"),
    )
    assert plan.environment == {"CUDA_VISIBLE_DEVICES": "2,3", "OWN": "1"}
    assert plan.devices == ("cuda:2", "cuda:3")
    assert plan.url == "http://127.0.0.1:9000"
    spread = served(environment / "bin" / "vllm", ["m", "-dp", "2"], {}, place, beside=1)
    assert "--tensor-parallel-size" not in spread.command


def test_a_server_on_a_cpu_has_its_share_of_cores_and_a_small_cache(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    place = Placed("teacher", "launch.teacher", 9000)
    plan = served(environment / "bin" / "vllm", ["m"], {}, place, beside=3)
    assert plan.environment == {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "2"}
    assert plan.command[-2:] == ("--kv-cache-memory-bytes", str(2**30))
    own = served(environment / "bin" / "vllm", ["m", "--kv-cache-memory-bytes=5"], {}, place, beside=3)
    assert own.command[-1] == "9000"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert "OMP_NUM_THREADS" not in served(environment / "bin" / "vllm", ["m"], {}, place, beside=3).environment


def test_a_vllm_that_dies_at_its_start_is_quoted_with_the_error_that_it_goes_back_to(
    environment: Path, tmp_path: Path
) -> None:
    found = environment / "bin" / "vllm"
    found.write_text('#!/bin/sh\necho "(core pid=7) ERROR ValueError: no such architecture" >&2\nseq 50\nexit 1\n')
    plan = served(found, ["m"], {}, Placed("teacher", "launch.teacher", free_port()), beside=0)
    server = Server(plan, tmp_path / "logs" / "teacher.log", Patience(), print)
    server.start()
    with pytest.raises(SodError) as raised:
        server.wait_ready()
    assert "; ValueError: no such architecture; it said at last:\n39\n40\n" in str(raised.value)
    assert str(raised.value).endswith("\n50")
    server.close()
