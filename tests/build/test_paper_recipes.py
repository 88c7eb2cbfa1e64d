"""The recipes of the SOD paper's table: settings, and two steps of each with Qwen3's own tokenizer and template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import sod
from npm_tokenizers import fetched
from sod.build.method import make_method
from sod.models import load
from sod.models.scratch import new_qwen3
from sod.recipe import Recipe, load_recipe, resolved, shipped_file, shipped_names
from sod.report.metrics import PANELS

NAMES = [name for name in shipped_names() if name.startswith("qwen3-")]
MACHINES = ["", "machines/one-gpu-80gb", "machines/one-gpu-24gb"]
PROMPTS = {"12": "7 pears and 5 pears?", "20": "4 boxes of 5 pears?", "3": "9 pears less 6?", "1": "3 pears less 2?"}


def read(name: str, machine: str, folder: Path) -> Recipe:
    """A recipe for a machine."""
    file = folder / "mine.yaml"
    file.write_text(json.dumps({"extends": [name, machine] if machine else name}))
    return load_recipe(file)


def test_every_row_of_the_table_has_its_recipe() -> None:
    rows = ("sft", "grpo", "opd", "opsd-gt", "opsd-hint", "sod")
    table = {f"qwen3-{size}-{row}" for size in ("0.6b", "1.7b") for row in rows}
    assert set(NAMES) == table | {"qwen3-4b-grpo-teacher", "qwen3-vanilla"}


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_those_of_the_paper(name: str) -> None:
    recipe = load_recipe(shipped_file(name))
    rollout, method = recipe.rollout, make_method(recipe.method)
    assert (rollout.prompts, rollout.samples, recipe.optim.mini_batch_prompts, rollout.max_turns) == (64, 16, 16, 16)
    assert (rollout.max_prompt_tokens, rollout.max_response_tokens) == (2560, 20480)
    assert (recipe.optim.lr, recipe.method.clip_low, recipe.method.clip_high) == (1e-6, 0.2, 0.28)
    assert (recipe.reward.tool_bonus, recipe.reward.overlong_buffer) == (True, 1024)
    assert (recipe.evaluation.k, recipe.evaluation.temperature, recipe.evaluation.top_p) == (32, 1.0, 0.6)
    assert recipe.chat.template_kwargs == {"enable_thinking": False}
    if name.endswith(("-sft", "-vanilla")):
        return  # what follows is of `sod train`
    assert recipe.train.steps == {"qwen3-0.6b": 120, "qwen3-1.7b": 150, "qwen3-4b": 938}[recipe.name]
    assert (method.rho(1) == 0) == (method.name in ("opsd_gt", "opsd_hint"))
    assert (recipe.teacher is not None) == name.endswith(("-sod", "-opd"))


@pytest.mark.parametrize("row", ["sft", "grpo", "opd", "opsd-gt", "opsd-hint", "sod"])
def test_both_sizes_differ_in_the_model_and_the_steps_alone(row: str) -> None:
    small, large = (resolved(load_recipe(shipped_file(f"qwen3-{size}-{row}"))) for size in ("0.6b", "1.7b"))
    assert {key for key in small if small[key] != large[key]} <= {"name", "student", "train"}
    assert {**small["student"], "path": ""} == {**large["student"], "path": ""}
    assert {**small["train"], "steps": 0} == {**large["train"], "steps": 0}


@pytest.mark.parametrize("machine", MACHINES[1:])
@pytest.mark.parametrize("name", NAMES)
def test_a_machine_changes_how_much_and_where_and_never_what_is_learned(
    name: str, machine: str, tmp_path: Path
) -> None:
    whole, small = resolved(read(name, "", tmp_path)), resolved(read(name, machine, tmp_path))
    changed = {key for key in whole if whole[key] != small[key]}
    assert changed <= {"student", "engine", "parallel", "tools", "rollout", "reward", "optim", "sft", "evaluation"}
    assert small["student"]["path"] == whole["student"]["path"]
    assert small["method"] == whole["method"]
    assert small["engine"]["kind"] == "torch"
    assert small["parallel"]["shards"] == 1
    kept = ("tool_bonus", "overlong_buffer", "correct", "wrong")
    assert [small["reward"][key] for key in kept] == [whole["reward"][key] for key in kept]


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models over Qwen3's own tokenizer and template."""
    place = tmp_path_factory.mktemp("qwen3")
    write_models(AutoTokenizer.from_pretrained(fetched("qwen3"), local_files_only=True), place)
    return place


def write_models(tokenizer: Any, place: Path) -> None:
    """`student` and `teacher`, with random weights."""
    for seed, name in enumerate(("student", "teacher")):
        model = new_qwen3(tokenizer, layers=1, hidden=16, heads=2, ffn=32, context=4096, seed=seed)
        model.to(torch.bfloat16).save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer is read from disk once in all tests, and the picture of a run has few of its panels."""
    monkeypatch.setattr("sod.report.curves.PANELS", PANELS[:2])
    monkeypatch.setattr(load, "AutoTokenizer", SimpleNamespace(from_pretrained=once_loaded))


@cache
def once_loaded(path: str, **options: Any) -> Any:
    return AutoTokenizer.from_pretrained(path, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks and conversations in the shapes of Open-AgentRL, with values of our own."""
    place = tmp_path_factory.mktemp("open-agentrl")
    tasks = [
        {
            "data_source": "math_dapo",
            "prompt": [{"role": "user", "content": text}],
            "ability": "MATH",
            "reward_model": {"ground_truth": truth, "style": "rule"},
            "extra_info": {"index": truth, "hint": "Count."},
        }
        for truth, text in PROMPTS.items()
    ]
    call = {"name": "code_interpreter", "arguments": json.dumps({"code": "print(7 + 5)"})}
    talk = [
        {"role": "user", "content": PROMPTS["12"]},
        {"role": "assistant", "content": "I add.", "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": "12"},
        {"role": "assistant", "content": "\\boxed{12}"},
    ]
    for name, rows in {"tasks": tasks, "sft": [{"messages": talk}] * 4}.items():
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def small(name: str, qwen3: Path, data: Path) -> Mapping[str, Any]:
    """What makes two steps of a recipe small: sizes, places and the machine, and none of what is learned from."""
    recipe = load_recipe(shipped_file(name))
    changed: dict[str, Any] = {
        "student.path": qwen3 / "student",
        "data.train": data / "tasks.jsonl",
        "data.sft": data / "sft.jsonl",
        "data.validation": data / "tasks.jsonl",
        "engine": "{}",
        "parallel.shards": 1,
        "tools.python.workers": 1,
        "tools.python.preload": "[]",
        "rollout.prompts": 2,
        "rollout.samples": 2,
        "rollout.max_turn_tokens": 8,
        "rollout.max_response_tokens": 24,
        "reward.overlong_buffer": 8,
        "reward.workers": 1,
        "optim.mini_batch_prompts": 1,
        "train.steps": 2,
        "train.evaluate_every": 0,
        "train.trajectories_every": 1,
        "sft.steps": 2,
        "sft.batch_size": 2,
        "sft.optim.warmup_steps": 1,
    }
    if recipe.teacher is not None:
        changed["teacher.path"] = qwen3 / "teacher"
    return changed


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", [name for name in NAMES if name != "qwen3-vanilla" and "-1.7b-" not in name])
def test_two_steps_with_the_tokenizer_of_qwen3(name: str, qwen3: Path, data: Path, tmp_path: Path) -> None:
    """Of one size: the other's would be the same runs here, as the two differ in the model and the steps alone."""
    run = tmp_path / "run"
    changed = [f"{key}={value}" for key, value in small(name, qwen3, data).items()]
    learn = sod.sft if name.endswith("-sft") else sod.train
    done = learn(str(shipped_file(name)), changed, run=run, progress=False)
    assert [row["step"] for row in done.metrics] == [1, 2]
    assert list(done.checkpoints) == [2]
    if learn is sod.sft:
        return
    rows = done.trajectories()
    asked = {row["prompt"][-1]["content"].partition("\n")[0] for row in rows}
    assert asked < set(PROMPTS.values())
    assert len(rows) == 2 * len(asked) == 4
    assert all("\\boxed{}" in row["prompt"][-1]["content"] for row in rows)
    assert all("code_interpreter" in json.dumps(row["tools"]) for row in rows)
    assert [row["updates"] for row in done.metrics] == [2, 2]
