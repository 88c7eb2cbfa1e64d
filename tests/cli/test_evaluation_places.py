"""Where `sod eval` finds the recipe of a model, where it writes, and what the trackers get."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sod.build.job import final_model
from sod.runlog import RunLog
from wandb_files import wandb_history, wandb_run


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


@pytest.fixture
def run(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of this test's own, at `runs/mine` of the working directory: its two checkpoints are 2 and 3."""
    for variable in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_DIR", "NETRC", "TRACKIO_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world.path / "sod", "runs/mine")
    assert [step for step, _ in RunLog.open("runs/mine").checkpoints()] == [2, 3]
    return Path("runs/mine")


def evaluate(sod: Any, model: str | Path, world: Any, *more: str | Path) -> Any:
    return sod("eval", model, "--data", world.data("test"), "-k", "1", "--tasks", "2", *more)


def written(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "evaluation.json").read_text())
    return content


SPELLINGS = {
    "run": ("runs/mine", 3),
    "run-slash": ("runs/mine/", 3),
    "run-dotted": ("./runs/../runs/mine", 3),
    "checkpoint": ("runs/mine/checkpoints/step-000002", 2),
    "checkpoint-slash": ("runs/mine/checkpoints/step-000002/", 2),
    "model": ("runs/mine/checkpoints/step-000002/model", 2),
    "absolute": ("{here}/runs/mine/checkpoints/step-000002", 2),
    "absolute-model": ("{here}/runs/mine/checkpoints/step-000003/model/", 3),
    "link": ("newest", 2),
}
QUICK = ("run-slash", "absolute", "model")
"""The spellings that are tried after each change; the others in the slow tier."""


@pytest.mark.parametrize(
    "spelling", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SPELLINGS]
)
def test_a_checkpoint_takes_its_runs_recipe(spelling: str, run: Path, world: Any, sod: Any, tmp_path: Path) -> None:
    """However it is written; and the evaluation lies in the run, named by data, tasks, k and step."""
    (tmp_path / "newest").symlink_to(tmp_path / "runs/mine/checkpoints/step-000002")
    model, step = SPELLINGS[spelling]
    ended = evaluate(sod, model.format(here=tmp_path), world)
    assert ended.code == 0, ended.err
    figures = written(run / "evaluations" / f"test-tasks2-k1-step{step}")
    assert figures["recipe"]["tools"]["python"]["max_code_chars"] == 14, "the run's own"
    assert figures["recipe"]["student"]["dtype"] == "float32"
    played = figures["recipe"]["student"]["path"]
    assert Path(played).resolve() in (run.resolve(), (run / f"checkpoints/step-{step:06d}").resolve())
    assert not (tmp_path / "runs" / "evaluations").exists()


def test_the_step_is_that_of_the_checkpoint_that_was_used(run: Path, world: Any, sod: Any) -> None:
    """The newest is damaged: the one before is evaluated, and the evaluation says so by its name."""
    (run / "checkpoints/step-000003/model/config.json").unlink()
    ended = evaluate(sod, run, world)
    assert ended.code == 0, ended.err
    assert "step-000003: model/config.json is missing" in re.sub(r"\s+", " ", ended.err)
    assert [path.name for path in (run / "evaluations").iterdir()] == ["test-tasks2-k1-step2"]


def test_inside_the_checkpoint(run: Path, world: Any, sod: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dot is a path too."""
    monkeypatch.chdir(run / "checkpoints" / "step-000002")
    ended = evaluate(sod, ".", world)
    assert ended.code == 0, ended.err
    assert written(Path("../../evaluations/test-tasks2-k1-step2"))


def test_nothing_is_played_twice_nor_overwritten(run: Path, world: Any, sod: Any) -> None:
    """The same evaluation again shows its figures; another one stands beside it, with a number, and never in it."""
    assert evaluate(sod, run, world).code == 0
    first = run / "evaluations" / "test-tasks2-k1-step3"
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    for more in ((), ("--out", first)):
        ended = evaluate(sod, run, world, *more)
        assert ended.code == 0, ended.err
        assert f"{first}: was evaluated before; nothing is played" in ended.err
        assert "avg@1" in ended.out
    cooler = ("evaluation.temperature=0.5",)
    for _ in range(2):
        assert evaluate(sod, run, world, *cooler).code == 0
    assert sorted(path.name for path in (run / "evaluations").iterdir()) == [first.name, f"{first.name}-2"]
    ended = evaluate(sod, run, world, "--out", first, *cooler)
    assert (ended.code, len(ended.err.splitlines())) == (1, 1)
    assert f"{first}: holds an evaluation with another evaluation.temperature: 1.0 there and 0.5 here" in ended.err
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before


def test_what_out_names_is_empty_or_an_evaluation(run: Path, world: Any, sod: Any) -> None:
    Path("file").touch()
    ended = evaluate(sod, run, world, "--out", "file")
    assert (ended.code, ended.err.strip()) == (1, "error: file: is a file; name a directory with --out")
    ended = evaluate(sod, run, world, "--out", run)
    assert ended.code == 1
    assert ended.err.startswith(f"error: {run}: not empty, and nothing is overwritten")


def test_overrides_are_in_the_name(run: Path, world: Any, sod: Any) -> None:
    """All tasks, and a k that an override sets."""
    ended = sod("eval", run, "--data", world.data("validation"), "evaluation.k=2")
    assert ended.code == 0, ended.err
    assert written(run / "evaluations" / "validation-all-k2-step3")["k"] == 2


def test_a_model_of_no_run(run: Path, world: Any, sod: Any) -> None:
    """It has no run to lie in; the trackers' files lie with the results."""
    shutil.copytree(final_model(str(run)), "plain")
    recipe = world.recipe(Path.cwd())
    for more in ((), ("seed=9",)):
        ended = evaluate(sod, "plain/", world, "--recipe", recipe, "trackers=[tensorboard]", *more)
        assert ended.code == 0, ended.err
    for name in ("plain-test-tasks2-k1", "plain-test-tasks2-k1-2"):
        assert written(Path("runs/evaluations") / name)["tasks"] == 2
        assert list((Path("runs/evaluations") / name / "trackers").rglob("events.out.tfevents.*"))


@pytest.mark.parametrize("name", ["step-000009", "step-9", "step-000009/model"])
def test_a_checkpoint_that_is_not_there(name: str, run: Path, world: Any, sod: Any) -> None:
    """The ones that the run has are named."""
    ended = evaluate(sod, run / "checkpoints" / name, world)
    assert (ended.code, len(ended.err.splitlines())) == (1, 1)
    assert "no such checkpoint; it has step-000002, step-000003" in ended.err


def test_a_failed_evaluation_leaves_no_directory(run: Path, sod: Any) -> None:
    ended = sod("eval", run, "--data", "gone.parquet", "trackers=[tensorboard]")
    assert (ended.code, ended.err.strip()) == (1, "error: gone.parquet: no such data file")
    assert not (run / "evaluations").exists()


@needs("tensorboard")
def test_tensorboard_gets_the_figures_at_the_checkpoints_step(run: Path, world: Any, sod: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ended = evaluate(sod, run / "checkpoints" / "step-000002", world, "trackers=[tensorboard]")
    assert ended.code == 0, ended.err
    place = run / "evaluations" / "test-tasks2-k1-step2"
    events = EventAccumulator(str(place / "trackers" / "tensorboard" / "tensorboard"))
    events.Reload()
    figures = written(place)
    for name in ("avg_at_k", "pass_at_k", "maj_at_k", "tool_error_rate"):
        (event,) = events.Scalars(f"eval/{name}")
        assert (event.step, event.value) == (2, pytest.approx(figures[name]))


@pytest.mark.slow
@needs("trackio")
def test_trackio_has_the_run_and_its_evaluations_in_one_project(run: Path, world: Any, sod: Any) -> None:
    """The recipe of the run says so: nothing is given here."""
    kept = run / "recipe.yaml"
    kept.write_text(re.sub(r"trackers: \[\]", "trackers: [trackio]", kept.read_text()))
    recipe = world.recipe(Path.cwd())
    other = sod("sft", recipe, "sft.steps=1", "trackers=[trackio]", "--run", "runs/other")
    assert other.code == 0, other.err
    for step in (2, 3):
        assert evaluate(sod, run / "checkpoints" / f"step-{step:06d}", world).code == 0
    with sqlite3.connect("runs/trackio/sod.db") as db:
        rows = db.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    assert [row[:2] for row in rows] == [
        ("other", 1),
        ("mine-test-tasks2-k1-step2", 2),
        ("mine-test-tasks2-k1-step3", 3),
    ]
    figures = written(run / "evaluations" / "test-tasks2-k1-step2")
    assert json.loads(rows[1][2])["eval/avg_at_k"] == figures["avg_at_k"]
    assert "TRACKIO_DIR" not in os.environ


@pytest.mark.slow
@needs("wandb")
def test_wandb_gets_the_figures_offline(run: Path, world: Any, sod: Any) -> None:
    """In the project of the run, named by run and evaluation, at the checkpoint's step."""
    ended = evaluate(sod, run / "checkpoints" / "step-000002", world, "trackers=[wandb]")
    assert ended.code == 0, ended.err
    place = run / "evaluations" / "test-tasks2-k1-step2"
    assert wandb_run(place / "trackers" / "wandb") == ("sod", "mine-test-tasks2-k1-step2")
    history = wandb_history(place / "trackers" / "wandb")
    assert list(history) == [2]
    figures = written(place)
    for name in ("avg_at_k", "pass_at_k", "maj_at_k"):
        assert history[2][f"eval/{name}"] == figures[name]
