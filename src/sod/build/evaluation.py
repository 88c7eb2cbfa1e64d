"""Evaluations as a recipe asks for them: what is played, found and checked; and the model that plays it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, final

from sod.build.data import fitting_tasks, loaded_tasks
from sod.build.devices import Devices, find_devices
from sod.build.environment import first_look, make_world, refuse_unfit_world
from sod.build.fitness import refuse_unfit_player
from sod.build.job import final_model, prepare_torch
from sod.build.own_rewards import refuse_absent_functions
from sod.build.proving import proven_tasks
from sod.build.rollout import make_collector, student_engine
from sod.build.tools import make_reward_function, make_tools
from sod.build.vocabulary import chat_of
from sod.chat.render import Chat
from sod.engines.base import Sampling
from sod.engines.vllm_wire import refuse_other_temperature
from sod.evaluation.breakdown import keys_to_break_down_by
from sod.evaluation.hints import Hints
from sod.evaluation.runner import Evaluation, evaluate
from sod.models.load import load_model
from sod.models.memory import naming_phase
from sod.models.support import Support
from sod.recipe import Notice, Recipe
from sod.recipe.makers import refuse_unmade
from sod.records import Task
from sod.rollout.collect import Collector, RewardFunction
from sod.rollout.health import refuse_unhealthy
from sod.seeds import derive
from sod.tasks.base import draw
from sod.tasks.sources import Source, shown

ENVIRONMENT_TASKS = "the environment's tasks"
MakeReward = Callable[[Recipe, ExitStack, Sequence[Task], Notice], RewardFunction]


@final
@dataclass(frozen=True)
class Prepared:
    """What an evaluation plays, read and checked: no weights yet.

    `path` is the model's own directory or hub id, `chat` renders for it with the tools of the world (`theirs`) among
    them. `tasks` are some `of` those that there are. `by` are the keys that figures are broken down by. `make_reward`
    makes what judges the episodes, `load` gives the student, and `said` is what the result says beside its figures.
    """

    recipe: Recipe
    path: str
    tasks: Sequence[Task]
    chat: Chat
    theirs: Sequence[Mapping[str, Any]] = ()
    by: Sequence[str] = ()
    make_reward: MakeReward = make_reward_function
    load: LoadStudent = field(default_factory=lambda: load_student)
    said: Mapping[str, Any] = field(default_factory=dict)
    of: int = 0

    @property
    def k(self) -> int:
        """Samples of a task."""
        return self.recipe.evaluation.k

    @property
    def sampling(self) -> Sampling:
        """How its turns are sampled."""
        return sampling_of(self.recipe)


LoadStudent = Callable[[Prepared, Devices], Any]


def load_student(prepared: Prepared, devices: Devices) -> Any:
    """The weights of what plays. Raises SodError where they cannot be loaded."""
    with naming_phase("loading the student"):
        support = Support.of(prepared.chat.tokenizer)
        return load_model(prepared.path, prepared.recipe.student.dtype, support, devices.student)


def sampling_of(recipe: Recipe) -> Sampling:
    """How the recipe's evaluations sample."""
    spec = recipe.evaluation
    return Sampling(spec.temperature, spec.top_p, spec.top_k)


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
    by: Sequence[str] = (),
) -> Evaluation:
    """Sample as `evaluation` in the recipe says, on all of these tasks: `chosen_tasks` are those that it asks for."""
    sampling = sampling_of(recipe)
    return evaluate(collector, tasks, recipe.evaluation.k, sampling, on_progress=on_progress, hints=hints, by=by)


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
    prepared = prepare_evaluation(recipe, data, notice, key)
    hints = Hints(recipe.reward, notice, compares=False)
    with player(prepared, notice) as collector, naming_phase("sampling"):
        result = run_evaluation(recipe, collector, prepared.tasks, on_progress, hints, prepared.by)
    return replace(result, tools=prepared.chat.tools)


def prepare_evaluation(
    recipe: Recipe, data: Source | None, notice: Notice, key: str = "--data", by: Sequence[str] = ()
) -> Prepared:
    """Everything that an evaluation on `data` reads before weights, cheapest first; `by` are keys of tasks.

    Raises SodError for what is wrong with it.
    """
    refuse_unmade({key: data or None, "student.path": recipe.student.path})
    refuse_absent_functions(recipe)
    find_devices(recipe.without_teachers(), notice)
    if recipe.engine.kind == "vllm" and not is_served(recipe):
        notice("engine.kind=vllm: this process samples, as engine.urls names no servers and an evaluation starts none")
    if is_served(recipe):
        refuse_other_temperature(recipe.evaluation.temperature, "evaluation.temperature")
    path = final_model(recipe.student.path, notice)
    tasks = loaded_tasks(data or None, key, recipe, notice)
    keys_to_break_down_by(tasks, by)
    refuse_unfit_player(path, recipe)
    began = first_look(recipe, tasks)
    theirs = () if began is None else began.tools
    chat = chat_of(recipe, path, notice, theirs)
    refuse_unfit_world(recipe, tasks, began, chat)
    tasks = fitting_tasks(tasks, chat, recipe, notice)
    source = shown(data) if data else ENVIRONMENT_TASKS
    chosen, _ = proven_tasks(chosen_tasks(recipe, tasks), source, recipe, notice)
    return Prepared(recipe, path, chosen, chat, theirs, keys_to_break_down_by(chosen, by), of=len(tasks))


@contextmanager
def player(prepared: Prepared, notice: Notice) -> Iterator[Collector]:
    """The model, its tools and what judges it, open while the context lasts.

    Turns are sampled in this process, or by the servers that `engine.urls` names. Raises SodError for tools that do not
    work, for weights that cannot be loaded and for servers that cannot sample.
    """
    recipe, chat = prepared.recipe, prepared.chat
    devices = find_devices(recipe.without_teachers(), unheard)
    with ExitStack() as resources:
        tools = make_tools(recipe, resources, chat.tokenizer, notice)
        reward_function = prepared.make_reward(recipe, resources, prepared.tasks, notice)
        refuse_unhealthy(tools)
        prepare_torch(recipe, devices)
        model = prepared.load(prepared, devices)
        engine = student_engine(recipe, chat, model, None, notice) if is_served(recipe) else None
        collector = make_collector(
            recipe,
            chat,
            tools,
            reward_function,
            model,
            notice=notice,
            world=make_world(recipe, resources),
            engine=engine,
        )
        resources.callback(collector.engine.close)
        yield collector


def is_served(recipe: Recipe) -> bool:
    """Whether servers that run already sample in an evaluation; one starts none by itself."""
    return recipe.engine.kind == "vllm" and recipe.engine.urls is not None


def unheard(text: str) -> None:
    """A notice that was given before."""
