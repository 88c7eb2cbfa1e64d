"""The environments of a recipe (`sod.build.worlds`): tried once before a model is loaded; and their tasks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from sod.build.declared_tools import name_of
from sod.build.job import told
from sod.build.programming import with_readable_tests, with_tests_told
from sod.build.truths import with_readable_truths
from sod.build.worlds import make_worlds, own_tasks
from sod.chat.render import Chat
from sod.environments.base import Began, Reset, WorldRequest
from sod.recipe import EnvironmentSpec, Notice, Recipe, written
from sod.records import Fault, Message, SodError, Task
from sod.rollout.collect import World
from sod.rollout.opening import prompt_after
from sod.seeds import derive
from sod.tasks.files import load_world_tasks
from sod.tasks.sources import Source, shown

SPLITS = {"data.train": "train"}
"""The split of an environment's own tasks that stands for a data key; all others are `validation`."""
OWN_SPLIT = "environment@"
"""Before the name of a split of the environment's own tasks, in place of a source."""


def make_world(recipe: Recipe, opened: ExitStack) -> World | None:
    """Where the recipe's episodes are played; closed with `opened`. None without an environment."""
    if recipe.environment is None:
        return None
    worlds = make_worlds(recipe.environment)
    opened.callback(worlds.close)
    return World(worlds, recipe.rollout.max_prompt_tokens)


def first_look(recipe: Recipe, tasks: Sequence[Task]) -> Began | None:
    """How the first task begins, found by a reset; None without an environment.

    Raises SodError where it cannot begin: what is wrong with an environment is found before a model is loaded.
    """
    spec = recipe.environment
    if spec is None:
        return None
    worlds = make_worlds(spec)
    try:
        request = WorldRequest("first look", Reset(tasks[0], derive(recipe.seed, "environment", "first look")))
        (began,) = worlds.run([request])
    finally:
        worlds.close()
    if isinstance(began, Fault):
        raise SodError(f"environment.call={written(spec.call)!r}: task {tasks[0].id}: {began.detail}")
    assert isinstance(began, Began)
    return began


def refuse_unfit_world(recipe: Recipe, tasks: Sequence[Task], began: Began | None, chat: Chat) -> None:
    """Raises SodError where the first task's prompt is empty or does not fit, or a tool has the name of another."""
    if began is None:
        return
    where, task = f"environment: task {tasks[0].id}", tasks[0]
    prompt = prompt_after(task.prompt, began.observation)
    if not any(message.role == "user" for message in prompt):
        raise SodError(f"{where}: its prompt is empty; reset has to return an observation, or the row needs a prompt")
    length, limit = len(chat.prompt_ids(prompt)), recipe.rollout.max_prompt_tokens
    if length > limit:
        raise SodError(
            f"{where}: its prompt has {length} tokens, more than rollout.max_prompt_tokens={limit}; raise it"
        )
    if not chat.tools:
        _refuse_no_reply(chat, where)
    names = [name_of(schema) for schema in chat.tools]
    if both := [name for name in names if names.count(name) > 1]:
        raise SodError(
            f"{where}: two tools are called {both[0]!r}, one of tools and one of the environment; rename one"
        )


def _refuse_no_reply(chat: Chat, where: str) -> None:
    """Raises SodError for a chat template in which no user answers a turn: an environment without tools needs that."""
    try:
        chat.suffix_ids([Message("user", "?")], (), False)
    except ValueError as error:
        raise SodError(
            f"{where}: shows no tools, so it answers as a user does, and {error}; set chat.template=hermes"
        ) from None


def world_tasks(named: Source | None, key: str, recipe: Recipe, spec: EnvironmentSpec, notice: Notice) -> list[Task]:
    """The tasks of a data key: its rows, else what the environment offers, else `environment.tasks` seeds.

    Raises SodError where a source cannot be read.
    """
    split = SPLITS.get(key, "validation") if named is None else own_split(named, key)
    if split is not None:
        return own_tasks(spec, recipe.seed, split)
    assert named is not None
    data, source = recipe.data, shown(named)
    read = load_world_tasks(named, data.split, data.columns, data.system, data.suffix)
    if spec.verified:
        read = with_readable_truths(with_tests_told(read, source, recipe.reward, notice), source, recipe.reward, notice)
        read = with_readable_tests(read, source, recipe.reward)
    return told(read, source, notice)


def own_split(named: Source, key: str) -> str | None:
    """The split that `environment@SPLIT` names; None for any other source. Raises SodError where it names none."""
    if not isinstance(named, str) or not named.startswith(OWN_SPLIT):
        return None
    split = named.removeprefix(OWN_SPLIT)
    if not split.isidentifier():
        raise SodError(f"{key}={named}: names no split of the environment; write {OWN_SPLIT}validation, for one")
    return split
