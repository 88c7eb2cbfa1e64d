"""`scripts/paper.py`: the table's layout, what runs where, and the whole way at toy size."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import paper
import paper_toy
import stages

from sod.recipe import load_recipe
from warm import run_warm

AVERAGES = {
    "0.6b": {"Vanilla": 12.16, "SFT": 8.97, "GRPO": 11.32, "OPD": 20.04, "OPSD_gt": 15.93, "SOD": 24.22},
    "1.7b": {"Vanilla": 17.10, "SFT": 25.91, "GRPO": 25.39, "OPD": 36.27, "OPSD_gt": 29.07, "SOD": 42.98},
}


def setting(out: Path, *words: str, monkeypatch: pytest.MonkeyPatch) -> paper.Setting:
    monkeypatch.setattr(sys, "argv", ["paper.py", "--out", str(out), *words])
    return paper.real_setting(paper.parsed())


@pytest.mark.parametrize("size", paper.REPORTED)
def test_reported_figures_have_the_paper_s_averages(size: str) -> None:
    """The paper gives these too: a slip in a figure shows."""
    for row, average in AVERAGES[size].items():
        assert sum(paper.REPORTED[size][row]) / 4 == pytest.approx(average, abs=0.011)


def test_the_table_has_ours_beside_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = setting(tmp_path, "--rows", "Vanilla,SOD", "--benchmarks", "aime24,gpqa_diamond", monkeypatch=monkeypatch)
    figure = {"avg_at_k": 0.25, "ci95": [0.125, 0.5], "k": 32, "tasks": 30}
    figures = {f"{row} on {name}": figure for row in ours.rows for name in ours.benchmarks}
    text = paper.table(ours, figures, toy=False)
    assert "| 0.6B | SOD | 25.00 [12.5, 50.0] (20.84) | 25.00 [12.5, 50.0] (22.19) | 25.00 (21.52) |" in text
    assert "Problems: AIME 2024 30, GPQA-Diamond 30." in text
    assert "toy" not in text


@pytest.mark.parametrize("machine", paper.MACHINES)
def test_a_recipe_is_written_for_the_machine(machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = setting(tmp_path, "--machine", machine, "--size", "1.7b", monkeypatch=monkeypatch)
    recipe = load_recipe(ours.recipe("qwen3-1.7b-sod", student={"path": "mine"}))
    assert (recipe.student.path, recipe.name, recipe.method.name) == ("mine", "qwen3-1.7b", "sod")
    assert recipe.parallel.shards == (4 if machine == "8x80gb" else 1)
    assert (recipe.student.lora is not None) == (machine == "one-gpu-24gb")


@pytest.mark.parametrize(
    ("words", "told"),
    [(("--rows", "SOD,SDO"), "--rows SDO: there are"), (("--benchmarks", "aime"), "--benchmarks aime")],
)
def test_what_is_not_there_is_told(
    words: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with pytest.raises(SystemExit):
        setting(tmp_path, *words, monkeypatch=monkeypatch)
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_from_data_to_table_and_on_from_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A row that is distilled by a teacher that is trained here: eight `sod` commands, smaller than a toy."""
    sft = {**paper_toy.OVER["sft"], "steps": 3}
    over = {**paper_toy.OVER, "sft": sft, "train": {**paper_toy.OVER["train"], "steps": 1, "checkpoint_every": 1}}
    monkeypatch.setattr(paper_toy, "OVER", over)
    monkeypatch.setattr(stages.subprocess, "run", lambda words: run_warm(words[1:]))
    monkeypatch.setattr(paper_toy, "WORLD", {**paper_toy.WORLD, "sft": 32, "train": 16})
    asked = ["paper.py", "--toy", "--out", str(tmp_path), "--rows", "SOD", "--benchmarks", "aime24,gpqa_diamond"]
    monkeypatch.setattr(sys, "argv", [*asked, "--seconds", "0"])
    with pytest.raises(SystemExit, match="the time is over before: models and problems"):
        paper.main()
    monkeypatch.setattr(sys, "argv", asked)
    paper.main()
    commands = re.findall(r"^== ([^:]+): sod (\w+)", capfd.readouterr().out, re.MULTILINE)
    assert commands == [
        ("0.6b, cold start", "sft"),
        ("0.6b, merge of the cold start", "models"),
        ("4b, cold start", "sft"),
        ("4b, merge of the cold start", "models"),
        ("4b, GRPO", "train"),
        ("4b, merge", "models"),
        ("SOD", "train"),
        ("SOD, evaluation", "eval"),
    ]
    table = (tmp_path / "table.md").read_text()
    assert re.search(r"^\| 0\.6B \| SOD \| [\d.]+ \[[\d., ]+\] \(20\.84\) \|", table, re.MULTILINE)
    written = yaml.safe_load((tmp_path / "0.6b-sod" / "recipe.yaml").read_text())
    assert written["teacher"]["path"] == str(tmp_path / "models" / "4b-grpo")
    assert json.loads((tmp_path / "evaluations" / "sod" / "aime24" / "evaluation.json").read_text())["k"] == 2
    paper.main()
    assert "== " not in capfd.readouterr().out
