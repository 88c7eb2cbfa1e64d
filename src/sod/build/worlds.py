"""The environments that a recipe names, made, and the tasks that they offer; no model's library is imported for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sod.environments.adapt import adapted, maker
from sod.environments.base import Closes, Environment, OffersTasks
from sod.environments.calling import called, settled
from sod.environments.catalogue import named_world, world_names
from sod.environments.worlds import Worlds
from sod.recipe import EnvironmentSpec, written
from sod.recipe.nearest import offered
from sod.records import Message, SodError, Task
from sod.seeds import derive
from sod.tasks.formats.base import BadRowError
from sod.tasks.formats.messages import read_messages
from sod.usercode import load


def environment_maker(spec: EnvironmentSpec) -> Callable[[], Environment]:
    """Makes an environment of the recipe. Raises SodError where its import path or its arguments are wrong."""
    named = load(import_path(spec.call), Path.cwd(), "environment.call")
    made = maker(named, spec.interface, f"environment.call={written(spec.call)!r}")
    _refuse_arguments(spec, made)
    return partial(_made, spec, made)


def import_path(call: Any) -> Any:
    """The import path of a world that comes with sod, by its name; anything else as it is. Raises SodError."""
    if not isinstance(call, str) or any(mark in call for mark in ":./"):
        return call
    world = named_world(call)
    if world is None:
        raise SodError(
            f"environment.call={call!r}: no world of sod's own has this name, there are: {', '.join(world_names())}; a "
            f"class of yours is ./file.py:name or module:name{offered(call, world_names())}"
        )
    return world.path


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


def own_tasks(spec: EnvironmentSpec, seed: int, split: str) -> list[Task]:
    """The tasks of a split that the environment offers, else `environment.tasks` seeds. Raises SodError."""
    return _offered_tasks(spec, split) or _numbered(spec, seed, split)


def _offered_tasks(spec: EnvironmentSpec, split: str) -> list[Task]:
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
