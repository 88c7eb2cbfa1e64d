"""What the episodes of a training run are played with: tools, a world, rewards, servers that the run starts, an engine.

Of several ranks rank 0 alone has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import final

from sod.build.environment import make_world
from sod.build.job import Learner
from sod.build.ranks import over_ranks
from sod.build.rollout import make_collector, student_engine
from sod.build.servers import Servers
from sod.build.tools import make_reward_function, make_tools
from sod.chat.render import Chat
from sod.engines.base import Engine
from sod.engines.beside import BesideEngine
from sod.engines.vllm import VllmEngine
from sod.launch.fleet import Fleet
from sod.models.meter import Meter
from sod.recipe import Notice, Recipe
from sod.records import Task
from sod.rollout.collect import Collector, RewardFunction, World
from sod.rollout.health import refuse_unhealthy
from sod.tools.base import Tool


@final
@dataclass(frozen=True)
class Stage:
    """What episodes are played with beside a model, and the servers that were started."""

    tools: Mapping[str, Tool]
    world: World | None
    reward_function: RewardFunction
    fleet: Fleet


def make_stage(
    recipe: Recipe,
    chat: Chat,
    judged: Sequence[Task],
    servers: Servers,
    directory: Path,
    resources: ExitStack,
    notice: Notice,
) -> Stage:
    """The stage of a run in `directory`; what must be closed after it is left to `resources`.

    The servers answer later. Raises SodError for tools that do not work and servers that cannot be started.
    """
    fleet = servers.begin(recipe, directory, resources, notice)
    tools = make_tools(recipe, resources, chat.tokenizer, notice)
    world = make_world(recipe, resources)
    reward_function = make_reward_function(recipe, resources, judged, notice)
    refuse_unhealthy(tools)
    return Stage(tools, world, reward_function, fleet)


@final
@dataclass(frozen=True)
class Playing:
    """The rollout of a process; its engine again where that plays while the student learns, and how often servers that
    it samples with have failed, where it has any.
    """

    collector: Collector
    beside: BesideEngine | None = None
    deaths: Callable[[], int] | None = None


def make_rollout(
    recipe: Recipe,
    chat: Chat,
    stage: Stage | None,
    learner: Learner,
    meter: Meter,
    resources: ExitStack,
    notice: Notice,
) -> Playing:
    """The rollout of this process.

    With several ranks all push weights to it, and rank 0, which alone has a stage, plays. Raises SodError for a model
    that no engine samples with, and for servers that cannot.
    """
    ranks = learner.ranks
    if stage is None:
        return Playing(over_ranks(None, chat, recipe, learner.whole, ranks))
    # What is sampled beside the learning is not metered: a meter counts one phase at a time.
    metered = None if recipe.rollout.max_staleness else meter
    inner = student_engine(recipe, chat, learner.sampled, metered, notice, stage.fleet)
    beside = BesideEngine(inner, learner.playing) if recipe.rollout.max_staleness else None
    engine: Engine = inner if beside is None else beside
    resources.callback(engine.close)
    tools, judge, world = stage.tools, stage.reward_function, stage.world
    own = make_collector(recipe, chat, tools, judge, learner.sampled, meter, notice, world, engine)
    collector = own if ranks.count == 1 else over_ranks(own, chat, recipe, learner.whole, ranks)
    return Playing(collector, beside, (lambda: inner.deaths) if isinstance(inner, VllmEngine) else None)
