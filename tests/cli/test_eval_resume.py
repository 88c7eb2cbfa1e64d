"""`sod eval` killed, gone on with, asked for more samples, and played by several processes: the same figures."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sod.build.job import final_model
from sod.build.workers import WorkerPool
from sod.runlog import RunLog

K, BLOCKS = 8, 3
"""24 tasks with so many samples are 192 episodes: blocks of 64."""


def asked(world: Any, out: Path, *more: str | Path, k: int = K) -> list[str | Path]:
    limits = ("rollout.max_turns=2", "rollout.max_response_tokens=64")
    return ["eval", world.student, "--data", world.data("reachable"), "-k", str(k), "--out", out, *limits, *more]


def figures(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "evaluation.json").read_text())
    return content


def said(directory: Path) -> list[tuple[Any, ...]]:
    """Every episode by its tokens, in the order of the file."""
    rows = [json.loads(line) for line in (directory / "generations.jsonl").read_text().splitlines()]
    return [(row["task_id"], row["sample"], tuple(row["token_ids"]), row["answer"], row["vote"]) for row in rows]


def lines(directory: Path) -> int:
    path = directory / "generations.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(scope="module")
def whole(world: Any, sod: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    ended = sod(*asked(world, out))
    assert ended.code == 0, ended.err
    assert len(said(out)) == 24 * K
    return out


@pytest.mark.slow
def test_killed_it_goes_on_where_it_was(
    whole: Path, world: Any, sod: Any, start: Callable[..., Any], wait: Callable[..., None], tmp_path: Path
) -> None:
    """After a block, with a line cut short; the same command plays the others, and the figures are the same bits."""
    out = tmp_path / "out"
    process = start(*asked(world, out))
    wait(lambda: lines(out) >= 64, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "evaluation.json").exists()
    with (out / "generations.jsonl").open("ab") as file:
        file.write(b'{"task_id": "cut')
    ended = sod(*asked(world, out))
    assert ended.code == 0, ended.err
    assert f"{out}: goes on; " in ended.err
    assert said(out) == said(whole)
    assert figures(out) == figures(whole)


@pytest.mark.slow
def test_several_processes_play_the_same(
    whole: Path, world: Any, sod: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one of them is killed over its block; where another one is too, a line says how to go on."""
    out = tmp_path / "out"
    with LosingWorkers(times=1, patch=monkeypatch) as losing:
        ended = sod(*asked(world, out, "--workers", "2"))
    assert ended.code == 0, ended.err
    assert losing.killed == 1
    assert said(out) == said(whole)
    assert figures(out) == figures(whole)
    with LosingWorkers(times=9, patch=monkeypatch):
        ended = sod(*asked(world, tmp_path / "lost", "--workers", "2"))
    assert ended.code == 1
    assert "a worker was lost twice with the same tasks: its process ended with code -9" in ended.err


class LosingWorkers:
    """Kills the process of a worker pool that was just given its first call, so many times."""

    def __init__(self, times: int, patch: pytest.MonkeyPatch) -> None:
        self.times, self.killed, self._patch = times, 0, patch

    def __enter__(self) -> LosingWorkers:
        submit = WorkerPool.submit

        def submitted(pool: Any, key: Any, *call: Any) -> None:
            submit(pool, key, *call)
            if self.killed < self.times and key[0].first_task == 0:
                self.killed += 1
                busy = next(worker for worker in pool._workers if worker.key == key)
                os.kill(busy.process.pid, signal.SIGKILL)

        self._patch.setattr(WorkerPool, "submit", submitted)
        return self

    def __exit__(self, *ended: object) -> None:
        self._patch.undo()


@pytest.mark.slow
def test_more_samples_are_played_beside_those_that_are_there(whole: Path, world: Any, sod: Any, tmp_path: Path) -> None:
    """The first samples stay as they are, row by row, and the figures are those of all samples at once."""
    out = tmp_path / "out"
    assert sod(*asked(world, out, k=2)).code == 0
    few = said(out)
    ended = sod(*asked(world, out))
    assert ended.code == 0, ended.err
    assert f"{out}: 2 of {K} samples of each task are there; the others are played" in ended.err
    assert [row for row in said(out) if row[1] < 2] == few
    assert said(out) == said(whole)
    assert figures(out) == figures(whole)
    ended = sod(*asked(world, out, k=2))
    assert (ended.code, len(ended.err.splitlines())) == (1, 1)
    assert f"{out}: holds {K} samples of each task; give -k {K}, or another --out" in ended.err


@pytest.mark.slow
def test_in_the_default_directories_too_fewer_samples_are_taken_over(
    world: Any, sod: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an evaluation of the same alone: with another seed all are played."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world.path / "sod", "run")
    command = ["eval", "run", "--data", world.data("test")]
    places = [tmp_path / "run" / "evaluations" / f"test-all-k{k}-step3" for k in (1, 2)]
    assert sod(*command, "-k", "1").code == 0
    few = said(places[0])
    ended = sod(*command, "-k", "2")
    assert ended.code == 0, ended.err
    assert "test-all-k1-step3: its 1 samples of each task are taken over" in ended.err
    assert [row[:4] for row in said(places[1]) if row[1] == 0] == [row[:4] for row in few]
    assert figures(places[1])["tasks"] == 6
    assert figures(places[0])["k"] == 1
    ended = sod(*command, "-k", "3", "seed=11")
    assert "taken over" not in ended.err


@pytest.mark.slow
def test_a_run_in_progress_is_evaluated_at_the_step_it_was_begun_with(
    world: Any, sod: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed and begun again when the run has a newer checkpoint; finished, the newest is next."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world.path / "sod", "run")
    shutil.move("run/checkpoints/step-000003", "later")
    command = ["eval", "run", "--data", world.data("test"), "-k", "1"]
    begun = tmp_path / "run" / "evaluations" / "test-all-k1-step2"
    assert sod(*command).code == 0
    (begun / "evaluation.json").unlink()
    plan = json.loads((begun / "plan.json").read_text())
    (begun / "plan.json").write_text(json.dumps(plan | {"finished": False}))
    shutil.move("later", "run/checkpoints/step-000003")
    assert [step for step, _ in RunLog.open("run").checkpoints()] == [2, 3]
    ended = sod(*command)
    assert ended.code == 0, ended.err
    assert "was begun with step 2 and is not finished; it goes on with that, though the run is at step 3" in ended.err
    assert figures(begun)["step"] == 2
    assert sod(*command).code == 0
    assert figures(begun.with_name("test-all-k1-step3"))["step"] == 3


@pytest.mark.slow
def test_what_was_begun_with_something_else_is_not_gone_on_with(
    world: Any, sod: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another setting, other tasks under the same name, other weights: one line each that says what differs."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(final_model(world.student), "model")
    shutil.copy(world.data("test"), "tasks.parquet")
    command = ["eval", "model", "--data", "tasks.parquet", "-k", "1", "--recipe", world.recipe(tmp_path)]
    assert sod(*command).code == 0
    place = Path("runs/evaluations/model-tasks-all-k1")
    plan = json.loads((place / "plan.json").read_text())
    (place / "plan.json").write_text(json.dumps(plan | {"finished": False}))

    def refused() -> str:
        ended = sod(*command, *more)
        assert (ended.code, len(ended.err.splitlines())) == (1, 1), ended.err
        return str(ended.err)

    more: list[str] = ["rollout.max_turns=1"]
    assert f"{place}: was begun and not finished with another rollout.max_turns: 4 there and 1 here" in refused()
    more = []
    shutil.copy(world.data("validation"), "tasks.parquet")
    assert f"{place}: was begun and not finished with another tasks: tasks.parquet (" in refused()
    shutil.copy(world.data("test"), "tasks.parquet")
    weights = load_file("model/model.safetensors")
    save_file({name: value + np.float32(1e-3) for name, value in weights.items()}, "model/model.safetensors")
    assert f"{place}: was begun and not finished with another model: model (" in refused()
