"""Released models by short names."""

from __future__ import annotations

from pathlib import Path

import pytest

from sod.build.job import final_model
from sod.hub import is_hub_id
from sod.models.zoo import FIGURES, MODELS, Released, hub_id_of
from sod.recipe import load_recipe, shipped_file


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_short_name_stands_for_a_hub_id_wherever_a_model_is_named(model: Released) -> None:
    name, hub = model.name, model.hub
    assert is_hub_id(hub)
    assert final_model(name) == final_model(name.upper()) == final_model(hub) == hub


def test_what_is_here_comes_before_a_released_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sod-1.7b").mkdir()
    assert hub_id_of("sod-1.7b") == "sod-1.7b"
    assert hub_id_of("sod-0.6b") == "youngzhong/SOD-0.6B"
    assert hub_id_of("mine/model") == "mine/model"


def test_names_and_ids_are_there_once_and_figures_are_percents() -> None:
    assert len({model.name for model in MODELS}) == len({model.hub for model in MODELS}) == len(MODELS)
    assert {frozenset(model.figures) for model in MODELS} == {frozenset(), frozenset(FIGURES)}
    assert all(1 < value < 100 for model in MODELS for value in model.figures.values())


def test_the_recipes_of_the_paper_name_released_models() -> None:
    hubs = {model.hub for model in MODELS}
    for size in ("0.6b", "1.7b"):
        assert load_recipe(shipped_file(f"qwen3-{size}-sft")).student.path in hubs
        teacher = load_recipe(shipped_file(f"qwen3-{size}-sod")).teacher
        assert teacher is not None
        assert teacher.path in hubs
