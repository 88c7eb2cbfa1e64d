"""Evaluations as a recipe asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from sod.build.data import fitting_tasks, loaded_tasks, make_chat
from sod.build.fitness import refuse_unfit_player
from sod.build.job import final_model, prepare_torch
from sod.build.rollout import make_collector
from sod.build.tools import make_reward_function, make_tools
from sod.engines.base import Sampling
from sod.evaluation.runner import Evaluation, evaluate
from sod.models.load import load_model, load_tokenizer
from sod.recipe import Notice, Recipe
from sod.recipe.makers import refuse_unmade
from sod.records import Task
from sod.rollout.collect import Collector
from sod.rollout.health import refuse_unhealthy
from sod.seeds import derive
from sod.tasks.base import draw


def run_evaluation(
    recipe: Recipe,
    collector: Collector,
    tasks: Sequence[Task],
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate as `evaluation` in the recipe says, on a seeded subset of at most `evaluation.tasks` tasks."""
    spec = recipe.evaluation
    count = min(spec.tasks, len(tasks)) if spec.tasks else len(tasks)
    chosen = [tasks[i] for i in sorted(draw(count, len(tasks), derive(recipe.seed, "evaluation"), 1))]
    sampling = Sampling(spec.temperature, spec.top_p, spec.top_k)
    return evaluate(collector, chosen, spec.k, sampling, recipe.seed, on_progress=on_progress)


def evaluate_model(
    recipe: Recipe, data: str, notice: Notice, on_progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Load the recipe's student and evaluate it on the tasks in `data`."""
    refuse_unmade({"--data": data, "student.path": recipe.student.path})
    path = final_model(recipe.student.path, notice)
    tasks = loaded_tasks(data, "--data", recipe, notice)
    refuse_unfit_player(path, recipe)
    chat = make_chat(recipe, load_tokenizer(path))
    tasks = fitting_tasks(tasks, chat, recipe, notice)
    with ExitStack() as resources:
        tools, reward_function = make_tools(recipe, resources), make_reward_function(recipe, resources)
        refuse_unhealthy(tools)
        prepare_torch(recipe)
        model = load_model(path, recipe.student.dtype)
        collector = make_collector(recipe, chat, tools, reward_function, model)
        resources.callback(collector.engine.close)
        return replace(run_evaluation(recipe, collector, tasks, on_progress), tools=chat.tools)
