"""Every key of the recipe, and every knob with every method that has it: a changed value changes a weight, a metric or
a file, or it is refused, or told. What changes nothing by design is listed with its reason, and proven equal.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from every_setting import CHANGES, ELSEWHERE, EQUAL, KNOBS, SFT, Example

from sod.build.supervised import prepare_sft
from sod.build.training import prepare_train
from sod.models.load import save_model
from sod.objective.needs import SELF_TEACHER, Need
from sod.objective.presets import PRESETS, knobs
from sod.recipe import Recipe
from sod.recipe.describe import key_rows
from sod.records import Message, SodError
from sod.tasks import chain
from sod.tasks.files import write_conversations, write_tasks
from sod.tools.python import SCHEMA

ROOT = Path(__file__).parents[2]
TIMES = ("seconds", "tokens_per_second")
NO_CONTENT = ("trainer.pt", "COMPLETE.json", "profile.json", "recipe.yaml", "manifest.json", ".lock")
"""Files that count by being there: they hold times, or the recipe itself."""

Outcome = Mapping[str, Any]


def leaves() -> list[str]:
    """Every key that holds a value, not a section."""
    keys = [row.key for row in key_rows()]
    return [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]


def listed(key: str) -> list[str]:
    """The tables that a key is in."""
    tables = {"CHANGES": CHANGES, "SFT": SFT, "EQUAL": EQUAL}
    found = [name for name, table in tables.items() if key in table]
    return found + [f"ELSEWHERE: {above}" for above in ELSEWHERE if key == above or key.startswith(f"{above}.")]


def test_every_key_and_every_knob_has_an_example() -> None:
    """A new key is listed in `every_setting.py`, in one table (`sft.max_tokens` is of two commands)."""
    assert [key for key in leaves() if not listed(key)] == []
    assert [key for key in leaves() if len(listed(key)) > 1] == ["sft.max_tokens"]
    every = {knob for name in PRESETS for knob in knobs(name)}
    assert sorted(every - set(KNOBS)) == []
    known = {*leaves(), "method.divergence", "world", "compare", "evaluation", "tools.python.fusion"}
    assert sorted({*CHANGES, *SFT, *EQUAL, *ELSEWHERE} - known) == []
    assert [path for path in ELSEWHERE.values() if not (ROOT / path).is_file()] == []


class Bench:
    """Runs a small recipe with one key changed, and remembers what the unchanged ones gave."""

    def __init__(self, paths: Mapping[str, Path], runs: Path) -> None:
        self.paths = {name: str(path) for name, path in paths.items()}
        self.runs = runs
        self.numbers = itertools.count()
        self.known: dict[str, Outcome] = {}

    def content(self, method: str) -> dict[str, Any]:
        """Two steps of two groups of two short episodes."""
        needs = PRESETS[method]().needs
        own = Need.TEACHER in needs and not needs & SELF_TEACHER
        return {
            "student": {"path": "{model}"},
            "teacher": {"path": "{other}"} if own else None,
            "chat": {"template": "hermes"},
            "data": {"train": "{train}", "validation": "{train}", "sft": "{sft}"},
            "tools": {"python": None},
            "rollout": {
                "prompts": 2,
                "samples": 2,
                "max_turns": 2,
                "max_prompt_tokens": 200,
                "max_turn_tokens": 24,
                "max_response_tokens": 80,
            },
            "reward": {"overlong_buffer": 70},  # by their lengths episodes earn different rewards
            "method": {"name": method},
            "optim": {"lr": 1e-2},
            "train": {"steps": 2, "checkpoint_every": 2},
            "evaluation": {"k": 2, "tasks": 2},
            "sft": {"steps": 2, "batch_size": 2, "optim": {"lr": 1e-2}},
        }

    def run(self, method: str, keys: Mapping[str, Any], sft: bool = False) -> Outcome:
        """What a run leaves: its metrics and files but for times, what was told, or why it was refused."""
        content = self.content(method)
        for key, value in keys.items():
            put(content, key, value)
        recipe = Recipe.model_validate(json.loads(self.filled(content)))
        directory, told = self.runs / f"run-{next(self.numbers)}", list[str]()
        prepare = prepare_sft if sft else prepare_train
        try:
            job = prepare(recipe, directory, False, told.append)
            try:
                job.start([])
            finally:
                job.close()
        except SodError as error:
            return {"refused": str(error)}
        return {"told": told, **files_of(directory)}

    def filled(self, content: Mapping[str, Any]) -> str:
        """The content as JSON, with paths in place of their names."""
        text = json.dumps(content)
        for name, path in self.paths.items():
            text = text.replace(f'"{{{name}}}"', json.dumps(path))
        return text

    def both(self, method: str, key: str, example: Example, sft: bool = False) -> tuple[Outcome, Outcome]:
        """What the base gives, and what it gives with the key changed."""
        name = json.dumps([method, dict(example.base), sft], sort_keys=True)
        if name not in self.known:
            self.known[name] = self.run(method, example.base, sft)
        return self.known[name], self.run(method, {**example.base, key: example.value}, sft)


def put(content: dict[str, Any], key: str, value: Any) -> None:
    *above, last = key.split(".")
    node = content
    for name in above:
        child = node.get(name)
        node[name] = dict(child) if isinstance(child, dict) else {}
        node = node[name]
    node[last] = value


def files_of(directory: Path) -> dict[str, Any]:
    """By its path each file of a run: its content, or a hash of it; of some only that they are there."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = str(path.relative_to(directory))
        if path.name in NO_CONTENT:
            found[name] = "there"
        elif path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            found[name] = [{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in rows]
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def does_something(key: str, before: Outcome, after: Outcome) -> bool:
    """Whether anything differs, or the changed value was refused or told by its name."""
    if "refused" in after:
        return key.split(".")[0] in after["refused"] or "max_prompt_tokens" in after["refused"]
    return {**before, "told": ()} != {**after, "told": ()} or any(key in line for line in after["told"])


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: Any, chat: Any, acting_model: Any, random_model: Callable[..., Any], conversations: Any
) -> Bench:
    place = tmp_path_factory.mktemp("settings")
    for name, model in (("model", acting_model), ("other", random_model(seed=7, sharpness=4.0))):
        save_model(model, chat.tokenizer, chat.template, chat.end_id, place / name)
    save_model(acting_model, chat.tokenizer, "{# ours #}" + chat.template, chat.end_id, place / "templated")
    tasks = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"train": 4}, 2, 3, seed=1)["train"])]
    write_tasks(place / "train.parquet", tasks)
    long = replace(tasks[0], id="long", prompt=(Message("user", "7 + " * 200),))
    write_tasks(place / "long.parquet", [*tasks, long])
    write_tasks(place / "right.parquet", [replace(task, ground_truth="7") for task in tasks])
    write_conversations(place / "sft.parquet", conversations[:8])
    write_conversations(place / "fewer.parquet", conversations[8:12])
    assert conversations[0].tools[0] == SCHEMA
    files = {name: place / f"{name}.parquet" for name in ("train", "right", "long", "sft", "fewer")}
    return Bench({**files, **{name: place / name for name in ("model", "other", "templated")}}, place)


WITH_EVERY_METHOD = [(key, name) for key, example in CHANGES.items() if example.every_method for name in PRESETS]
WITH_ONE = [(key, example.method) for key, example in CHANGES.items() if not example.every_method]


@pytest.mark.slow
@pytest.mark.parametrize(("key", "method"), [*WITH_ONE, *WITH_EVERY_METHOD])
def test_a_key_does_something_or_is_refused(key: str, method: str, bench: Bench) -> None:
    before, after = bench.both(method, key, CHANGES[key])
    assert does_something(key, before, after), (before, after)


@pytest.mark.slow
@pytest.mark.parametrize("key", SFT)
def test_a_key_of_sft_does_something_or_is_refused(key: str, bench: Bench) -> None:
    before, after = bench.both("sod", key, SFT[key], sft=True)
    assert does_something(key, before, after), (before, after)


@pytest.mark.slow
@pytest.mark.parametrize(("knob", "method"), [(knob, name) for name in PRESETS for knob in knobs(name)])
def test_a_knob_does_something(knob: str, method: str, bench: Bench) -> None:
    before, after = bench.both(method, f"method.{knob}", KNOBS[knob])
    assert "refused" not in before | after
    assert does_something(knob, before, after), (before, after)


@pytest.mark.slow
@pytest.mark.parametrize("key", EQUAL)
def test_what_is_said_to_change_nothing_changes_nothing(key: str, bench: Bench) -> None:
    example, _ = EQUAL[key]
    before, after = bench.both(example.method, key, example, sft=key.startswith("sft."))
    assert "refused" not in before | after
    assert before.keys() == after.keys()
    for one, another in zip(before["metrics.jsonl"], after["metrics.jsonl"], strict=True):
        row, other = dict(one), dict(another)
        assert other.pop("kind") == row.pop("kind")
        assert other == pytest.approx(row, rel=1e-3, abs=1e-5)  # other batches are rounded otherwise
