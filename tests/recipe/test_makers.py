"""What a shipped recipe reads and nobody has made yet is named with the command that makes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sod.recipe import Recipe, load_recipe
from sod.recipe.makers import MAKERS, maker_of, refuse_unmade
from sod.records import SodError

RECIPES = Path(__file__).parents[2] / "recipes"
WITH_FILES = ("quickstart.yaml", "smollm2-gsm8k.yaml")


def read_by(recipe: Recipe) -> list[str]:
    teacher = recipe.teacher.path if recipe.teacher else None
    paths = [recipe.student.path, teacher, recipe.data.sft, recipe.data.train, recipe.data.validation]
    return [path for path in paths if path]


@pytest.mark.parametrize("name", WITH_FILES)
def test_every_file_of_a_shipped_recipe_has_a_maker(name: str) -> None:
    path = RECIPES / name
    recipe = load_recipe(path)
    assert len(read_by(recipe)) == 5
    assert [given for given in read_by(recipe) if maker_of(given) is None] == []
    head = path.read_text().split("\nname:")[0]
    for maker in {maker_of(given) for given in read_by(recipe)}:
        assert maker is not None
        assert maker.command in head, "the head of the recipe lists the same command"


def test_each_needs_only_what_was_made_before() -> None:
    made: list[str] = []
    for maker in MAKERS:
        assert set(maker.needs) <= set(made)
        made.append(maker.path)


def test_all_missing_files_and_all_commands_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SodError) as info:
        refuse_unmade({"student.path": "runs/gsm8k-student", "data.train": "data/gsm8k/train.parquet"})
    said = str(info.value)
    assert "runs/gsm8k-student (student.path), data/gsm8k/train.parquet (data.train): not there yet" in said
    assert re.findall("`sod (models smollm2|data|sft|models prune)", said) == [
        "models smollm2",
        "data",
        "sft",
        "models prune",
        "sft",
    ]
    (tmp_path / "models" / "smollm2-15l").mkdir(parents=True)
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    (tmp_path / "data" / "gsm8k" / "train.parquet").touch()
    with pytest.raises(SodError) as info:
        refuse_unmade({"student.path": "./runs/gsm8k-student", "data.train": "data/gsm8k/train.parquet"})
    assert str(info.value).count("`sod ") == 1, "what is there need not be made again"


@pytest.mark.parametrize("path", [None, "", "Qwen/Qwen3-0.6B", "/abs/runs/quickstart", "mine.parquet", "runs/other"])
def test_other_paths_are_left_alone(path: str | None) -> None:
    refuse_unmade({"student.path": path})
