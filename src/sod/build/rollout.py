"""The rollout of a recipe: engine, tools and reward around one model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from sod.chat.render import Chat
from sod.engines.base import Engine
from sod.engines.choice import choose_engine
from sod.engines.vllm import VllmEngine
from sod.engines.vllm_fleet import NOBODY, Keeper
from sod.engines.vllm_push import pusher_of
from sod.models.meter import Meter
from sod.models.settle import settle_of
from sod.recipe import Notice, Recipe
from sod.records import SodError
from sod.rollout.collect import Collector, RewardFunction, RolloutSchedule, World
from sod.rollout.episode import EpisodeLimits
from sod.tools.base import Tool


def student_engine(
    recipe: Recipe,
    chat: Chat,
    model: Any,
    meter: Meter | None = None,
    notice: Notice = warnings.warn,
    keeper: Keeper = NOBODY,
) -> Engine:
    """What samples the turns of the student that is being trained, as `engine` in the recipe says.

    `keeper` starts servers again that end. Raises SodError for a model that no engine samples with, and for servers
    that cannot.
    """
    if recipe.engine.kind == "torch":
        return local_engine(recipe, chat, model, meter, notice)
    if recipe.engine.urls is None:
        raise SodError("engine.kind=vllm: no server is named; set engine.urls")
    pusher = pusher_of(recipe.engine)
    rows, longest = recipe.rollout.max_rows, longest_text(recipe)
    return VllmEngine(model, chat.stop_ids, recipe.engine.urls, recipe.engine, pusher, longest, rows, notice, keeper)


def local_engine(recipe: Recipe, chat: Chat, model: Any, meter: Meter | None, notice: Notice) -> Engine:
    """What samples with a model of this process; `notice` hears where that is slower.

    Raises SodError for a model that no engine samples with.
    """
    spec = recipe.rollout
    return choose_engine(model, chat.stop_ids, longest_text(recipe), notice, spec.max_rows, meter, spec.cache_share)


def longest_text(recipe: Recipe) -> int:
    """Tokens of an episode at most."""
    return recipe.rollout.max_prompt_tokens + recipe.rollout.max_response_tokens


def make_collector(
    recipe: Recipe,
    chat: Chat,
    tools: Mapping[str, Tool],
    reward_function: RewardFunction,
    model: Any,
    meter: Meter | None = None,
    notice: Notice = warnings.warn,
    world: World | None = None,
    engine: Engine | None = None,
) -> Collector:
    """The rollout of the recipe with `model` as its student, in the environments of `world`, sampled by `engine`, or
    else in this process; `notice` hears where that is slower.

    Raises SodError for a model that no engine samples with.
    """
    spec = recipe.rollout
    return Collector(
        engine=local_engine(recipe, chat, model, meter, notice) if engine is None else engine,
        chat=chat,
        tools=tools,
        limits=EpisodeLimits(spec.max_turns, spec.max_turn_tokens, spec.max_response_tokens),
        reward_function=reward_function,
        seed=recipe.seed,
        fault_retries=spec.fault_retries,
        max_fault_rate=spec.max_fault_rate,
        fault_window=spec.fault_window,
        schedule=RolloutSchedule(spec.decode_chunk, spec.asynchronous),
        settle=settle_of([model]),
        world=world,
    )
