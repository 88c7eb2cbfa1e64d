"""`sod plan` knows which engine samples, and plans architectures whose attention is not plain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from architectures import LINEAR, tiny_config
from sod.preflight.estimate import estimated
from sod.preflight.parts import SAMPLING
from sod.recipe import Recipe


def parts(kind: str, changes: dict[str, Any], longest: int, directory: Path) -> dict[str, int]:
    """What sampling takes on the CPU, by name."""
    tiny_config(kind, **changes).save_pretrained(directory)
    rollout = {"max_prompt_tokens": 30, "max_response_tokens": longest - 30, "max_turn_tokens": 10}
    recipe = Recipe.model_validate({"student": {"path": str(directory)}, "method": "grpo", "rollout": rollout})
    return {part.name: part.bytes for part in estimated(recipe).parts if part.phases == (SAMPLING,)}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {"sliding_window": 48}),
        pytest.param("gemma2", {"head_dim": 8}, marks=pytest.mark.slow),
        pytest.param("qwen3_5_text", LINEAR, marks=pytest.mark.slow),
    ],
)
def test_the_plain_engine_is_planned(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Its caches of all rows at their longest."""
    found = parts(kind, changes, 100, tmp_path)
    (name,) = (name for name in found if name.startswith("student: plain engine's caches of "))
    assert name.endswith(" x 100 tokens, twice while one grows")
    assert found[name] > 0


def test_inside_its_window_the_fast_engine_is_planned(tmp_path: Path) -> None:
    names = parts("mistral", {"sliding_window": 48}, 48, tmp_path)
    assert any(name.startswith("student: engine's cache of ") for name in names)
    assert not any("plain" in name for name in names)
