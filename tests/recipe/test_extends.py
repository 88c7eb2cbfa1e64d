"""`extends`: recipe files that hold what differs from others."""

from __future__ import annotations

from pathlib import Path

import pytest

from sod.recipe import load_recipe, read_whole, shipped_file
from sod.recipe.extends import laid_over
from sod.records import SodError

UNDER = """
student: {path: under, dtype: bfloat16}
teacher: {path: big}
method: {name: sod, delta: 0.5}
rollout: {group_size: 4, prompts: 8}
data: {train: [a.jsonl, b.jsonl]}
reward: {call: ./mine.py:score}
"""


@pytest.fixture
def under(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    path = tmp_path / "base" / "under.yaml"
    path.write_text(UNDER)
    return path


def over(folder: Path, text: str, name: str = "over.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_keys_lie_over_those_of_the_file_below(under: Path, tmp_path: Path) -> None:
    text = "extends: base/under\nstudent: {path: mine}\nteacher: null\nmethod: grpo\nrollout: {samples: 2}\n"
    recipe = load_recipe(over(tmp_path, text + "data: {train: c.jsonl}\n"))
    assert (recipe.student.path, recipe.student.dtype) == ("mine", "bfloat16")
    assert (recipe.teacher, recipe.data.train) == (None, "c.jsonl")
    assert (recipe.rollout.samples, recipe.rollout.prompts) == (2, 8), "by whatever name the file below has it"
    assert recipe.method.name == "grpo", "without the knobs of the other method"
    assert recipe.reward.call[0].call == f"{tmp_path / 'base' / 'mine.py'}:score", "from where it is named"


def test_later_files_lie_over_earlier_ones_and_overrides_over_all(under: Path, tmp_path: Path) -> None:
    over(tmp_path, "rollout: {prompts: 3, max_turns: 5}\nseed: 1\n", "machine.yaml")
    path = over(tmp_path, "extends: [base/under.yaml, machine.yaml]\nseed: 2\n")
    recipe = load_recipe(path, ["rollout.max_turns=7"])
    assert (recipe.rollout.prompts, recipe.rollout.samples, recipe.rollout.max_turns, recipe.seed) == (3, 4, 7, 2)


def test_files_that_come_with_sod_are_found_by_name_and_files_beside_come_first(tmp_path: Path) -> None:
    path = over(tmp_path, "extends: [quickstart, machines/one-gpu-80gb]\n")
    assert load_recipe(path).student == load_recipe(shipped_file("quickstart")).student
    assert load_recipe(path).rollout.prompts == 16
    named_alike = over(tmp_path, "extends: quickstart\nseed: 5\n", "quickstart.yaml")
    assert load_recipe(named_alike).student == load_recipe(shipped_file("quickstart")).student
    over(tmp_path, "student: {path: beside}\n", "quickstart.yaml")
    assert load_recipe(path).student.path == "beside"


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("nowhere", "over.yaml: extends 'nowhere', and there is no other recipe file"),
        ("[base/under, 7]", "names no recipe file"),
        ("[]", "names no recipe file"),
        ("over.yaml", "there is no other recipe file of that name"),
        ("again", "again.yaml: extends .*over.yaml, which extends this file in turn"),
    ],
)
def test_what_cannot_be_extended_is_told(named: str, told: str, under: Path, tmp_path: Path) -> None:
    over(tmp_path, "extends: over.yaml\n", "again.yaml")
    with pytest.raises(SodError, match=told):
        load_recipe(over(tmp_path, f"extends: {named}\n"))


def test_mistakes_are_told_with_the_file_that_was_asked_for(under: Path, tmp_path: Path) -> None:
    with pytest.raises(SodError, match=r"over\.yaml: .*optim\.lrr"):
        load_recipe(over(tmp_path, "extends: base/under\noptim: {lrr: 1}\n"))


def test_nothing_of_the_files_is_changed_in_place() -> None:
    below = {"a": {"b": 1}}
    assert laid_over(below, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}
    assert below == {"a": {"b": 1}}


def test_an_empty_section_empties_the_one_below() -> None:
    assert laid_over({"a": {"b": 1, "c": {"d": 1}}}, {"a": {"c": {}}}) == {"a": {"b": 1, "c": {}}}


def test_a_file_that_extends_none_is_read_as_it_stands(under: Path) -> None:
    assert read_whole(under)["rollout"] == {"group_size": 4, "prompts": 8}
