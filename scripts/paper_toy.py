"""The invented world of `scripts/paper.py --toy`: models from scratch, chains of sums, and four small benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml

from sod.quickstart.world import make_data, make_models
from sod.recipe import load_recipe, shipped_file
from sod.tools.python import python_schema

CONTEXT = 2048
PROBLEMS = 6
WORLD = {
    "longest": 3,
    "sft": 1500,
    "train": 128,
    "validation": 4,
    "test": 8,
    "vocab_size": 700,
    "context": CONTEXT,
    "teacher": {"layers": 2, "hidden": 128, "heads": 4, "ffn": 256},
    "student": {"layers": 2, "hidden": 96, "heads": 4, "ffn": 192},
}
LIMITS = ["rollout.max_turn_tokens=48", "rollout.max_response_tokens=256", "rollout.max_turns=6"]
"""What the style would ask of a model with room for 20,480 tokens."""
OVER: dict[str, Any] = {
    "student": {"dtype": "float32"},
    "chat": {"template": "hermes", "template_kwargs": {}},
    "data": {"suffix": None},
    "tools": {"python": {"workers": 2, "preload": [], "memory_mb": 256, "timeout_seconds": 10}},
    "rollout": {
        "prompts": 4,
        "samples": 4,
        "max_turns": 6,
        "max_prompt_tokens": 1024,
        "max_turn_tokens": 48,
        "max_response_tokens": 256,
        "max_rows": 32,
    },
    "reward": {"overlong_buffer": 32, "workers": 1},
    "optim": {"lr": 2.0e-4, "mini_batch_prompts": 2, "micro_batch_tokens": 4096, "recompute": False},
    "train": {"steps": 3, "checkpoint_every": 3, "evaluate_every": 3, "keep_checkpoints": 1},
    "sft": {
        "steps": 150,
        "batch_size": 16,
        "max_tokens": CONTEXT,
        "checkpoint_every": 150,
        "optim": {"lr": 2.0e-3, "warmup_steps": 15, "micro_batch_tokens": 4096, "recompute": False},
    },
    "evaluation": {"k": 2},
}


def make_world(out: Path) -> None:
    """Write data, models without training and the benchmarks below `out`."""
    quick = load_recipe(shipped_file("quickstart"))
    assert quick.world is not None
    world = type(quick.world).model_validate({**quick.world.model_dump(), **WORLD})
    told = make_data(world, 0, out / "data", python_schema(False, "code_interpreter", "code"))
    make_models(world, quick, told, {name: out / name for name in ("teacher-init", "student-init")})
    for name, rows in benchmarks().items():
        file = out / "benchmarks" / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_recipe(out: Path) -> Path:
    """The keys that make every recipe of the table a toy."""
    file = out / "recipes" / "toy.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    data = {name: str(out / "data" / f"{name}.parquet") for name in ("sft", "train", "validation")}
    file.write_text(yaml.safe_dump({**OVER, "data": {**OVER["data"], **data}}, sort_keys=False))
    return file


def benchmarks() -> dict[str, list[dict[str, Any]]]:
    """Invented problems in the columns of the published sets."""
    return {
        "aime24": [{"ID": f"2024-{n}", "Problem": text, "Answer": answer} for n, (text, answer) in sums(1)],
        "aime25": [{"id": f"2025-{n}", "problem": text, "answer": str(answer)} for n, (text, answer) in sums(2)],
        "gpqa_diamond": [choice(n, text, answer) for n, (text, answer) in sums(3)],
        "livecodebench_v6": [program(n) for n in range(PROBLEMS)],
    }


def sums(seed: int) -> Iterator[tuple[int, tuple[str, int]]]:
    """Sums of small numbers, as the training tasks ask them."""
    random = Random(seed)
    for number in range(PROBLEMS):
        first, second = random.randint(1, 9), random.randint(1, 9)
        yield number, (f"{first}+{second}", first + second)


def choice(number: int, text: str, answer: int) -> dict[str, Any]:
    """A question with four options."""
    wrong = {f"Incorrect Answer {n}": str(answer + n) for n in (1, 2, 3)}
    return {"Record ID": f"toy-{number}", "Question": text, "Correct Answer": str(answer), **wrong}


def program(number: int) -> dict[str, Any]:
    """A program that reads a number and adds another."""
    tests = [{"input": f"{n}\n", "output": f"{n + number}\n", "testtype": "stdin"} for n in (1, 5)]
    return {
        "question_id": f"toy-{number}",
        "question_title": f"Add {number}",
        "question_content": f"Read a whole number and print it plus {number}.",
        "platform": "atcoder",
        "difficulty": "easy",
        "starter_code": "",
        "contest_date": "2025-01-01T00:00:00",
        "public_test_cases": json.dumps(tests[:1]),
        "private_test_cases": json.dumps(tests[1:]),
        "metadata": "{}",
    }
