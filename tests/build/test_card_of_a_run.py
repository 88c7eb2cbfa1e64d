"""`sod models card`: what is said of a run, and what is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from commands import ROOT
from sod.build.card import card_of
from sod.records import SodError

FIGURES = {"avg_at_k": 0.125, "pass_at_k": 0.5, "maj_at_k": 0.25, "k": 4, "tasks": 8, "tool_calls": 1.5}
INTERVALS = {"avg_at_k": [0.0, 0.4], "pass_at_k": [0.2, 0.8], "maj_at_k": [0.0, 0.6]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of this project's, whose recipe names models and data of the hub."""
    place = tmp_path / "run"
    shutil.copytree(ROOT / "tests" / "data" / "format2-run" / "run", place)
    return place


def told_of(run: Path, **keys: Any) -> None:
    """Write other keys into the run's recipe."""
    file = run / "recipe.yaml"
    recipe = yaml.safe_load(file.read_text())
    for key, value in keys.items():
        recipe[key] = {**recipe[key], **value} if isinstance(value, dict) and recipe.get(key) else value
    file.write_text(yaml.safe_dump(recipe))


def evaluated(run: Path, name: str, data: str, **more: Any) -> None:
    place = run / "evaluations" / name
    place.mkdir(parents=True)
    record = {**FIGURES, "data": data, "intervals": INTERVALS, "ci95": INTERVALS["avg_at_k"], **more}
    (place / "evaluation.json").write_text(json.dumps(record))


def test_what_the_hub_reads_is_there_and_the_licence_is_left_open(run: Path) -> None:
    told_of(run, student={"path": "Qwen/Qwen3-0.6B"}, data={"train": ["Gen-Verse/Open-AgentRL-30K@train", "own.jsonl"]})
    evaluated(run, "AIME_2024-all-k4-step2", "Maxwell-Jia/AIME_2024")
    text = card_of(run, "mine")
    card = ModelCard(text)
    assert (card.data.base_model, card.data.datasets) == ("Qwen/Qwen3-0.6B", ["Gen-Verse/Open-AgentRL-30K"])
    assert card.data.license is None
    assert {"sod", "on-policy-distillation"} <= set(card.data.tags or [])
    results = {(each.dataset_name, each.metric_type): each.metric_value for each in card.data.eval_results or []}
    assert results == {
        ("Maxwell-Jia/AIME_2024", "avg@4"): 12.5,
        ("Maxwell-Jia/AIME_2024", "pass@4"): 50.0,
        ("Maxwell-Jia/AIME_2024", "maj@4"): 25.0,
    }
    assert "license: to be chosen" in text.split("---")[1]


def test_training_data_and_figures_are_told(run: Path) -> None:
    evaluated(run, "tasks-all-k4-step2", "/somebody/here/tasks.jsonl")
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"tool_calls": 2.0', '"tool_calls": 3.0', 1))
    text = card_of(run, "mine")
    assert "| steps | 3 of 4 |" in text
    assert "| learning rate | 0.001, cosine, 1 steps of warm-up |" in text
    assert "| method | name=sod |" in text
    assert "| tasks | 2 | 8 | 4 | 12.5 [0.0, 40.0] | 50.0 [20.0, 80.0] | 25.0 [0.0, 60.0] | 1.50 |" in text
    assert "| tool calls an episode, first and last step | 3, 2 |" in text
    assert "/somebody/here" not in text


def test_a_benchmark_is_told_with_the_style_it_was_asked_in(run: Path) -> None:
    evaluated(run, "aime24-sod-all-k4-step2", "aime24", benchmark={"title": "AIME 2024"}, style={"name": "sod"})
    text = card_of(run, "mine")
    assert "| AIME 2024 (style sod) | 2 | 8 | 4 |" in text
    assert [each.dataset_name for each in ModelCard(text).data.eval_results or []] == ["AIME 2024 (style sod)"] * 3


def test_the_address_of_a_server_is_not_told(run: Path) -> None:
    told_of(run, teacher={"path": None, "url": "http://10.1.2.3:8000/v1", "model": "big"})
    text = card_of(run, "mine")
    assert "10.1.2.3" not in text
    assert "| teachers | big |" in text


def test_a_cold_start_is_told_as_one(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [{"step": row["step"], "kind": "sft", "loss": 1.0} for row in rows]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told_of(run, data={"sft": "Gen-Verse/Open-AgentRL-SFT-3K"})
    text = card_of(run, "mine")
    assert "fine-tuned on conversations" in text
    assert "| data.sft | Gen-Verse/Open-AgentRL-SFT-3K |" in text
    assert "on-policy-distillation" not in text


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SodError, match="not a run directory"):
        card_of(tmp_path, "mine")
