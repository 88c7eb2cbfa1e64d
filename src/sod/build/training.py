"""A training run from its recipe. Everything that can be wrong with the user's files is found here, cheapest first:
recipe, data, tokenizers, chat template, and only then weights.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import torch

from sod.build.alignment import check_coverage
from sod.build.alignment_rows import stand_ins
from sod.build.data import fitting_tasks, loaded_tasks, tell_unmet_sources
from sod.build.devices import Devices, find_devices
from sod.build.environment import first_look, make_world, refuse_unfit_world
from sod.build.evaluation import chosen_tasks, run_evaluation
from sod.build.fitness import refuse_missing_adapters, refuse_unfit, refuse_unfit_adapter, refuse_unfit_self_teacher
from sod.build.idle import idle_keys, refuse_idle, refuse_unread
from sod.build.job import (
    Job,
    Learner,
    Place,
    compile_where_wanted,
    find_place,
    located,
    make_learner,
    prepare_torch,
    saver,
    tell_other_device,
)
from sod.build.method import alignment_of, make_method, refuse_unmet
from sod.build.own_rewards import refuse_absent_functions
from sod.build.proving import Proof
from sod.build.rollout import make_collector
from sod.build.summary import Facts, data_facts, place_facts, train_facts
from sod.build.supervised import prepare_supervised
from sod.build.tools import make_reward_function, make_tools, stateful_tools
from sod.build.translation import chats_of, span_measure
from sod.chat.render import Chat
from sod.evaluation.hints import Hints
from sod.models.adapters import is_adapter, same_place
from sod.models.load import load_model
from sod.models.lora import without_adapter
from sod.models.memory import naming_phase
from sod.models.meter import Meter
from sod.models.settle import settle_of
from sod.models.support import Support
from sod.objective.methods import Method
from sod.objective.needs import SELF_TEACHER, Need
from sod.recipe import ModelSpec, Notice, Recipe
from sod.recipe.makers import refuse_unmade
from sod.records import SodError, Task
from sod.rollout.health import refuse_unhealthy
from sod.runlog import RunLog
from sod.tasks.privileged import privileged_prompt
from sod.tasks.sources import shown
from sod.teachers.base import Offer
from sod.teachers.local import LocalTeacher
from sod.teachers.translated import TranslatedTeacher, Translation
from sod.training.checkpoint import State, restore
from sod.training.loop import Plan, Trainee
from sod.training.step import PrivilegedPrompt, Run, train_step

WHOLE_MODEL = frozenset({Need.FULL, Need.TOP_K, Need.TEACHER_EPISODES}) | SELF_TEACHER
"""Needs that only a teacher in this process can meet."""


@final
@dataclass(frozen=True)
class Inputs:
    """What a run is made of, read and checked: no weights yet. The recipe's models are `located`.

    `translation` is there where the teacher has another tokenizer.
    """

    recipe: Recipe
    method: Method
    tasks: list[Task]
    held_out: list[Task]
    chat: Chat
    place: Place
    proof: Proof
    devices: Devices
    translation: Translation | None = None


def prepare_train(recipe: Recipe, directory: Path, resume: bool, notice: Notice) -> Job:
    """A run of the recipe's method in `directory`, new or resumed.

    Raises SodError before anything is loaded where possible.
    """
    method = make_method(recipe.method)
    if Need.DEMONSTRATIONS in method.needs:
        return prepare_supervised(recipe, directory, resume, notice, method)
    with ExitStack() as resources:  # nothing that was started outlives a failure here
        inputs = checked(recipe, method, directory, resume, notice, resources)
        run = opened(inputs, resources, notice)
        run.hints = Hints(recipe.reward, notice, compares=Need.GROUP in method.needs)
        kept = resources.pop_all()
    plan = Plan(
        steps=recipe.train.steps,
        checkpoint_every=recipe.train.checkpoint_every,
        keep_checkpoints=recipe.train.keep_checkpoints,
        recipe_hash=inputs.place.recipe_hash,
        trajectories_every=recipe.train.trajectories_every,
        evaluate_every=recipe.train.evaluate_every,
    )
    return Job(
        log=RunLog(inputs.place.directory),
        make=partial(inputs.proof.make, partial(inputs.place.make, recipe)),
        plan=plan,
        done=inputs.place.done,
        take_step=partial(train_step, run),
        trainee=Trainee(partial(run_state, run), saver(run.student, inputs.chat)),
        evaluate=partial(held_out_figures, run, inputs.held_out),
        meter=run.meter,
        models=_models(run),
        resources=kept,
        facts=facts_of(inputs, run, plan),
    )


def facts_of(inputs: Inputs, run: Run, plan: Plan) -> Facts:
    """What the run is made of, in words."""
    recipe, models = inputs.recipe, _models(run)
    return [
        *train_facts(recipe, inputs.method, inputs.chat, run.student, models.get("teacher"), run.rollout.tools),
        *data_facts(len(inputs.tasks), len(inputs.held_out), recipe),
        *place_facts(plan, inputs.place.done, inputs.place.directory),
    ]


def _models(run: Run) -> dict[str, Any]:
    """The models in this process, by role."""
    scorer = run.teacher.inner if isinstance(run.teacher, TranslatedTeacher) else run.teacher
    teacher = {"teacher": scorer.model} if isinstance(scorer, LocalTeacher) else {}
    return {"student": run.student, **teacher}


def checked(
    recipe: Recipe, method: Method, directory: Path, resume: bool, notice: Notice, resources: ExitStack
) -> Inputs:
    """Everything that a run reads before it loads weights. Raises SodError for what is wrong, cheapest first.

    The lock of the run's directory is left to `resources`.
    """
    if Need.TEACHER in method.needs and recipe.teacher is None and not method.needs & SELF_TEACHER:
        raise SodError(f"method {method.name} needs a teacher; set teacher.path")
    offer = LocalTeacher.offers
    refuse_unmet(method, offer, recipe.rollout.temperature, "a local teacher")
    refuse_missing_adapters(recipe)
    _refuse_unmade(recipe, method)
    refuse_idle(idle_keys(recipe, method), recipe, resume, notice)
    _refuse_stateful(method, recipe)
    if recipe.environment is not None and method.context is not None:
        raise SodError(f"method {method.name} adds to the prompts of rows, and environments have prompts of their own")
    refuse_absent_functions(recipe)
    devices = find_devices(recipe, notice)
    tasks = loaded_tasks(recipe.data.train, "data.train", recipe, notice)
    held_out: list[Task] = []
    if recipe.train.evaluate_every:
        held_out = loaded_tasks(recipe.data.validation, "data.validation", recipe, notice)
    if method.context is not None:
        for task in tasks:
            privileged_prompt(task, method.context)
    tell_unmet_sources(recipe, [*tasks, *held_out], notice)
    place = find_place(recipe, directory, resume, "train", resources, notice)
    recipe = located(recipe, notice)
    refuse_unfit(recipe, method)
    tell_other_device(place.resume, devices.student, notice)
    refuse_unfit_adapter(recipe)
    began = first_look(recipe, tasks)
    theirs = () if began is None else began.tools
    chat, translation = chats_of(recipe, method, _teacher_path(recipe, method), offer, notice, theirs)
    if translation is not None:
        method = _aligned(recipe, method, offer, resume, notice)
    refuse_unfit_world(recipe, tasks, began, chat)
    refuse_unread(recipe, chat, resume, notice)
    tasks = fitting_tasks(tasks, chat, recipe, notice)
    if translation is not None and recipe.environment is None:  # a world's prompts are known as its episodes begin
        check_coverage(recipe, translation, list(enumerate(stand_ins(tasks, chat.tools, recipe))))
    refuse_unfit_self_teacher(recipe, method, tasks, chat)
    held_out = fitting_tasks(held_out, chat, recipe, notice) if held_out else held_out
    proof = Proof(place.directory, resumed=place.log is not None)
    tasks = proof.tasks(tasks, "data.train", shown(recipe.data.train or ()), recipe, notice)
    if held_out:
        chosen = chosen_tasks(recipe, held_out)
        held_out = proof.tasks(chosen, "data.validation", shown(recipe.data.validation or ()), recipe, notice)
    return Inputs(recipe, method, tasks, held_out, chat, place, proof, devices, translation)


def opened(inputs: Inputs, resources: ExitStack, notice: Notice = warnings.warn) -> Run:
    """The live objects of a run; what must be closed after it is left to `resources`.

    Raises SodError for tools that do not work, and for weights that cannot be loaded.
    """
    recipe, method, chat, place = inputs.recipe, inputs.method, inputs.chat, inputs.place
    judged = [*inputs.tasks, *inputs.held_out]
    tools = make_tools(recipe, resources, chat.tokenizer, notice)
    world = make_world(recipe, resources)
    reward_function = make_reward_function(recipe, resources, judged, notice)
    refuse_unhealthy(tools)
    prepare_torch(recipe, inputs.devices, resumed=place.resume is not None)
    support = Support.of(chat.tokenizer)
    devices = inputs.devices
    learner = make_learner(recipe, recipe.optim, recipe.train.steps, support, place.resume, devices.student, notice)
    meter = Meter(recipe.train.profile)
    translation = inputs.translation
    theirs = support if translation is None else Support.of(translation.teacher.chat.tokenizer)
    teacher = make_teacher(recipe, method, theirs, learner, devices.teacher, meter, notice)
    if teacher is not None and place.resume is not None:
        restore(place.resume, "teacher", teacher.load)
    run = Run(
        recipe=recipe,
        tasks=inputs.tasks,
        student=learner.model,
        teacher=teacher if teacher is None or translation is None else TranslatedTeacher(teacher, translation),
        rollout=make_collector(recipe, chat, tools, reward_function, learner.model, meter, notice, world),
        method=method,
        optimizer=learner.optimizer,
        dumps=place.directory / "dumps",
        model_teacher=teacher if method.needs & WHOLE_MODEL else None,
        privileged=_privileged(method, chat),
        meter=meter,
        tools=chat.tools,
    )
    if translation is not None and method.alignment is not None and method.over_spans:
        run.span_measure = span_measure(method.alignment, translation, devices.student)
    meter.settle = run.settle = settle_of(_models(run).values())
    resources.callback(run.rollout.engine.close)
    if teacher is not None and Need.TEACHER_EPISODES in method.needs:
        run.expert = make_collector(recipe, chat, tools, reward_function, teacher.model, None, notice, world)
        resources.callback(run.expert.engine.close)
    return run


def run_state(run: Run) -> State:
    """What a checkpoint keeps of a run beside the model, by namespace."""
    state = {"optimizer": run.optimizer.state()}
    if run.teacher is not None and (teacher := run.teacher.state()) is not None:
        state["teacher"] = teacher
    return state


def held_out_figures(run: Run, held_out: list[Task], step: int) -> dict[str, float]:
    """The figures of an evaluation after step `step`, as metrics."""
    with naming_phase("an evaluation"):
        result = run_evaluation(run.recipe, run.rollout, held_out)
    return {f"eval/{name}": estimate.value for name, estimate in result.estimates.items()}


def _refuse_unmade(recipe: Recipe, method: Method) -> None:
    """Raises SodError where what a shipped recipe reads has not been made yet, naming the commands that make it."""
    paths: dict[str, str | list[str] | None] = {"data.train": recipe.data.train, "student.path": recipe.student.path}
    if recipe.teacher is not None and not method.needs & SELF_TEACHER:
        paths["teacher.path"] = recipe.teacher.path
    if recipe.train.evaluate_every:
        paths["data.validation"] = recipe.data.validation
    refuse_unmade(paths)


def _aligned(recipe: Recipe, method: Method, offer: Offer, resume: bool, notice: Notice) -> Method:
    """The method over a teacher of another tokenizer. Keys that do nothing with its estimator alone are told."""
    found = replace(method, alignment=alignment_of(recipe.method, offer))
    before = idle_keys(recipe, method)
    fresh = [replace(idle, told=True) for idle in idle_keys(recipe, found) if idle not in before]
    refuse_idle(fresh, recipe, resume, notice)
    return found


def _refuse_stateful(method: Method, recipe: Recipe) -> None:
    """Raises SodError where the method's episodes and a tool that keeps state do not go together."""
    stateful = stateful_tools(recipe)
    reason = method.episodes.refusal(stateful)
    if reason is not None:
        own = stateful[0] in recipe.tools.own
        fix = "name a function in tools.{}.call, not a class" if own else "set tools.{}.stateful=false"
        raise SodError(f"method {method.name} {reason}; {fix.format(stateful[0])}")


def _privileged(method: Method, chat: Chat) -> PrivilegedPrompt | None:
    context = method.context
    if context is None:
        return None
    return lambda task: chat.prompt_ids(privileged_prompt(task, context))


def _teacher_path(recipe: Recipe, method: Method) -> str | None:
    """Where the teacher is loaded from; None without one, and for the student itself."""
    return None if recipe.teacher is None or method.needs & SELF_TEACHER else recipe.teacher.path


def make_teacher(
    recipe: Recipe,
    method: Method,
    support: Support,
    learner: Learner,
    device: torch.device,
    meter: Meter,
    notice: Notice,
) -> LocalTeacher | None:
    """The recipe's teacher on its device; for a self-teacher, the student as it was at the start.

    A student with an adapter and a teacher that is its base model, or it itself, are over the same weights in memory.
    """
    spec = recipe.student.whole if method.needs & SELF_TEACHER else recipe.teacher
    if spec is None:
        return None
    weights = _shared(recipe, spec, method, learner, device)
    with naming_phase("loading the teacher"):
        if weights is None:
            weights = load_model(spec.path, spec.dtype, support, device)
        compile_where_wanted(weights, recipe.optim, notice)
    return LocalTeacher(weights, recipe.optim.micro_batch_tokens, recipe.rollout.temperature, meter)


def _shared(recipe: Recipe, spec: ModelSpec, method: Method, learner: Learner, device: torch.device) -> Any | None:
    """The teacher that `spec` means over the weights of the learner's base model; None where they are not the same.

    A new adapter changes nothing, so it is left out of a teacher that never follows the student.
    """
    student = recipe.student
    if learner.start is None or spec.dtype != student.dtype or learner.model.device != device:
        return None
    if same_place(spec.path, student.path):
        plain = method.teacher_rule.kind == "frozen" and not is_adapter(student.path)
        return without_adapter(learner.start) if plain else learner.start
    return without_adapter(learner.start) if same_place(spec.path, learner.model.name_or_path) else None
