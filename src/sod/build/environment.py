"""The environments of a recipe: loaded by import path, tried once before a model is loaded, and their tasks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from sod.build.declared_tools import name_of
from sod.build.job import told
from sod.build.programming import with_readable_tests, with_tests_told
from sod.build.truths import with_readable_truths
from sod.chat.render import Chat
from sod.environments.adapt import adapted
from sod.environments.base import Began, Closes, Environment, OffersTasks, Reset, WorldRequest
from sod.environments.calling import called, settled
from sod.environments.worlds import Worlds
from sod.recipe import EnvironmentSpec, Notice, Recipe, written
from sod.recipe.nearest import offered
from sod.records import Fault, Message, SodError, Task
from sod.rollout.collect import World
from sod.rollout.opening import prompt_after
from sod.seeds import derive
from sod.tasks.files import load_world_tasks
from sod.tasks.formats.base import BadRowError
from sod.tasks.formats.messages import read_messages
from sod.tasks.sources import Source, shown
from sod.usercode import load

SPLITS = {"data.train": "train"}
"""The split of an environment's own tasks that stands for a data key; all others are `validation`."""


def environment_maker(spec: EnvironmentSpec) -> Callable[[], Environment]:
    """Makes an environment of the recipe. Raises SodError where its import path or its arguments are wrong."""
    made = load(spec.call, Path.cwd(), "environment.call")
    if not callable(made):
        where = f"environment.call={written(spec.call)!r}"
        raise SodError(f"{where}: is no class or function; name what makes an environment")
    _refuse_arguments(spec, made)
    return partial(_made, spec, made)


def _made(spec: EnvironmentSpec, factory: Callable[..., Any]) -> Environment:
    return adapted(factory(**spec.arguments), spec.interface, f"environment.call={written(spec.call)!r}")


def _refuse_arguments(spec: EnvironmentSpec, made: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(made)
    except (TypeError, ValueError):  # of what is written in C
        return
    parameters = signature.parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    unknown = [name for name in spec.arguments if name not in signature.parameters]
    if unknown and not takes_any:
        known = [*signature.parameters, *(key for key in EnvironmentSpec.model_fields if key != "call")]
        offer = offered(unknown[0], known)
        raise SodError(f"environment.{unknown[0]}: {written(spec.call)} takes no such argument{offer}")
    try:
        signature.bind(**spec.arguments)
    except TypeError as error:
        raise SodError(f"environment: {written(spec.call)}: {error}; give it as environment.NAME") from None


def make_worlds(spec: EnvironmentSpec) -> Worlds:
    """The recipe's environments, none of them made yet. Raises as `environment_maker`."""
    return Worlds(environment_maker(spec), spec.timeout_seconds, spec.concurrency)


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
    if named is None:
        split = SPLITS.get(key, "validation")
        own = _own_tasks(spec, split)
        return own if own else _numbered(spec, recipe.seed, split)
    data, source = recipe.data, shown(named)
    read = load_world_tasks(named, data.split, data.columns, data.system, data.suffix)
    if spec.verified:
        read = with_readable_truths(with_tests_told(read, source, recipe.reward, notice), source, recipe.reward, notice)
        read = with_readable_tests(read, source, recipe.reward)
    return told(read, source, notice)


def _own_tasks(spec: EnvironmentSpec, split: str) -> list[Task]:
    """The tasks that the environment offers; none where it offers none."""
    make = environment_maker(spec)
    (offers,) = called([lambda: _offered(make(), split)], spec.timeout_seconds, 1)
    if isinstance(offers, SodError):
        raise offers
    if isinstance(offers, BaseException):
        said = " ".join(str(offers).split())
        raise SodError(f"environment.call={written(spec.call)!r}: tasks({split!r}): {type(offers).__name__}: {said}")
    return [_as_task(offer, f"{split}-{number}") for number, offer in enumerate(offers)]


def _offered(world: Environment, split: str) -> Sequence[Any]:
    try:
        return world.tasks(split) if isinstance(world, OffersTasks) else ()
    finally:
        if isinstance(world, Closes):
            settled(world.close())


def _as_task(offer: Task | Mapping[str, Any], name: str) -> Task:
    if isinstance(offer, Task):
        return offer
    own_name = str(offer.get("id", name))
    prompt = _messages(offer.get("prompt") or (), own_name)
    return Task(own_name, prompt, str(offer.get("ground_truth", "")), extra=dict(offer))


def _messages(prompt: Any, task: str) -> tuple[Message, ...]:
    """A prompt as text, as messages, or as rows of a role and a content. Raises SodError for anything else."""
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    if isinstance(prompt, Sequence) and all(isinstance(message, Message) for message in prompt):
        return tuple(prompt)
    try:
        return read_messages(prompt, "prompt")
    except BadRowError as error:
        raise SodError(f"environment: task {task}: {error}; give its prompt as text, or as messages") from None


def _numbered(spec: EnvironmentSpec, seed: int, split: str) -> list[Task]:
    """Tasks that are a seed each, the same for all episodes of one, as groups need it."""
    numbers = range(spec.tasks)
    return [Task(f"{split}-{n}", (), "", extra={"seed": derive(seed, "task", split, n)}) for n in numbers]
