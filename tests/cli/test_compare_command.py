"""`sod compare` for real: two methods and the cold start, two seeds, two learning rates, killed on the way."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from sod.runlog import RunLog
from warm import start_warm

SMALL = {"batch_size": 8, "checkpoint_every": 1000, "optim": {"lr": 1e-2, "warmup_steps": 5}}
SHAPE = {"layers": 1, "hidden": 32, "heads": 2, "ffn": 64}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "student": {"path": "unused"},
    "chat": {"template": "hermes"},
    "tools": {"python": {"max_code_chars": 14, "max_output_chars": 64, "preload": [], "workers": 1}},
    "rollout": {
        "prompts": 2,
        "samples": 2,
        "max_turns": 3,
        "max_prompt_tokens": 128,
        "max_turn_tokens": 24,
        "max_response_tokens": 120,
    },
    "optim": {"micro_batch_tokens": 512},
    "train": {"steps": 3, "checkpoint_every": 1, "trajectories_every": 0},
    "compare": {"lrs": [1e-3, 3e-3], "tuning_steps": 2, "tuning_seed": 99},
    "sft": {"steps": 15, **SMALL},
    "evaluation": {"k": 2, "tasks": 0},
    "world": {
        "shortest": 1,
        "longest": 2,
        "sft": 64,
        "train": 24,
        "validation": 4,
        "test": 6,
        "vocab_size": 400,
        "context": 512,
        "teacher": SHAPE,
        "student": SHAPE,
        "teacher_sft": {"steps": 15, **SMALL},
    },
}
METHODS, SEEDS = ("start", "opd", "sod"), (0, 1)
CELLS = sorted(f"{method}-s{seed}.json" for method in METHODS for seed in SEEDS)


@dataclass
class Compared:
    """A comparison that was killed after its first cell and then run to its end."""

    path: Path
    ended: Any
    workers_of_the_killed: list[int]
    kept: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    def arguments(self, out: str = "out", *more: str) -> list[str]:
        base = ["compare", str(self.recipe), *more, "--methods", ",".join(METHODS), "--seeds", "0-1"]
        return [*base, "--out", str(self.path / out), "--work", str(self.path / "work")]


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """A file that is written again is another one."""
    stats = {str(path.relative_to(folder)): path.stat() for path in sorted(folder.glob("*/*.json"))}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    """Whether a process is there and not just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "nothing happened"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, sod: Callable[..., Any]) -> Compared:
    made = Compared(tmp_path_factory.mktemp("compare"), None, [])
    made.recipe.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    process = start_warm(["-m", "sod", *made.arguments(), "--jobs", "2"])
    try:
        until(lambda: process.poll() is not None or any((made.path / "out" / "cells").glob("*.json")), 600)
        assert process.poll() is None
        made.workers_of_the_killed = children(process.pid)
    finally:
        process.kill()
        process.wait()
    made.kept = identities(made.path / "out")
    made.ended = sod(*made.arguments(), "--jobs", "2")
    return made


@pytest.mark.slow
def test_a_killed_comparison_goes_on_and_finishes(compared: Compared) -> None:
    assert compared.ended.code == 0, compared.ended.err
    out = compared.path / "out"
    assert sorted(path.name for path in (out / "cells").iterdir()) == CELLS
    trials = [f"{method}-lr{lr}.json" for method in ("opd", "sod") for lr in ("0.001", "0.003")]
    assert sorted(path.name for path in (out / "trials").iterdir()) == trials
    assert {"s0.json", "s1.json"} <= {path.name for path in (out / "worlds").iterdir()}
    # What was finished before the kill, the first cell among it, is the same file still.
    after = identities(out)
    assert any(name.startswith("cells/") for name in compared.kept)
    assert {
        name: seen for name, seen in compared.kept.items() if not name.startswith("worlds/")
    }.items() <= after.items()
    until(lambda: not any(runs(pid) for pid in compared.workers_of_the_killed))


@pytest.mark.slow
def test_every_cell_says_what_it_is_and_agrees_with_itself(compared: Compared) -> None:
    summary = json.loads((compared.path / "out" / "summary.json").read_text())
    assert (summary["seeds"], list(summary["methods"])) == ([0, 1], list(METHODS))
    hashes = set()
    for name in CELLS:
        cell = json.loads((compared.path / "out" / "cells" / name).read_text())
        trained = cell["method"] != "start"
        assert len(cell["correct"]) == 6
        assert sum(cell["correct"]) / 6 == pytest.approx(cell["figures"]["avg_at_k"])
        assert cell["steps"] == (3 if trained else 0)
        assert (cell["lr"] in (1e-3, 3e-3)) is trained
        assert cell["lr"] == summary["methods"][cell["method"]]["lr"]
        if trained:
            assert cell["curve"]["step"] == [1, 2, 3]
            assert all(len(values) == 3 for values in cell["curve"].values())
        hashes.add(cell["recipe_sha256"])
    assert len(hashes) == 1
    assert str(compared.path) not in "".join((compared.path / "out" / "cells" / name).read_text() for name in CELLS)
    assert (compared.path / "out" / "comparison.png").stat().st_size > 10_000
    assert "| sod | opd | 2 |" in (compared.path / "out" / "summary.md").read_text()


@pytest.mark.slow
def test_results_alone_are_enough_not_to_run_anything_again(compared: Compared, tmp_path: Path, sod: Any) -> None:
    before = identities(compared.path / "out")
    work = tmp_path / "no-work"
    ended = sod(*compared.arguments()[:-1], work, "--jobs", "2")
    assert ended.code == 0, ended.err
    assert "0 to do" in ended.out
    assert identities(compared.path / "out") == before
    assert not work.exists()


@pytest.mark.slow
def test_the_report_alone_needs_the_results_alone(compared: Compared, tmp_path: Path, sod: Any) -> None:
    shutil.copytree(compared.path / "out" / "cells", tmp_path / "out" / "cells")
    ended = sod("compare", compared.recipe, "--report-only", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert (tmp_path / "out" / "summary.md").exists()
    nothing = sod("compare", compared.recipe, "--report-only", "--out", tmp_path / "empty")
    assert (nothing.code, "no finished cell" in nothing.err) == (1, True)


@pytest.mark.slow
def test_results_of_another_recipe_are_refused(compared: Compared, sod: Any) -> None:
    ended = sod(*compared.arguments("out", "evaluation.k=3"))
    assert ended.code == 1
    assert "cells/" in ended.err or "trials/" in ended.err
    assert "was made with another recipe; choose another --out" in ended.err


@pytest.mark.slow
def test_one_failure_costs_no_other_cell_and_the_others_come_out_as_before(compared: Compared, sod: Any) -> None:
    """Results lost, runs still there: their newest checkpoint is the last, and only the evaluation is new."""
    shutil.copytree(compared.path / "out" / "trials", compared.path / "broken" / "trials")
    broken = [path for path in (compared.path / "work").glob("opd-s1-*") if path.is_dir()]
    for run in broken:
        for weights in run.glob("checkpoints/*/model/model.safetensors"):
            weights.write_bytes(weights.read_bytes()[:100])
    ended = sod(*compared.arguments("broken"), "--jobs", "2")
    assert ended.code == 1
    assert "1 of 12 failed (opd s1)" in ended.err
    assert "failed: opd s1" in ended.out
    assert "no good checkpoint is left" in " ".join(ended.out.split())
    made = sorted(path.name for path in (compared.path / "broken" / "cells").iterdir())
    assert made == [name for name in CELLS if name != "opd-s1.json"]
    for name in made:
        one, other = (json.loads((compared.path / out / "cells" / name).read_text()) for out in ("out", "broken"))
        when = {"seconds": 0, "git": None}  # how long it took, and a commit that may have been made meanwhile
        assert {**one, **when} == {**other, **when}
    assert (compared.path / "broken" / "summary.md").exists()
    for run in broken:
        shutil.rmtree(run)


@pytest.mark.slow
def test_a_terminated_comparison_keeps_a_checkpoint_and_leaves_no_process(
    compared: Compared, start: Any, wait: Any, sod: Any
) -> None:
    changes = ("train.steps=12", "train.checkpoint_every=12", "compare.lrs=[0.001]")
    arguments = [*compared.arguments("long", *changes), "--methods", "opd", "--seeds", "0"]
    before = set((compared.path / "work").glob("opd-s0-*"))
    process = start(*arguments)
    new: list[Path] = []

    def stepped() -> bool:
        new[:] = set((compared.path / "work").glob("opd-s0-*")) - before
        return any(path.joinpath("metrics.jsonl").exists() for path in new)

    wait(stepped, process)
    below = children(process.pid)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 143
    assert "stopped; what is finished is kept" in err
    until(lambda: not any(runs(pid) for pid in below))
    log = RunLog.open(new[0])
    ((done, _),) = log.checkpoints()
    assert 1 <= done < 12
    assert not (compared.path / "long" / "cells").exists()
    ended = sod(*arguments)
    assert ended.code == 0, ended.err
    assert len((new[0] / "metrics.jsonl").read_text().splitlines()) == 12  # no step was taken twice


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "sodd"], "did you mean sod"),
        (["--methods", "sod,opd,sod"], "twice"),
        ([], "--methods is missing"),
        (["--methods", "sod", "--seeds", "a"], "--seeds"),
        (["--methods", "sod", "--seeds", ""], "--seeds"),
        (["--methods", "sod", "--seeds", "0,99"], "tuning_seed"),
        (["world=null", "--methods", "grpo"], "data.train is not set"),
        (["student.path=x", "--methods", "sod"], "student.path: `sod compare` does not read that"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments: list[str], said: str, tmp_path: Path, sod: Any) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    ended = sod("compare", path, *arguments, "--out", tmp_path / "out", "--work", tmp_path / "work")
    assert ended.code == 1
    assert said in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["recipe.yaml"]
