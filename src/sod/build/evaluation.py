"""Evaluations as a recipe asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from sod.build.data import fitting_tasks, loaded_tasks
from sod.build.devices import find_devices
from sod.build.environment import first_look, make_world, refuse_unfit_world
from sod.build.fitness import refuse_unfit_player
from sod.build.job import final_model, prepare_torch
from sod.build.own_rewards import refuse_absent_functions
from sod.build.proving import proven_tasks
from sod.build.rollout import make_collector
from sod.build.tools import make_reward_function, make_tools
from sod.build.vocabulary import chat_of
from sod.engines.base import Sampling
from sod.evaluation.hints import Hints
from sod.evaluation.runner import Evaluation, evaluate
from sod.models.load import load_model
from sod.models.memory import naming_phase
from sod.models.support import Support
from sod.recipe import Notice, Recipe
from sod.recipe.makers import refuse_unmade
from sod.records import Task
from sod.rollout.collect import Collector
from sod.rollout.health import refuse_unhealthy
from sod.seeds import derive
from sod.tasks.base import draw
from sod.tasks.sources import Source, shown

ENVIRONMENT_TASKS = "the environment's tasks"


def chosen_tasks(recipe: Recipe, tasks: Sequence[Task]) -> list[Task]:
    """The seeded subset that is evaluated; all of them where `evaluation.tasks` is 0 or beyond their number."""
    spec = recipe.evaluation
    count = min(spec.tasks, len(tasks)) if spec.tasks else len(tasks)
    return [tasks[i] for i in sorted(draw(count, len(tasks), derive(recipe.seed, "evaluation"), 1))]


def run_evaluation(
    recipe: Recipe,
    collector: Collector,
    tasks: Sequence[Task],
    on_progress: Callable[[int, int], None] | None = None,
    hints: Hints | None = None,
) -> Evaluation:
    """Sample as `evaluation` in the recipe says, on all of these tasks: `chosen_tasks` are those that it asks for."""
    spec = recipe.evaluation
    sampling = Sampling(spec.temperature, spec.top_p, spec.top_k)
    return evaluate(collector, tasks, spec.k, sampling, on_progress=on_progress, hints=hints)


def evaluate_model(
    recipe: Recipe,
    data: Source | None,
    notice: Notice,
    on_progress: Callable[[int, int], None] | None = None,
    key: str = "--data",
) -> Evaluation:
    """Load the recipe's student and evaluate it on the tasks in `data`, `evaluation.tasks` of them.

    `key` is what messages call the data.
    """
    refuse_unmade({key: data or None, "student.path": recipe.student.path})
    refuse_absent_functions(recipe)
    devices = find_devices(recipe.without_teachers(), notice)
    path = final_model(recipe.student.path, notice)
    tasks = loaded_tasks(data or None, key, recipe, notice)
    refuse_unfit_player(path, recipe)
    began = first_look(recipe, tasks)
    chat = chat_of(recipe, path, None, notice, () if began is None else began.tools)
    refuse_unfit_world(recipe, tasks, began, chat)
    tasks = fitting_tasks(tasks, chat, recipe, notice)
    source = shown(data) if data else ENVIRONMENT_TASKS
    tasks, _ = proven_tasks(chosen_tasks(recipe, tasks), source, recipe, notice)
    with ExitStack() as resources:
        tools = make_tools(recipe, resources, chat.tokenizer, notice)
        reward_function = make_reward_function(recipe, resources, tasks, notice)
        refuse_unhealthy(tools)
        prepare_torch(recipe, devices)
        with naming_phase("loading the student"):
            model = load_model(path, recipe.student.dtype, Support.of(chat.tokenizer), devices.student)
        collector = make_collector(
            recipe, chat, tools, reward_function, model, notice=notice, world=make_world(recipe, resources)
        )
        resources.callback(collector.engine.close)
        hints = Hints(recipe.reward, notice, compares=False)
        with naming_phase("sampling"):
            return replace(run_evaluation(recipe, collector, tasks, on_progress, hints), tools=chat.tools)
