"""Keys that go by other names: accepted ones for good, old ones for one version and with a notice."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from sod.recipe import Recipe, apply_overrides, load_recipe, parse_recipe, resolved
from sod.records import SodError

STUDENT = {"student": {"path": "s"}}
OLD = [
    ("rollout.round_tokens", 4, "rollout.decode_chunk", 4),
    ("rollout.by_the_clock", True, "rollout.asynchronous", True),
    ("method.normaliser", "token", "method.loss_aggregation", "token-mean"),
    ("method.normaliser", "sequence", "method.loss_aggregation", "seq-mean-token-mean"),
    ("method.normaliser", "turn", "method.loss_aggregation", "turn-mean"),
]
ACCEPTED = [("rollout.batch_size", 3, "rollout.prompts", 3), ("rollout.group_size", 5, "rollout.samples", 5)]


def loaded(directory: Path, content: dict[str, Any], *overrides: str) -> tuple[Recipe, list[str]]:
    """The recipe of a file with this content, and its notices."""
    file = directory / "run.yaml"
    file.write_text(yaml.safe_dump(STUDENT | content))
    notices: list[str] = []
    return load_recipe(file, overrides, notices.append), notices


def at(recipe: Recipe, key: str) -> Any:
    section, name = key.split(".")
    return resolved(recipe)[section][name]


@pytest.mark.parametrize(("old", "given", "key", "value"), OLD)
@pytest.mark.parametrize("how", ["file", "override", "section override"])
def test_old_names_work_with_one_notice(how: str, old: str, given: Any, key: str, value: Any, tmp_path: Path) -> None:
    """It names the file, both keys and, where that changed too, the value."""
    section, name = old.split(".")
    text = yaml.safe_dump({name: given}, default_flow_style=True).strip()
    if how == "file":
        recipe, notices = loaded(tmp_path, {section: {name: given}})
    elif how == "override":
        recipe, notices = loaded(tmp_path, {}, f"{old}={given}")
    else:
        recipe, notices = loaded(tmp_path, {}, f"{section}={text}")
    assert at(recipe, key) == value
    (notice,) = notices
    assert notice.startswith(f"{tmp_path}/run.yaml: {old} is now called {key}")
    assert (f"its value {given} {value};" in notice) == (given != value)
    assert "\n" not in notice
    assert name not in resolved(recipe)[section]


@pytest.mark.parametrize(("name", "given", "key", "value"), ACCEPTED)
def test_accepted_names_work_without_a_notice(name: str, given: Any, key: str, value: Any, tmp_path: Path) -> None:
    section, last = name.split(".")
    for recipe, notices in (loaded(tmp_path, {section: {last: given}}), loaded(tmp_path, {}, f"{name}={given}")):
        assert at(recipe, key) == value
        assert not notices
        assert last not in resolved(recipe)[section]


@pytest.mark.parametrize(("name", "given", "key", "_"), OLD[:3] + ACCEPTED)
def test_one_key_under_two_names_is_refused(name: str, given: Any, key: str, _: Any, tmp_path: Path) -> None:
    """In a file and among overrides, with file and both names."""
    section, last = name.split(".")
    said = f"run.yaml: ({name} and {key}|{key} and {name}) are the same key; give one of them"
    with pytest.raises(SodError, match=said):
        loaded(tmp_path, {section: {last: given, key.split(".")[1]: given}})
    with pytest.raises(SodError, match=said):
        loaded(tmp_path, {}, f"{name}={given}", f"{key}={given}")


@pytest.mark.parametrize(("name", "given", "key", "value"), OLD + ACCEPTED)
def test_an_override_replaces_what_the_file_gives_under_another_name(
    name: str, given: Any, key: str, value: Any, tmp_path: Path
) -> None:
    section, last = key.split(".")
    file = {"decode_chunk": 7, "asynchronous": False, "loss_aggregation": "token-mean", "prompts": 7, "samples": 7}
    recipe, _ = loaded(tmp_path, {section: {last: file[last]}}, f"{name}={given}")
    assert at(recipe, key) == value


def test_an_old_name_in_file_and_override_is_told_once(tmp_path: Path) -> None:
    recipe, notices = loaded(tmp_path, {"rollout": {"round_tokens": 4}}, "rollout.round_tokens=8")
    assert recipe.rollout.decode_chunk == 8
    assert len(notices) == 1


def test_values_are_refused_under_the_keys_own_name(tmp_path: Path) -> None:
    for override, said in (
        ("rollout.batch_size=0", "rollout.prompts=0: "),
        ("method.normaliser=mean", "method.loss_aggregation='mean': "),
        ("method.normaliser=[token]", "method.loss_aggregation="),
        ("rollout.batch_size.x=1", "rollout.prompts={'x': 1}: "),
    ):
        with pytest.raises(SodError) as caught:
            loaded(tmp_path, {}, override)
        assert str(caught.value).startswith(f"{tmp_path}/run.yaml: {said}")


def test_notices_are_warnings_where_nobody_asks_for_them(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("student: {path: s}\nrollout: {round_tokens: 4}\n")
    with pytest.warns(FutureWarning, match="rollout.round_tokens is now called rollout.decode_chunk") as caught:
        load_recipe(file)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_a_recorded_recipe_of_an_older_run_is_understood_silently() -> None:
    """With the knobs of all presets, null where they were not given, as runs used to write them down."""
    knobs = dict.fromkeys(("kappa", "rho", "decay", "threshold", "beta_min", "gamma", "start", "teacher_rule"))
    recorded = {
        **STUDENT,
        "method": {"name": "sod", "epsilon": 0.5, **knobs, "normaliser": "sequence", "divergence": None},
        "rollout": {"prompts": 2, "round_tokens": 4, "by_the_clock": True},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe = parse_recipe(recorded, "recipe.yaml")
        assert parse_recipe(apply_overrides(recorded, ["train.steps=3"], "recipe.yaml"), "recipe.yaml").train.steps == 3
    assert recipe.method.knobs == {"epsilon": 0.5}
    assert recipe.method.loss_aggregation == "seq-mean-token-mean"
    assert (recipe.rollout.decode_chunk, recipe.rollout.asynchronous) == (4, True)
    assert recorded["rollout"] == {"prompts": 2, "round_tokens": 4, "by_the_clock": True}
