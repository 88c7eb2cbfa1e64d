"""`sod models list` and `sod models card`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from commands import ROOT
from sod.models.zoo import MODELS


def test_released_models_are_listed(sod: Any) -> None:
    ended = sod("models", "list")
    assert ended.code == 0
    assert [model.name for model in MODELS if model.name not in ended.out or model.hub not in ended.out] == []
    assert "AIME 2024 50.83, AIME 2025 41.72" in ended.out


def test_a_card_is_written_once(sod: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(ROOT / "tests" / "data" / "format2-run" / "run", run)
    ended = sod("models", "card", run, "--title", "my-model")
    assert (ended.code, "choose the licence" in ended.out) == (0, True)
    assert "# my-model" in (run / "README.md").read_text()
    again = sod("models", "card", run)
    assert again.code == 1
    assert "README.md: is there already and is not overwritten" in again.err
    assert sod("models", "card", run, "--out", tmp_path / "new" / "README.md").code == 0
    assert "# run" in (tmp_path / "new" / "README.md").read_text()
