"""What a run may be resumed with."""

from __future__ import annotations

import math
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from sod.recipe import parse_recipe, resolved
from sod.records import SodError
from sod.runlog import NEUTRAL_KEYS, differences, guard_hash, recipe_hash, refuse_other_recipe

EVERYTHING: dict[str, Any] = {
    "student": {"path": "s"},
    "teacher": {"path": "t"},
    "tools": {"python": {"fusion": {"url": "http://localhost:1"}}},
    "reward": {"judge": {"url": "http://localhost:1", "model": "m"}},
    "world": {},
    "environment": {"call": "module:name"},
    "launch": {"teacher": {}},
}


def full(**changes: Any) -> dict[str, Any]:
    """A resolved recipe with every section, `a__b=value` setting the key `a.b`."""
    content: dict[str, Any] = resolved(parse_recipe(EVERYTHING, "test"))
    for key, value in changes.items():
        *parents, last = key.split("__")
        section = content
        for name in parents:
            section = section[name]
        section[last] = value
    return content


def leaves(recipe: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for name, value in recipe.items():
        found |= {prefix + name} | (leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else set())
    return found


def test_recipe_hash_ignores_order_and_sees_values() -> None:
    assert recipe_hash({"a": 1, "b": {"c": 2, "d": 3}}) == recipe_hash({"b": {"d": 3, "c": 2}, "a": 1})
    seen = {recipe_hash({"a": value}) for value in (1, 2, "1", None, True, [1], math.inf, -math.inf, 1.5)}
    assert len(seen) == 9
    assert re.fullmatch(r"[0-9a-f]{64}", recipe_hash({}))
    assert recipe_hash({"a": (1, 2)}) == recipe_hash({"a": [1, 2]})  # as it reads back from YAML


@pytest.mark.parametrize("pattern", NEUTRAL_KEYS)
def test_every_neutral_key_is_a_key_of_the_recipe(pattern: str) -> None:
    """A key that was renamed or dropped would silently count again."""
    exact, below = pattern.removesuffix(".*"), pattern.endswith(".*")
    known = leaves(full()) | leaves({"teachers": {"NAME": full()["teacher"]}})
    assert any(key.startswith(f"{exact}.") if below else fnmatchcase(key, exact) for key in known)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"trackers": ["tensorboard"]},
        {"threads": 3},
        {"train__checkpoint_every": 7, "train__profile": True},
        {"tools__python__fusion__url": "http://elsewhere:2"},
        {"reward__judge__max_calls": 7, "reward__judge__cache": "elsewhere", "reward__call_workers": 1},
        {"world": None},
        {"world__train": 9},
        {"compare__lrs": [1.0]},
    ],
)
def test_neutral_keys_change_nothing(change: dict[str, Any]) -> None:
    assert guard_hash(full(**change)) == guard_hash(full())
    assert differences(full(), full(**change)) == []
    refuse_other_recipe(Path("run"), full(), full(**change))
    assert recipe_hash(full(**change)) != recipe_hash(full())


@pytest.mark.parametrize(
    ("change", "key", "mine", "theirs"),
    [
        ({"seed": 5}, "seed", "0", "5"),
        ({"optim__lr": 0.5}, "optim.lr", "1e-06", "0.5"),
        ({"train__steps": 7}, "train.steps", "100", "7"),
        ({"teacher": None}, "teacher", '{"path": "t", "dtype": "float32"', "null"),
        ({"tools__python__fusion": None}, "tools.python.fusion", '{"url": "http://localhost:1"', "null"),
        ({"reward__by_source": {"a": "code"}}, "reward.by_source.a", "null", '"code"'),
        ({"rollout__asynchronous": True, "name": "x"}, "rollout.asynchronous", "false", "true"),
    ],
)
def test_any_other_key_is_refused_with_both_values(change: dict[str, Any], key: str, mine: str, theirs: str) -> None:
    assert guard_hash(full(**change)) != guard_hash(full())
    assert [name for name, _, _ in differences(full(), full(**change))] == [key]
    with pytest.raises(SodError) as info:
        refuse_other_recipe(Path("runs/one"), full(), full(**change))
    message = str(info.value)
    assert "\n" not in message
    assert message.startswith(f"runs/one: was started with another recipe: {key} is {mine}")
    assert f" there and {theirs} here; " in message
    assert "start a new run" in message


def test_of_several_differences_the_others_are_counted() -> None:
    with pytest.raises(SodError, match=r"seed is 0 there and 5 here \(and 2 more keys\); "):
        refuse_other_recipe(Path("r"), full(), full(seed=5, optim__lr=0.5, train__steps=7))


def test_the_hash_covers_recorded_keys_only() -> None:
    """Of two versions, one of which knows a key more, each hashes what a run of its own recorded."""
    older = full()
    del older["rollout"]["asynchronous"]
    assert guard_hash(older) != guard_hash(full())  # so what a run recorded is hashed, never what it reads back as
    assert differences(full(), full(rollout__asynchronous=False)) == []
