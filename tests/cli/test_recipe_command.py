"""`sod recipe`: keys explained at the terminal, and their schema for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sod.recipe.describe import key_rows
from sod.report.console import out


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns enough for every key, whatever the environment that the tests run in says."""
    monkeypatch.setattr(out, "width", 120)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (
            "rollout.samples",
            ["episodes per task", "whole number", "8", ">= 1", "rollout.group_size", "keeps the run's"],
        ),
        ("rollout.group_size", ["rollout.samples"]),
        ("student.path", ["none, it must be given"]),
        ("optim.recompute", ["may be set anew (the same activations, computed twice)"]),
        ("tools.python.unsafe", ["needs --allow-code: it runs the model's programs without isolation"]),
        ("method.epsilon", ["turn gap", "number > 0", "sod 1e-06"]),
        ("tools.NAME", ["a tool of your own", "tools.NAME.call", "tools.NAME.timeout_seconds"]),
        ("tools.sql.call", ["tools.NAME.call", "import path", "needs --allow-code: it imports and runs this code"]),
        ("tools.files", ["a tool of your own", "tools.NAME.mcp"]),
        ("reward.call", ["own reward functions", "reward.call.N.weight"]),
        ("reward.call.0.weight", ["factor on what it returns", "number"]),
        ("environment.goal", ["an argument of what environment.call names"]),
        ("optim", ["section", "optim.lr", "peak learning rate", "optim.compile"]),
    ],
)
def test_a_key_is_explained(key: str, said: list[str], sod: Any) -> None:
    ended = sod("recipe", "explain", key)
    assert ended.code == 0, ended.err
    assert [part for part in said if part not in ended.out] == []


def test_every_key_can_be_explained() -> None:
    from sod.build.explained import explained_key

    for row in key_rows():
        assert dict(explained_key(row.key).facts)["what"] == row.description


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("optim.learning_rate", "error: optim.learning_rate: no key of a recipe; did you mean optim.lr?"),
        ("environment.sucess", "error: environment.sucess: no key of a recipe; did you mean environment.success?"),
        ("zebra", "error: zebra: no key of a recipe; docs/keys.md lists them all"),
        ("", "error: : no key of a recipe; docs/keys.md lists them all"),
    ],
)
def test_a_wrong_key_offers_the_nearest(key: str, said: str, sod: Any) -> None:
    ended = sod("recipe", "explain", key)
    assert (ended.code, ended.err.strip()) == (1, said)


def test_the_schema_is_printed_or_written(tmp_path: Path, sod: Any) -> None:
    printed = sod("recipe", "schema").out
    assert json.loads(printed)["anyOf"][0]["required"] == ["student"]
    target = tmp_path / "new" / "sod.schema.json"
    assert sod("recipe", "schema", "--out", target).code == 0
    assert target.read_text(encoding="utf-8") == printed
    refused = sod("recipe", "schema", "--out", tmp_path)
    assert (refused.code, refused.err.strip()) == (
        1,
        f"error: {tmp_path}: a folder; name a file with --out, e.g. sod.schema.json",
    )
