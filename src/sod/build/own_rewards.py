"""The user's own reward functions and the judge model of a recipe; needs no torch."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from sod.recipe import JudgeSpec, Recipe, written
from sod.rewards.function import OwnReward, own_reward
from sod.rewards.judge import Judge
from sod.usercode import load


def own_functions(recipe: Recipe) -> list[OwnReward]:
    """The functions that `reward.call` names, imported. Raises SodError saying which part of a path is wrong."""
    spec = recipe.reward
    return [
        own_reward(
            load(one.call, Path.cwd(), "reward.call"),
            one.part,
            f"reward.call={written(one.call)!r}",
            one.weight,
            spec.call_seconds,
            spec.call_workers,
        )
        for one in spec.call
    ]


def own_rewards(recipe: Recipe, opened: ExitStack) -> list[OwnReward]:
    """All that scores episodes beside or in place of verifiers; what it runs is closed with `opened`."""
    spec = recipe.reward.judge
    judged = [] if spec is None else [_judging(spec, recipe.seed, opened)]
    return [*own_functions(recipe), *judged]


def _judging(spec: JudgeSpec, seed: int, opened: ExitStack) -> OwnReward:
    judge = Judge(spec, seed)
    opened.callback(judge.close)
    return OwnReward("judge", judge, "reward.judge", spec.weight, False, judge.longest_seconds, spec.concurrency)
