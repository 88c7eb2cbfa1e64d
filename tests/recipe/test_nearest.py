"""Suggestions: the near name, and nothing where nothing is near."""

from __future__ import annotations

from typing import Any

import pytest

from sod.recipe import apply_overrides, parse_recipe
from sod.recipe.nearest import nearest, nearest_key
from sod.records import SodError

KEYS = ["student", "student.path", "student.dtype", "optim", "optim.lr", "train", "train.steps", "sft.optim.lr"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("student.quantized", None),
        ("student.pth", "student.path"),
        ("student.Path", "student.path"),
        ("studnt", "student"),
        ("lr", "optim.lr"),
        ("train.lr", "optim.lr"),
        ("optim.learning_rate", "optim.lr"),
        ("train.max_steps", "train.steps"),
        ("train.lora_rank", None),
        ("banana", None),
        ("teacher.lora", None),
    ],
)
def test_nearest_key(given: str, meant: str | None) -> None:
    """A key of its own section, or one of nearly the same name elsewhere; a common section alone is no likeness."""
    assert nearest_key(given, KEYS) == meant


@pytest.mark.parametrize(
    ("given", "found"), [("sodd", ["sod"]), ("SOD", ["sod"]), ("ppo", []), ("", []), ("gpro", ["grpo"])]
)
def test_nearest(given: str, found: list[str]) -> None:
    assert nearest(given, ["sft", "grpo", "opd", "sod", "atod"]) == found


@pytest.mark.parametrize(
    ("override", "said", "unsaid"),
    [
        ("student.quant=8", "unknown key student.quant (value 8); there are path, dtype", "did you mean"),
        ("student.lora=8", "student.lora=8: input should be a mapping of keys", "did you mean"),
        ("optm.lr=1", "did you mean optim?", "there are"),
        ("rollout.temprature=1", "did you mean rollout.temperature?", "there are"),
        ("banana=1", "; there are name, seed,", "did you mean"),
        ("tools.pyhton={}", "did you mean tools.python?", "there are"),
        ("reward.verifier=mth", "'math', 'choice' or 'code'; did you mean math?", "there are"),
        ("reward.verifier=banana", "'math', 'choice' or 'code'", "did you mean"),
        ("trackers=[wandbb]", "did you mean wandb?", "there are"),
        ("trackers=[banana]", "'wandb', 'trackio' or 'tensorboard'", "did you mean"),
        ("chat.template=hermez", "did you mean hermes?", "there are"),
    ],
)
def test_what_a_recipe_says(override: str, said: str, unsaid: str) -> None:
    """Keys, verifiers, trackers and other choices, as the whole recipe is checked."""
    plain: dict[str, Any] = {"student": {"path": "m"}}
    with pytest.raises(SodError) as info:
        parse_recipe(apply_overrides(plain, [override], "r.yaml"), "r.yaml")
    assert said in str(info.value)
    assert unsaid not in str(info.value)
