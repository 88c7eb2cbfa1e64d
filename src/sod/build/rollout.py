"""The rollout of a recipe: engine, tools and reward around one model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from sod.chat.render import Chat
from sod.engines.choice import choose_engine
from sod.models.meter import Meter
from sod.models.settle import settle_of
from sod.recipe import Notice, Recipe
from sod.rollout.collect import Collector, RewardFunction, RolloutSchedule, World
from sod.rollout.episode import EpisodeLimits
from sod.tools.base import Tool


def make_collector(
    recipe: Recipe,
    chat: Chat,
    tools: Mapping[str, Tool],
    reward_function: RewardFunction,
    model: Any,
    meter: Meter | None = None,
    notice: Notice = warnings.warn,
    world: World | None = None,
) -> Collector:
    """The rollout of the recipe with `model` as its student, in the environments of `world`; `notice` hears where it is
    sampled more slowly.

    Raises SodError for a model that no engine samples with.
    """
    spec = recipe.rollout
    longest = spec.max_prompt_tokens + spec.max_response_tokens
    engine = choose_engine(model, chat.stop_ids, longest, notice, spec.max_rows, meter, spec.cache_share)
    return Collector(
        engine=engine,
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
