"""A training run from its recipe. Everything that can be wrong with the user's files is found here, cheapest first:
recipe, data, tokenizers, chat template, and only then weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, final

from sod.build.alignment import check_coverage
from sod.build.alignment_rows import stand_ins
from sod.build.beside import play_ahead, refuse_unfit_staleness
from sod.build.data import fitting_tasks, loaded_tasks, tell_unmet_sources
from sod.build.devices import Devices, find_devices
from sod.build.environment import first_look, refuse_unfit_world
from sod.build.fitness import refuse_missing_adapters, refuse_unfit, refuse_unfit_adapter, refuse_unfit_self_teacher
from sod.build.held_out import all_of, held_out_figures, loaded_sets, proven_set
from sod.build.idle import idle_keys, refuse_idle, refuse_unread
from sod.build.job import (
    Job,
    Place,
    find_place,
    located,
    make_learner,
    prepare_torch,
    tell_other_device,
)
from sod.build.method import alignment_of, make_method
from sod.build.own_rewards import refuse_absent_functions
from sod.build.proving import Proof
from sod.build.ranks import Brief, heard, own_card, refuse_one_process, unheard
from sod.build.rollout import make_collector
from sod.build.servers import LOGS, Servers, find_servers, refuse_unsampled
from sod.build.stage import Stage, make_rollout, make_stage
from sod.build.summary import Facts, data_facts, place_facts, server_facts, train_facts
from sod.build.supervised import prepare_supervised
from sod.build.teachers import (
    Stored,
    asked_by_first,
    best_offer,
    longest_read_by,
    make_teaching,
    refuse_other_tokens,
    refuse_other_vocabularies,
    refuse_unmet_teachers,
    served_teachers,
    stored_episodes,
    teacher_vocabulary,
)
from sod.build.tools import stateful_tools
from sod.build.translation import chats_of, span_measure
from sod.chat.render import Chat
from sod.evaluation.hints import Hints
from sod.models.meter import Meter
from sod.models.ranks import ALONE, Ranks
from sod.models.settle import settle_of
from sod.models.support import Support
from sod.objective.methods import Method
from sod.objective.needs import SELF_TEACHER, Need
from sod.recipe import Notice, Recipe
from sod.recipe.keys.data import validation_key
from sod.recipe.makers import refuse_unmade
from sod.records import SodError, Task
from sod.runlog import RunLog
from sod.tasks.privileged import privileged_prompt
from sod.tasks.sources import shown
from sod.teachers.base import Offer, Teacher
from sod.teachers.served import ServedTeacher
from sod.teachers.translated import Translation
from sod.training.checkpoint import State, restore
from sod.training.loop import Plan, Trainee
from sod.training.step import PrivilegedPrompt, Run, train_step
from sod.training.tool_use import ToolUse, span_of


@final
@dataclass(frozen=True)
class Inputs:
    """What a run is made of, read and checked: no weights yet. The recipe's models are `located`.

    `held_out` are the sets of validation tasks by name. `translation` is there where the teacher has another
    tokenizer; `served` are the teachers behind urls, by key, but for those of `servers`, which the run is to start;
    `stored` the episodes of a run that plays none.
    """

    recipe: Recipe
    method: Method
    tasks: list[Task]
    held_out: Mapping[str, Sequence[Task]]
    chat: Chat
    place: Place
    proof: Proof
    devices: Devices
    servers: Servers
    translation: Translation | None = None
    served: Mapping[str, ServedTeacher] = field(default_factory=dict)
    stored: Stored | None = None


def prepare_train(recipe: Recipe, directory: Path, resume: bool, notice: Notice, ranks: Ranks = ALONE) -> Job:
    """A run of the recipe's method in `directory`, new or resumed; each of its ranks makes its own job of it.

    Raises SodError before anything is loaded where possible.
    """
    refuse_one_process(recipe, ranks)
    notice = heard(notice, ranks)
    method = make_method(recipe.method)
    if Need.DEMONSTRATIONS in method.needs:
        return prepare_supervised(recipe, directory, resume, notice, method, ranks)
    with ExitStack() as resources:  # nothing that was started outlives a failure here
        inputs = common_inputs(
            ranks, recipe, method, lambda: checked(recipe, method, directory, resume, notice, resources, ranks)
        )
        run, trainee = opened(inputs, resources, notice, ranks)
        run.hints = Hints(recipe.reward, notice, compares=Need.GROUP in method.needs)
        if run.stored is None:
            run.tool_use = _tool_use(recipe, inputs.place, notice)
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
        make=partial(ranks.on_first, partial(inputs.proof.make, partial(inputs.place.make, recipe))),
        plan=plan,
        done=inputs.place.done,
        take_step=partial(train_step, run),
        trainee=trainee,
        evaluate=partial(held_out_figures, run, inputs.held_out),
        meter=run.meter,
        models=_models(run),
        resources=kept,
        facts=facts_of(inputs, run, plan) if ranks.first else (),
    )


def _tool_use(recipe: Recipe, place: Place, notice: Notice) -> ToolUse:
    """What tells of vanishing tool calls; it knows the steps that a resumed run goes on from."""
    watched = ToolUse(span_of(recipe.rollout.prompts * recipe.rollout.samples), notice)
    if place.log is not None:
        watched.recall(row for row in place.log.metrics() if row["step"] <= place.done)
    return watched


def facts_of(inputs: Inputs, run: Run, plan: Plan) -> Facts:
    """What the run is made of, in words."""
    recipe, models = inputs.recipe, _models(run)
    return [
        *train_facts(recipe, inputs.method, inputs.chat, run.student, models.get("teacher"), run.rollout.tools),
        *server_facts(inputs.servers.places, inputs.place.directory / LOGS),
        *data_facts(len(inputs.tasks), {name: len(own) for name, own in inputs.held_out.items()}, recipe),
        *place_facts(plan, inputs.place.done, inputs.place.directory),
    ]


def _models(run: Run) -> dict[str, Any]:
    """The models in this process, by role."""
    return {"student": run.student, **run.teacher_models}


def common_inputs(ranks: Ranks, recipe: Recipe, method: Method, check: Callable[[], Inputs]) -> Inputs:
    """What all ranks are to make a run of: `check` reads and checks it on rank 0, and the others make models of it.

    Those have no tasks, and what rank 0 finds wrong is raised on them too.
    """
    own: list[Inputs] = []

    def brief() -> Brief:
        own.append(check())
        found = own[0]
        return found.place.brief(found.recipe, () if recipe.environment is None else found.chat.tools)

    told = ranks.shared(brief)
    if own:
        return own[0]
    recipe, offer = told.recipe, best_offer(told.recipe)
    chat, translation = chats_of(recipe, method, teacher_vocabulary(recipe, method), offer, unheard, told.world_tools)
    if translation is not None:
        method = replace(method, alignment=alignment_of(recipe.method, offer))
    proof = Proof(told.directory, resumed=told.resumed is not None)
    devices = find_devices(own_card(recipe, ranks), unheard)
    return Inputs(recipe, method, [], {}, chat, Place.of(told), proof, devices, Servers(recipe), translation)


def checked(
    recipe: Recipe,
    method: Method,
    directory: Path,
    resume: bool,
    notice: Notice,
    resources: ExitStack,
    ranks: Ranks = ALONE,
) -> Inputs:
    """Everything that a run reads before it loads weights. Raises SodError for what is wrong, cheapest first.

    The lock of the run's directory is left to `resources`.
    """
    refuse_unmet_teachers(recipe, method)
    refuse_missing_adapters(recipe)
    _refuse_unmade(recipe, method)
    refuse_idle(idle_keys(recipe, method), recipe, resume, notice)
    _refuse_stateful(method, recipe)
    refuse_unfit_staleness(recipe, method)
    if recipe.environment is not None and method.context is not None:
        raise SodError(f"method {method.name} adds to the prompts of rows, and environments have prompts of their own")
    refuse_absent_functions(recipe)
    refuse_unsampled(recipe)
    devices = find_devices(own_card(recipe, ranks), notice)
    servers = find_servers(recipe, method, devices, notice)
    stored = stored_episodes(recipe, method, notice)
    tasks = loaded_tasks(recipe.data.train, "data.train", recipe, notice) if stored is None else stored.episodes.tasks
    held_out = loaded_sets(recipe, notice) if recipe.train.evaluate_every else {}
    if method.context is not None:
        for task in tasks:
            privileged_prompt(task, method.context)
    tell_unmet_sources(recipe, [*tasks, *all_of(held_out)], notice)
    refuse_unmet_teachers(servers.recipe, method, tasks)
    place = find_place(recipe, directory, resume, "train", resources, notice)
    recipe = located(servers.recipe, notice)
    refuse_unfit(recipe, method)
    tell_other_device(place.resume, devices.student, notice)
    refuse_unfit_adapter(recipe)
    began = first_look(recipe, tasks)
    theirs = () if began is None else began.tools
    offer = best_offer(recipe)
    chat, translation = chats_of(recipe, method, teacher_vocabulary(recipe, method), offer, notice, theirs)
    if translation is not None:
        method = _aligned(recipe, method, offer, resume, notice)
    refuse_other_vocabularies(recipe, method, chat, notice)
    refuse_unfit_world(recipe, tasks, began, chat)
    refuse_unread(recipe, chat, resume, notice)
    if stored is None:
        tasks = fitting_tasks(tasks, chat, recipe, notice)
    else:
        refuse_other_tokens(stored, chat, recipe)
    if translation is not None and recipe.environment is None:  # a world's prompts are known as its episodes begin
        check_coverage(recipe, translation, list(enumerate(stand_ins(tasks, chat.tools, recipe))))
    refuse_unfit_self_teacher(recipe, method, tasks, chat)
    held_out = {name: fitting_tasks(own, chat, recipe, notice) for name, own in held_out.items()}
    proof = Proof(place.directory, resumed=place.log is not None)
    if stored is None:
        tasks = proof.tasks(tasks, "data.train", shown(recipe.data.train or ()), recipe, notice)
    held_out = {name: proven_set(name, own, proof, recipe, notice) for name, own in held_out.items()}
    asked = recipe  # what the run itself serves can be asked once that has started
    if servers.teacher is not None:
        others = {key: spec for key, spec in recipe.teaching.items() if key != recipe.launched_teacher}
        asked = recipe.with_teachers(others)
    served = served_teachers(asked, method, chat, translation, notice, resources)
    return Inputs(recipe, method, tasks, held_out, chat, place, proof, devices, servers, translation, served, stored)


def opened(
    inputs: Inputs, resources: ExitStack, notice: Notice = warnings.warn, ranks: Ranks = ALONE
) -> tuple[Run, Trainee]:
    """The live objects of a run, and what its checkpoints are made of; what must be closed is left to `resources`.

    Raises SodError for tools that do not work, and for weights that cannot be loaded.
    """
    recipe, method, chat, place = inputs.recipe, inputs.method, inputs.chat, inputs.place
    judged = [*(inputs.tasks if inputs.stored is None else ()), *all_of(inputs.held_out)]
    stage = ranks.on_first(
        partial(make_stage, recipe, chat, judged, inputs.servers, place.directory, resources, notice)
    )
    prepare_torch(recipe, inputs.devices, resumed=place.resume is not None)
    support, devices = Support.of(chat.tokenizer), inputs.devices
    learner = make_learner(
        recipe, recipe.optim, recipe.train.steps, support, place.resume, devices.student, notice, ranks
    )
    served = ranks.on_first(partial(_served, inputs, stage, resources, notice)) or {}
    stored = inputs.stored
    own: dict[str, Teacher] = {**served, **({} if stored is None else {"teacher": stored.teacher})}
    elsewhere = asked_by_first(own, ranks)
    meter = Meter(recipe.train.profile)
    translation = inputs.translation
    if translation is not None:
        longest = ranks.shared(lambda: longest_read_by(served))
        translation = translation if longest is None else replace(translation, longest=longest)
    teaching = make_teaching(recipe, method, learner, devices, chat, translation, elsewhere, meter, notice)
    if teaching.scorer is not None and place.resume is not None:
        restore(place.resume, "teacher", teaching.scorer.load)
    playing = make_rollout(recipe, chat, stage, learner, meter, resources, notice)
    run = Run(
        recipe=recipe,
        tasks=inputs.tasks,
        student=learner.model,
        teacher=teaching.scorer,
        rollout=playing.collector,
        method=method,
        optimizer=learner.optimizer,
        dumps=place.directory / "dumps",
        model_teacher=teaching.model,
        teacher_models=teaching.models,
        stored=None if stored is None else stored.episodes,
        privileged=_privileged(method, chat),
        meter=meter,
        tools=chat.tools,
        began=place.done,
        deaths=playing.deaths,
        ranks=ranks,
    )
    if translation is not None and method.alignment is not None and method.over_spans:
        run.span_measure = span_measure(method.alignment, translation, devices.student)
    meter.settle = run.settle = settle_of(_models(run).values())
    play_ahead(run, playing.beside, resources)
    if teaching.model is not None and stage is not None and Need.TEACHER_EPISODES in method.needs:
        run.expert = make_collector(
            recipe, chat, stage.tools, stage.reward_function, teaching.model.model, None, notice, stage.world
        )
        resources.callback(run.expert.engine.close)
    return run, learner.trainee(partial(run_state, run), chat)


def _served(inputs: Inputs, stage: Stage | None, resources: ExitStack, notice: Notice) -> Mapping[str, ServedTeacher]:
    """The teachers behind urls, once the servers that the run has started answer."""
    if stage is not None:
        stage.fleet.wait_ready()
    recipe, key = inputs.recipe, inputs.recipe.launched_teacher
    if inputs.servers.teacher is None or key is None:
        return inputs.served
    own = recipe.with_teachers({key: recipe.teaching[key]})
    started = served_teachers(own, inputs.method, inputs.chat, inputs.translation, notice, resources)
    return {**inputs.served, **started}


def run_state(run: Run) -> State:
    """What a checkpoint keeps of a run beside the model, by namespace."""
    state = {"optimizer": run.optimizer.state()}
    if run.teacher is not None and (teacher := run.teacher.state()) is not None:
        state["teacher"] = teacher
    return state


def _refuse_unmade(recipe: Recipe, method: Method) -> None:
    """Raises SodError where what a shipped recipe reads has not been made yet, naming the commands that make it."""
    paths: dict[str, str | list[str] | None] = {"data.train": recipe.data.train, "student.path": recipe.student.path}
    if recipe.teacher is not None and recipe.teacher.scores is not None:
        paths |= {"data.train": None, "teacher.scores": recipe.teacher.scores}
    if not method.needs & SELF_TEACHER:
        paths |= {f"{key}.path": spec.path for key, spec in recipe.local_teachers.items()}
    if recipe.train.evaluate_every:
        paths |= {validation_key(name): named for name, named in recipe.data.validation_sets.items()}
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
