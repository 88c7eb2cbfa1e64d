"""`sod init`, and recipes that are found where there is no checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sod.recipe import load_recipe, read_yaml, shipped_file, shipped_names


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_are_listed(sod: Any) -> None:
    ended = sod("init")
    assert ended.code == 0
    assert [name for name in shipped_names() if name not in ended.out] == []
    assert {"quickstart", "smollm2-gsm8k", "compare-chain"} <= set(shipped_names())


@pytest.mark.parametrize("name", shipped_names())
def test_a_recipe_is_written_as_it_is_and_its_commands_mean_the_copy(name: str, sod: Any, empty_folder: Path) -> None:
    ended = sod("init", name)
    assert ended.code == 0
    written = empty_folder / f"{name}.yaml"
    assert read_yaml(str(written)) == read_yaml(str(shipped_file(name)))
    assert f"{name}.yaml" in ended.out.partition("next:")[2]
    assert f"recipes/{name}.yaml" not in written.read_text(encoding="utf-8")


def test_nothing_is_overwritten_and_an_unknown_name_is_told_the_others(sod: Any, empty_folder: Path) -> None:
    (empty_folder / "quickstart.yaml").write_text("mine", encoding="utf-8")
    refused = sod("init", "quickstart")
    assert refused.code == 1
    assert "quickstart.yaml: is there already" in refused.err
    assert (empty_folder / "quickstart.yaml").read_text(encoding="utf-8") == "mine"
    unknown = sod("init", "fastart")
    assert unknown.code == 1
    assert "quickstart" in unknown.err


@pytest.mark.parametrize("given", ["quickstart", "quickstart.yaml", "recipes/quickstart.yaml", "recipes/quickstart"])
def test_a_recipe_of_the_package_is_found_by_name_and_said_to_be_one(given: str) -> None:
    told: list[str] = []
    assert load_recipe(given, (), told.append).name == "quickstart"
    assert len(told) == 1
    assert "sod init quickstart" in told[0]


def test_a_file_comes_before_the_package_and_a_folder_of_that_name_does_not(empty_folder: Path) -> None:
    (empty_folder / "quickstart").mkdir()
    assert load_recipe("quickstart", (), lambda _: None).name == "quickstart"
    (empty_folder / "quickstart.yaml").write_text("{name: mine, student: {path: x}}", encoding="utf-8")
    assert load_recipe("quickstart.yaml").name == "mine"
