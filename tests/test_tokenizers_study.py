"""`scripts/tokenizers_study.py`: how the other teacher differs, what is compared, and all stages at toy size."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import tokenizers_study as study

from sod.alignment.pieces import pieces_of
from sod.alignment.turns import Ledger, match_trajectory
from sod.build.method import make_method
from sod.quickstart.world import scratch_chat
from sod.tasks import chain
from sod.tasks.base import Conversation
from sod.tools.python import SCHEMA


@pytest.fixture(scope="module")
def traces() -> list[Conversation]:
    rng = np.random.default_rng(0)
    return [chain.as_conversation(chain.random_chain(rng, 2, 5), number, SCHEMA) for number in range(300)]


@pytest.fixture(scope="module")
def other(traces: list[Conversation]) -> Any:
    return study.other_chat(traces, 640)


def test_the_other_teacher_reads_and_writes_otherwise(traces: list[Conversation], other: Any) -> None:
    pieces = other.tokenizer.tokenize("print(((47+8)*6)")
    assert pieces == ["print", "(((", "47", "+", "8", ")*", "6", ")"]
    text = other.conversation_text(traces[0].messages)
    assert "<function=python>" in text
    assert "<|over|>" in text
    assert "<|im_end|>" not in text
    assert '"arguments"' not in text
    assert other.dialect.name == "qwen-xml"


def test_what_the_two_say_is_matched_and_their_call_syntax_is_not(traces: list[Conversation], other: Any) -> None:
    own = scratch_chat(traces, 1_024)
    ledgers = [
        Ledger(chat, pieces_of(chat.tokenizer), *chat.encode_conversation(traces[0].messages)) for chat in (own, other)
    ]
    turns = match_trajectory(*ledgers)
    coverage = turns[0].coverage
    assert (coverage.unmatched, coverage.straddling > 0) == (0, True)  # the JSON that ends in `print` is one token
    assert coverage.content == coverage.matched >= 5
    assert any(not turn.spans.one_to_one.all() for turn in turns), "numbers of two digits are one token there"


@pytest.mark.parametrize("name", study.ARMS)
def test_every_arm_has_a_recipe(name: str, tmp_path: Path) -> None:
    size, arm = study.SIZES["cpu"], study.ARMS[name]
    recipe = study.arm_recipe(study.world_recipe(size, 5), tmp_path, size, arm)
    assert (recipe.seed, recipe.threads, recipe.train.steps) == (5, 1, size.steps)
    assert (recipe.teacher is None) == (name == "grpo")
    if recipe.teacher is not None:
        assert Path(recipe.teacher.path).name == ("teacher-sft" if name.endswith(("equal", "dense")) else "other-sft")
    assert make_method(recipe.method).name == arm.method["name"]
    assert recipe.optim.lr == size.lr


def test_gains_are_over_the_cold_start_of_the_same_seed() -> None:
    reached = {(1, study.COLD): 0.1, (2, study.COLD): 0.3, (1, "chunk"): 0.5, (2, "chunk"): 0.9}
    lines = [{"seed": seed, "model": name, "success": value} for (seed, name), value in reached.items()]
    half = 12.7062 * 0.1  # t(0.975, 1) times the standard error of 0.4 and 0.6
    expected = f"| +50.0 | [{100 * (0.5 - half):.1f}, {100 * (0.5 + half):.1f}] |"
    rows = study.table(lines).splitlines()
    assert rows[2].startswith(f"| {study.COLD} |")
    assert rows[2].endswith("| 10.0, 30.0 | 20.0 |  |  |")
    assert rows[3].startswith("| chunk |")
    assert rows[3].endswith(f"| 50.0, 90.0 | 70.0 {expected}")


@pytest.mark.slow
def test_all_stages_at_toy_size_and_none_of_them_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    asked = ["--out", str(out), "--size", "toy", "--arms", "equal", "simct", "--seeds", "4"]
    monkeypatch.setattr(sys, "argv", ["tokenizers_study.py", *asked, "--seconds", "0"])
    with pytest.raises(SystemExit, match="the time is over before: seed 4, cold start"):
        study.main()
    monkeypatch.setattr(sys, "argv", ["tokenizers_study.py", *asked])
    study.main()
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["model"] for line in lines] == [study.COLD, *study.TEACHERS.values(), "equal", "simct"]
    assert [line.get("coverage") is not None for line in lines] == [False, False, False, False, True]
    assert "| simct |" in (out / "summary.md").read_text()
    before = (out / "results.jsonl").read_bytes()
    capsys.readouterr()
    study.main()
    assert '"model"' not in capsys.readouterr().out
    assert (out / "results.jsonl").read_bytes() == before
