"""A supervised run from its recipe."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from sod.build.conversations import training_examples
from sod.build.devices import find_devices
from sod.build.fitness import (
    refuse_missing_adapters,
    refuse_uncut_learner,
    refuse_unfit_adapter,
    refuse_unfit_learner,
)
from sod.build.idle import idle_in_sft, idle_keys, refuse_idle, refuse_unread
from sod.build.job import Job, common_place, find_place, located, make_learner, prepare_torch, tell_other_device, told
from sod.build.ranks import heard, own_card, refuse_one_process
from sod.build.summary import place_facts, sft_facts
from sod.build.vocabulary import chat_of
from sod.models.ranks import ALONE, Ranks
from sod.models.support import Support
from sod.objective.methods import Method
from sod.recipe import Notice, Recipe
from sod.recipe.makers import refuse_unmade
from sod.records import SodError
from sod.runlog import RunLog
from sod.tasks.files import load_conversations
from sod.tasks.lent_tools import with_lent_tools
from sod.tasks.sources import shown
from sod.training.loop import Plan
from sod.training.sft import sft_step


def prepare_sft(recipe: Recipe, directory: Path, resume: bool, notice: Notice, ranks: Ranks = ALONE) -> Job:
    """A supervised run in `directory`, new or resumed; each of its ranks makes its own job of it."""
    return prepare_supervised(recipe, directory, resume, notice, None, ranks)


def prepare_supervised(
    recipe: Recipe,
    directory: Path,
    resume: bool,
    notice: Notice,
    method: Method | None = None,
    ranks: Ranks = ALONE,
) -> Job:
    """SFT as the recipe's `sft` section says; as a `method` it has the run's own steps, batch and optimizer."""
    refuse_one_process(recipe, ranks)
    notice = heard(notice, ranks)
    spec, kind, every = recipe.sft, "sft", recipe.sft.checkpoint_every
    optim, steps, batch = spec.optim, spec.steps, spec.batch_size
    if method is not None:
        kind, every = "train", recipe.train.checkpoint_every
        optim, steps, batch = recipe.optim, recipe.train.steps, recipe.rollout.prompts * recipe.rollout.samples
    if recipe.data.sft is None:
        raise SodError("data.sft is not set; name a parquet or JSONL file, or a hub id")
    refuse_missing_adapters(recipe)
    refuse_unmade({"data.sft": recipe.data.sft, "student.path": recipe.student.path})
    idle = idle_in_sft(recipe) if method is None else idle_keys(recipe, method)
    refuse_idle(idle, recipe, resume, notice)
    devices = find_devices(own_card(recipe.without_teachers(), ranks), notice)
    data, source = recipe.data, shown(recipe.data.sft)
    read = load_conversations(recipe.data.sft, data.split, data.columns, data.system, data.suffix)
    conversations = with_lent_tools(read, data.tools)
    told(conversations, source, notice)
    with ExitStack() as resources:  # the lock does not outlive a failure here
        place = common_place(ranks, recipe, lambda: find_place(recipe, directory, resume, kind, resources, notice))
        models = located(recipe.without_teachers(), notice)
        chat = chat_of(models, models.student.path, notice)
        refuse_unread(recipe, chat, resume, notice)
        examples = training_examples(conversations, source, chat, recipe, notice)
        longest = max(len(example.token_ids) for example in examples)
        refuse_unfit_learner(models.student.path, longest)
        refuse_uncut_learner(models, longest)
        refuse_unfit_adapter(models)
        tell_other_device(place.resume, devices.student, notice)
        prepare_torch(recipe, devices, resumed=place.resume is not None)
        support = Support.of(chat.tokenizer)
        on_host = torch.device("cpu")  # nothing samples: a whole copy is only written down
        learner = make_learner(
            models, optim, steps, support, place.resume, devices.student, notice, ranks, whole_on=on_host
        )
        kept = resources.pop_all()
    plan = Plan(steps, every, recipe.train.keep_checkpoints, place.recipe_hash, kind=kind)
    facts = sft_facts(recipe, chat, learner.model, optim, len(examples), batch)
    return Job(
        log=RunLog(place.directory),
        make=partial(ranks.on_first, partial(place.make, recipe)),
        plan=plan,
        done=place.done,
        take_step=partial(sft_step, learner.model, learner.optimizer, examples, batch, optim, recipe.seed, ranks=ranks),
        trainee=learner.trainee(lambda: {"optimizer": learner.optimizer.state()}, chat),
        resources=kept,
        facts=[*facts, *place_facts(plan, place.done, place.directory)],
    )
