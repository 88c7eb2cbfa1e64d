"""What the episodes of a training run are played with: tools, a world, rewards, servers that the run starts, an engine.

Of several ranks rank 0 alone has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def make_rollout(
    recipe: Recipe,
    chat: Chat,
    stage: Stage | None,
    learner: Learner,
    meter: Meter,
    resources: ExitStack,
    notice: Notice,
) -> tuple[Collector, BesideEngine | None]:
    """The rollout of this process, and its engine where that plays while the student learns.

    With several ranks all push weights to it, and rank 0, which alone has a stage, plays. Raises SodError for a model
    that no engine samples with, and for servers that cannot.
    """
    own, beside = None, None
    if stage is not None:
        engine = _engine(recipe, chat, learner, meter, notice)
        resources.callback(engine.close)
        beside = engine if isinstance(engine, BesideEngine) else None
        tools, judge, world = stage.tools, stage.reward_function, stage.world
        own = make_collector(recipe, chat, tools, judge, learner.sampled, meter, notice, world, engine)
        if learner.ranks.count == 1:
            return own, beside
    return over_ranks(own, chat, recipe, learner.whole, learner.ranks), beside


def _engine(recipe: Recipe, chat: Chat, learner: Learner, meter: Meter, notice: Notice) -> Engine:
    """What samples the student's turns: with the weights that learn, or with earlier ones while they do.

    What is sampled beside the learning is not metered: a meter counts one phase at a time.
    """
    if not recipe.rollout.max_staleness:
        return student_engine(recipe, chat, learner.sampled, meter, notice)
    return BesideEngine(student_engine(recipe, chat, learner.sampled, None, notice), learner.playing)
