"""Every key says what it is, and what is said of it comes from the key itself."""

from __future__ import annotations

import pytest

from sod.recipe import ScheduleSpec, parse_recipe, resolved
from sod.recipe.describe import KeyRow, key_rows

ROWS = {row.key: row for row in key_rows()}


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.key)
def test_every_key_has_a_description(row: KeyRow) -> None:
    """One short line."""
    assert len(row.description) >= 5
    assert "\n" not in row.description
    assert len(row.description) <= 110


def test_so_has_a_schedule() -> None:
    assert all(field.description for field in ScheduleSpec.model_fields.values())


def test_every_key_of_a_resolved_recipe_is_there_and_no_other() -> None:
    full = {
        "student": {"path": "s", "lora": {}},
        "teacher": {"path": "t"},
        "world": {},
        "method": {"divergence": "jsd", "alignment": "chunk"},
        "environment": {"call": "m:f"},
        "launch": {"teacher": {}},
        "reward": {"judge": {"url": "http://u", "model": "m"}},
    }
    recipe = parse_recipe({**full, "tools": {"python": {"fusion": {"url": "u"}}, "NAME": {"call": "m:f"}}}, "here")

    def keys(values: dict[str, object], prefix: str = "") -> set[str]:
        found = set()
        for name, value in values.items():
            found.add(prefix + name)
            if isinstance(value, dict):
                found |= keys(value, f"{prefix}{name}.")
        return found

    several = parse_recipe({"student": {"path": "s"}, "teachers": {"NAME": {"path": "t"}}}, "here")
    assert set(ROWS) == keys(resolved(recipe)) | keys(resolved(several))


@pytest.mark.parametrize(
    ("key", "kind", "default", "bounds"),
    [
        ("seed", "whole number", "0", ">= 0"),
        ("student.path", "text", None, ""),
        ("student.dtype", "float32 or bfloat16", "float32", ""),
        ("teacher", "section or null", "null", ""),
        ("rollout.top_p", "number", "1", "> 0 and <= 1"),
        ("rollout.asynchronous", "true or false", "false", ""),
        ("optim.mini_batch_prompts", "whole number or null", "null", ">= 1"),
        ("optim.betas", "list of 2: number", "[0.9, 0.95]", ""),
        ("optim.lr", "number", "1e-06", "> 0"),
        ("sft.optim.lr", "number", "1e-05", "> 0"),  # the section's own default, not that of its class
        ("world.teacher_sft.optim.lr", "number", "1e-05", "> 0"),
        ("tools.python.preload", "list of: text", "[numpy, sympy]", ""),
        ("reward.call", "list of: section", "[]", ""),
        ("reward.by_source", "mapping to math, choice or code", "{}", ""),
        ("compare.lrs", "list of: number > 0 or null", "null", "1 or more"),
    ],
)
def test_types_defaults_and_bounds(key: str, kind: str, default: str | None, bounds: str) -> None:
    row = ROWS[key]
    assert (row.type, row.default, row.bounds) == (kind, default, bounds)


def test_accepted_names_are_told_and_old_ones_are_not() -> None:
    assert ROWS["rollout.prompts"].other_names == ["rollout.batch_size"]
    assert ROWS["rollout.samples"].other_names == ["rollout.group_size"]
    assert not ROWS["rollout.decode_chunk"].other_names
