"""The JSON schema of recipes says what the recipe itself says: the same files pass, and the same mistakes do not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from every_setting import CHANGES, EQUAL, SFT

from sod.build.recipe import read_recipe
from sod.build.schema import recipe_schema
from sod.recipe import load_recipe, parse_recipe, read_yaml, resolved, shipped_file, shipped_names
from sod.recipe.describe import key_rows
from sod.records import SodError

jsonschema = pytest.importorskip("jsonschema")
LEAST: dict[str, Any] = {"student": {"path": "model"}}


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(json.dumps(recipe_schema(), allow_nan=False))  # as an editor reads it
    kind = jsonschema.Draft202012Validator
    kind.check_schema(schema)
    return kind(schema)


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_recipe_is_valid(name: str, validator: Any) -> None:
    validator.validate(read_yaml(str(shipped_file(name))))
    validator.validate(resolved(load_recipe(shipped_file(name))))  # as runs record it


def test_an_example_of_every_key_is_valid(validator: Any) -> None:
    """Wherever the recipe takes a value that another test has found to do something, the schema does."""
    tables = {**CHANGES, **SFT} | {key: example for key, (example, _) in EQUAL.items()}
    compared = 0
    for key, example in tables.items():
        content = _content(key, example.value)
        try:
            parse_recipe(content, "a test")
        except SodError:
            continue  # it needs other keys beside it
        validator.validate(content)
        compared += 1
    assert compared > 0.8 * len(tables)


def _content(key: str, value: Any) -> dict[str, Any]:
    top, *parts = key.split(".")
    for part in reversed(parts):
        value = {part: value}
    base: dict[str, Any] = {**LEAST, "teacher": dict(LEAST["student"])}
    return {**base, top: {**base.get(top, {}), **value} if parts else value}


def test_every_key_has_its_description(validator: Any) -> None:
    told = json.dumps(validator.schema)
    assert [row.key for row in key_rows() if json.dumps(row.description) not in told] == []


@pytest.mark.parametrize(
    "content",
    [
        {"method": "opd"},
        {"method": {"name": "sod", "epsilon": 0.5}},
        {"method": {"name": "atod", "kappa": {"schedule": "constant", "start": 1}}},
        {"method": {"name": "opd", "divergence": "jsd"}},
        {"method": {"epsilon": None}},
        {"rollout": {"batch_size": 4, "group_size": 2}},
        {"teacher": None, "world": None},
    ],
)
def test_short_forms_and_other_names_are_valid(content: dict[str, Any], validator: Any) -> None:
    parse_recipe({**LEAST, **content}, "a test")
    validator.validate({**LEAST, **content})


@pytest.mark.parametrize("named", ["quickstart", ["quickstart", "machines/one-gpu-24gb"]])
def test_a_file_that_extends_others_may_leave_out_what_they_have(named: Any, validator: Any) -> None:
    validator.validate({"extends": named, "student": {"dtype": "bfloat16"}, "seed": 1})
    assert not validator.is_valid({"extends": named, "sed": 1})
    assert not validator.is_valid({"extends": [], "seed": 1})


@pytest.mark.parametrize(
    "content",
    [
        {"student": {}},
        {"optim": {"lr": 0}},
        {"optim": {"learning_rate": 1}},
        {"method": "sodd"},
        {"method": {"name": "sod", "epsilom": 0.5}},
        {"method": {"name": "sod", "epsilon": -1}},
        {"trackers": ["mlflow"]},
    ],
)
def test_mistakes_are_marked(content: dict[str, Any], validator: Any, tmp_path: Any) -> None:
    """The same that a command refuses."""
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps({**LEAST, **content}), encoding="utf-8")
    assert not validator.is_valid({**LEAST, **content})
    if content != {"method": "sodd"}:  # which is refused where the method is made
        with pytest.raises(SodError):
            read_recipe(file, [], print)
