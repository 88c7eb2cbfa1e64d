"""The user's own reward functions and the judge model of a recipe; needs no torch."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sod.recipe import CallSpec, JudgeSpec, Notice, Recipe, RewardSpec, written
from sod.rewards.function import OwnReward, own_reward
from sod.rewards.judge import Judge
from sod.usercode import load


def refuse_absent_functions(recipe: Recipe) -> None:
    """Import the functions that `reward.call` names; classes are not yet made. Raises SodError for what is none."""
    for one in recipe.reward.call:
        thing = load(one.call, Path.cwd(), "reward.call")
        if not inspect.isclass(thing):
            _own_reward(thing, one, recipe.reward)


def own_functions(recipe: Recipe) -> list[OwnReward]:
    """The functions that `reward.call` names, imported. Raises SodError saying which part of a path is wrong."""
    spec = recipe.reward
    return [_own_reward(load(one.call, Path.cwd(), "reward.call"), one, spec) for one in spec.call]


def _own_reward(thing: Any, named: CallSpec, spec: RewardSpec) -> OwnReward:
    where = f"reward.call={written(named.call)!r}"
    return own_reward(thing, named.part, where, named.weight, spec.call_seconds, spec.call_workers)


def own_rewards(recipe: Recipe, opened: ExitStack, notice: Notice) -> list[OwnReward]:
    """All that scores episodes beside or in place of verifiers; what it runs is closed with `opened`.

    `notice` hears what the judge has cost, when it is closed.
    Raises SodError for functions that cannot be had and for a judge that cannot be reached.
    """
    spec = recipe.reward.judge
    judged = [] if spec is None else [_judging(spec, recipe.seed, opened, notice)]
    return [*own_functions(recipe), *judged]


def _judging(spec: JudgeSpec, seed: int, opened: ExitStack, notice: Notice) -> OwnReward:
    judge = Judge(spec, seed)
    opened.callback(judge.close)
    judge.refuse_unreachable()
    opened.callback(lambda: notice(f"reward.judge: {judge.spent}"))
    return OwnReward("judge", judge, "reward.judge", spec.weight, False, judge.longest_seconds, spec.concurrency)
