"""A training run from its recipe. Everything that can be wrong with the user's files is found here, cheapest first:
recipe, data, tokenizers, chat template, and only then weights.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sod.build.data import fitting_tasks, loaded_tasks, make_chat
from sod.build.evaluation import run_evaluation
from sod.build.job import Job, Notice, final_model, place, prepare_torch, saver, trainee
from sod.build.method import make_method, refuse_unmet
from sod.build.rollout import make_collector
from sod.build.supervised import prepare_supervised
from sod.build.tools import make_reward_function, make_tools
from sod.chat.render import Chat
from sod.models.load import check_compatible, load_model, load_tokenizer
from sod.models.meter import Meter
from sod.objective.methods import Method
from sod.recipe import Recipe, resolved
from sod.records import SodError, Task
from sod.rollout.health import refuse_unhealthy
from sod.runlog import RunLog
from sod.tasks.privileged import privileged_prompt
from sod.teachers.local import LocalTeacher
from sod.training.loop import Listener, Plan, Trainee, run_steps
from sod.training.step import PrivilegedPrompt, Run, train_step


def prepare_train(recipe: Recipe, directory: Path, resume: bool, notice: Notice) -> Job:
    """A run of the recipe's method in `directory`, new or resumed.

    Raises SodError before anything is loaded where possible.
    """
    method = make_method(recipe.method)
    if method.supervised:
        return prepare_supervised(recipe, directory, resume, notice, method)
    _refuse_unfit(method, recipe)
    tasks = loaded_tasks(recipe.data.train, "data.train", recipe, notice)
    held_out: list[Task] = []
    if recipe.train.evaluate_every:
        held_out = loaded_tasks(recipe.data.validation, "data.validation", recipe, notice)
    if method.context is not None:
        for task in tasks:
            privileged_prompt(task, method.context)
    start_path, log, hashed = place(recipe, directory, resume, "train")
    chat = make_chat(recipe, _common_tokenizer(recipe, method))
    tasks = fitting_tasks(tasks, chat, recipe, notice)
    held_out = fitting_tasks(held_out, chat, recipe, notice) if held_out else held_out
    plan = Plan(
        steps=recipe.train.steps,
        checkpoint_every=recipe.train.checkpoint_every,
        keep_checkpoints=recipe.train.keep_checkpoints,
        recipe_hash=hashed,
        trajectories_every=recipe.train.trajectories_every,
        evaluate_every=recipe.train.evaluate_every,
    )
    with ExitStack() as opened:  # nothing that was started outlives a failure here
        tools, reward_function = make_tools(recipe, opened), make_reward_function(recipe, opened)
        refuse_unhealthy(tools)
        prepare_torch(recipe)
        student, optimizer, done = trainee(recipe, recipe.optim, recipe.train.steps, start_path)
        meter = Meter(recipe.train.profile)
        collector = make_collector(recipe, chat, tools, reward_function, student, meter)
        teacher = _make_teacher(recipe, method, meter)
        if teacher is not None and start_path is not None:
            teacher.load(start_path[2].get("teacher"))
        kept = log or RunLog.create(directory, resolved(recipe), recipe.seed)
        close = opened.pop_all().close
    run = Run(recipe, tasks, student, teacher, collector, method, optimizer, directory / "dumps", meter=meter)
    run.tools = chat.tools
    run.privileged = _privileged(method, chat)
    if teacher is not None and method.curriculum is not None and method.curriculum.kind == "b2f":
        run.expert = make_collector(recipe, chat, tools, reward_function, teacher.model)

    def held_out_figures(step: int) -> dict[str, float]:
        result = run_evaluation(recipe, collector, held_out)
        return {f"eval/{name}": estimate.value for name, estimate in result.estimates.items()}

    def state() -> dict[str, Any]:
        return optimizer.state() | {"teacher": teacher.state() if teacher is not None else None}

    def start(listeners: list[Listener]) -> None:
        trainee = Trainee(state, saver(student, chat))
        run_steps(plan, kept, done, lambda step: train_step(run, step), trainee, listeners, held_out_figures)
        if meter.on:
            kept.write_profile(meter.rows())

    return Job(kept, plan, done, start, close)


def _refuse_unfit(method: Method, recipe: Recipe) -> None:
    """Raises SodError where the recipe lacks what the method needs."""
    python = recipe.tools.python
    if method.needs_teacher and recipe.teacher is None and method.context is None:
        raise SodError(f"method {method.name} needs a teacher; set teacher.path")
    refuse_unmet(method, LocalTeacher.offers, "a local teacher")
    if method.curriculum is not None and method.curriculum.kind == "b2f" and python is not None and python.stateful:
        raise SodError(
            f"method {method.name} replays the teacher's turns, but not what they left in a tool; "
            "set tools.python.stateful=false"
        )


def _privileged(method: Method, chat: Chat) -> PrivilegedPrompt | None:
    context = method.context
    if context is None:
        return None
    return lambda task: chat.prompt_ids(privileged_prompt(task, context))


def _common_tokenizer(recipe: Recipe, method: Method) -> Any:
    """The student's tokenizer. Raises SodError where the teacher's is another."""
    tokenizer = load_tokenizer(final_model(recipe.student.path))
    if recipe.teacher is not None and method.context is None:
        theirs = load_tokenizer(final_model(recipe.teacher.path))
        check_compatible(tokenizer, theirs, recipe.student.path, recipe.teacher.path)
    return tokenizer


def _make_teacher(recipe: Recipe, method: Method, meter: Meter) -> LocalTeacher | None:
    """The recipe's teacher; a copy of the student as it was at the start where the method has privileged context."""
    spec = recipe.teacher if method.context is None else recipe.student
    if spec is None:
        return None
    weights = load_model(final_model(spec.path), spec.dtype)
    return LocalTeacher(weights, recipe.optim.micro_batch_tokens, recipe.rollout.temperature, meter)
