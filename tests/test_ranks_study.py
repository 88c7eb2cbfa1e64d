"""`scripts/ranks_study.py`: what is compared with what, and all stages at toy size with a server that stands in."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import ranks_study as study
import stages

from sod.runlog import RunLog
from vllm_environment import make_environment
from warm import run_warm


def test_a_run_is_compared_by_the_deviation_of_the_seeds(tmp_path: Path) -> None:
    assert study.deviations([1.0, 2.0, 3.0], 4.0) == 2.0
    assert study.deviations([1.0, 2.0, 3.0], 0.5) == -1.5
    assert study.deviations([-1.0, -1.0], -1.0) == 0.0
    assert study.deviations([-1.0, -1.0], -1.5) == -math.inf
    rows = [{"reward": float(step)} for step in range(1, 31)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert study.last_reward(tmp_path) == 25.5


@pytest.mark.slow
def test_all_stages_at_toy_size_and_none_of_them_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_environment(tmp_path / "venv")
    out = tmp_path / "study"
    asked = ["--size", "toy", "--steps", "2", "--seeds", "2", "--out", str(out), "--vllm", str(tmp_path / "venv")]
    monkeypatch.setattr(stages.subprocess, "run", lambda words: run_warm(words[1:]))
    monkeypatch.setattr(sys, "argv", ["ranks_study.py", *asked])

    def run() -> str:
        assert study.main() in (0, 1)  # two steps of toys may be anywhere
        return capsys.readouterr().out

    first = run()
    assert [line.split(":")[0] for line in first.splitlines() if line.startswith("== ")] == [
        "== world",
        "== seed-1",
        "== seed-2",
        "== ranks",
    ]
    assert [row["step"] for row in RunLog.open(out / "ranks").metrics()] == [1, 2]
    assert (out / "ranks" / "logs" / "student.log").exists()  # a server of its own sampled
    assert "== " not in run()
    assert {"standard deviations between", "within"} <= json.loads((out / "study.json").read_text()).keys()
