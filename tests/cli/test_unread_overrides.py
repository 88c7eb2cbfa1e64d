"""An override that the command does not read is refused before anything is read; in a recipe file it is no mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sod.cli.unread import READ, UNREAD
from sod.recipe.describe import key_rows

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("train", QUICKSTART, "sft.steps=3"), "sft.steps"),
        (("train", "--resume", "runs/a", "world.sft=3"), "world.sft"),
        (("sft", QUICKSTART, "train.evaluate_every=5"), "train.evaluate_every"),
        (("sft", QUICKSTART, "method=grpo"), "method"),
        (("eval", "model", "--data", "d.jsonl", "optim.lr=1"), "optim.lr"),
        (("eval", "model", "--data", "d.jsonl", "rollout.group_size=1"), "rollout.samples"),
        (("score", "o.jsonl", "--benchmark", "gsm8k", "--style", "sod", "student.path=x"), "student.path"),
        (("quickstart", QUICKSTART, "compare.lrs=[1]"), "compare.lrs"),
        (("compare", QUICKSTART, "--methods", "sod", "compare.lrs=[1]", "optim.lr=1"), "optim.lr"),
        (("compare", QUICKSTART, "--methods", "sod", "data.train=x"), "data.train"),
        (("compare", QUICKSTART, "--methods", "sod", "world=null", "sft.steps=1"), "sft.steps"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_by_name(arguments: tuple[Any, ...], key: str, sod: Any) -> None:
    ended = sod(*arguments)
    assert ended.code == 1
    assert ended.err.splitlines() == [f"error: {key}: `sod {arguments[0]}` does not read that; leave it out"]


@pytest.mark.parametrize(
    "arguments",
    [("train", QUICKSTART, "method=sft", "sft.max_tokens=9"), ("sft", QUICKSTART, "train.keep_checkpoints=1")],
)
def test_keys_of_other_sections_that_are_read(arguments: tuple[Any, ...], sod: Any) -> None:
    """What is told is that the quickstart has not been run."""
    ended = sod(*arguments)
    assert "does not read" not in ended.err
    assert "sod quickstart" in ended.err


def test_the_tables_name_keys_that_there_are() -> None:
    keys = {row.key for row in key_rows()}
    named = {key for table in (UNREAD, READ) for listed in table.values() for key in listed}
    assert sorted(named - keys) == []
