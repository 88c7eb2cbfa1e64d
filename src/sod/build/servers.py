"""The servers that a run starts by itself: found a place for before anything is loaded, started beside the loading.

From then on the run is one whose servers ran before it: its recipe names their urls.
"""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from sod.build.devices import Devices
from sod.build.job import final_model
from sod.build.teachers import wanted_k
from sod.engines.vllm_options import WHOLE_PROMPTS, serve_environment, serve_options
from sod.engines.vllm_server import refuse_other_version
from sod.engines.vllm_wire import refuse_other_temperature
from sod.launch.fleet import Fleet
from sod.launch.placement import Placed, Wanted, placed
from sod.launch.server import Patience, Server, ServerPlan
from sod.launch.vllm import QUIET, gpus_of, program, scoring_options, served, version
from sod.models.adapters import base_source
from sod.objective.methods import Method
from sod.objective.needs import SELF_TEACHER, Need
from sod.recipe import ModelSpec, Notice, Recipe, TeacherSpec
from sod.recipe.makers import refuse_unmade

ENVIRONMENT = "engine.environment"
LOGS = "logs"
"""The folder of a run's directory with a log for each server."""
STUDENT, TEACHER = "launch.student", "launch.teacher"


@final
@dataclass(frozen=True)
class Servers:
    """What a run is to start; `recipe` is its own with the urls of that. Nothing where `places` is empty.

    `teacher` is the model that is served as its teacher, of whose most probable tokens `top_k` are asked for.
    """

    recipe: Recipe
    places: tuple[Placed, ...] = ()
    program: Path | None = None
    teacher: ModelSpec | None = None
    top_k: int = 0

    def plans(self, located: Recipe) -> list[ServerPlan]:
        """How each is started; `located` has the directory of the student."""
        return [self._plan(place, located) for place in self.places]

    def begin(self, located: Recipe, directory: Path, resources: ExitStack, notice: Notice) -> Fleet:
        """Start them all. They answer later, and are ended with `resources`. Raises SodError."""
        patience = Patience(located.launch.start_seconds, located.launch.restarts)
        plans = self.plans(located)
        fleet = Fleet([Server(plan, directory / LOGS / f"{plan.name}.log", patience, notice) for plan in plans])
        resources.callback(fleet.close)
        fleet.start()
        return fleet

    def _plan(self, place: Placed, located: Recipe) -> ServerPlan:
        assert self.program is not None
        if place.where == STUDENT:
            options, variables = _student_options(located, place), serve_environment(located.engine.push)
        else:
            assert self.teacher is not None
            assert located.launch.teacher is not None
            own = located.launch.teacher.options
            options, variables = scoring_options(self.teacher.path, self.teacher.dtype, self.top_k, own), QUIET
        return served(self.program, options, variables, place, len(self.places))


def find_servers(recipe: Recipe, method: Method, devices: Devices, notice: Notice) -> Servers:
    """The servers that the recipe asks for, each with its GPUs and port.

    Raises SodError where vLLM is not there or of another version, where a GPU or a port cannot be had, and where the
    teacher to be served is not there.
    """
    places = server_places(recipe, method, devices)
    if not places:
        return Servers(recipe)
    found = program(recipe.engine.environment, ENVIRONMENT)
    where = f"{ENVIRONMENT}: {found}"
    refuse_other_version(version(found, where), where)
    teacher = teacher_to_serve(recipe, method, notice)
    return Servers(_with_urls(recipe, places, teacher), places, found, teacher, wanted_k(method))


def refuse_unsampled(recipe: Recipe) -> None:
    """Raises SodError for a temperature of the run's episodes that vLLM servers do not sample at."""
    if recipe.engine.kind != "vllm":
        return
    refuse_other_temperature(recipe.rollout.temperature, "rollout.temperature")
    if recipe.train.evaluate_every:
        refuse_other_temperature(recipe.evaluation.temperature, "evaluation.temperature")


def server_places(recipe: Recipe, method: Method, devices: Devices) -> tuple[Placed, ...]:
    """Where the servers would be that the recipe asks for, whether or not vLLM is there; none for a method that plays
    nothing. Raises SodError.
    """
    if Need.DEMONSTRATIONS in method.needs:
        return ()
    here = (devices.student, *(devices.of(key) for key in recipe.local_teachers))
    trainer = {device.index for device in here if device.type == "cuda"}
    if trainer:  # each rank on this machine has a device of its own, from the first on
        trainer |= set(range(ranks_here(recipe)))
    return tuple(placed([*_students(recipe), *_teacher(recipe, method)], torch.cuda.device_count(), trainer))


def ranks_here(recipe: Recipe) -> int:
    """The trainer's processes on this machine: those that the recipe asks for, or that a launcher has started."""
    return max(recipe.parallel.shards, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def teacher_to_serve(recipe: Recipe, method: Method, notice: Notice) -> ModelSpec | None:
    """The teacher that the run serves, with the directory of its model; None where it serves none. Raises SodError."""
    spec = _served_teacher(recipe, method)
    if spec is None or spec.path is None:
        return None
    refuse_unmade({f"{recipe.launched_teacher}.path": spec.path})
    return ModelSpec(path=final_model(spec.path, notice), dtype=spec.dtype)


def _served_teacher(recipe: Recipe, method: Method) -> TeacherSpec | None:
    """The teacher that the run is to serve, where the method asks one, and it has a path."""
    if method.needs & SELF_TEACHER or Need.TEACHER not in method.needs:
        return None
    spec = recipe.teaching.get(recipe.launched_teacher or "")
    return None if spec is None or spec.path is None else spec


def _students(recipe: Recipe) -> list[Wanted]:
    engine, own = recipe.engine, recipe.launch.student
    if engine.kind != "vllm" or engine.urls is not None:
        return []
    gpus_each = gpus_of(engine.options, "engine.options")
    return [Wanted("student", STUDENT, engine.servers, gpus_each, own.gpus, own.memory_share, own.port)]


def _teacher(recipe: Recipe, method: Method) -> list[Wanted]:
    own = recipe.launch.teacher
    if own is None or _served_teacher(recipe, method) is None:
        return []
    gpus_each = gpus_of(own.options, f"{TEACHER}.options")
    return [Wanted("teacher", TEACHER, 1, gpus_each, own.gpus, own.memory_share, own.port)]


def _with_urls(recipe: Recipe, places: tuple[Placed, ...], teacher: ModelSpec | None) -> Recipe:
    students = [place.url for place in places if place.where == STUDENT]
    if students:  # one that is started again has as long as for its first start, which loads the same
        patience = max(recipe.engine.restart_seconds, recipe.launch.start_seconds)
        own = {"urls": students, "restart_seconds": patience}
        recipe = recipe.model_copy(update={"engine": recipe.engine.model_copy(update=own)})
    key = recipe.launched_teacher
    if teacher is None or key is None:
        return recipe
    spec = recipe.teaching[key]
    (url,) = [place.url for place in places if place.where == TEACHER]
    at_url: dict[str, Any] = {"path": None, "url": f"{url}/v1", "model": teacher.path, "tokenizer": teacher.path}
    # Tries go on while it is started again; a pause is half of the longest one at least.
    more = math.ceil(2 * recipe.launch.start_seconds / max(1.0, spec.backoff_max_seconds))
    at_url["attempts"] = spec.attempts + more
    return recipe.with_teachers({**recipe.teaching, key: spec.model_copy(update=at_url)})


def _student_options(located: Recipe, place: Placed) -> list[str]:
    """The student as the trainer has it, but for an adapter, whose weights come merged with the first push."""
    rollout, engine = located.rollout, located.engine
    longest = rollout.max_prompt_tokens + rollout.max_response_tokens
    base = base_source(located.student.path).path
    options = engine.options if place.gpus else [WHOLE_PROMPTS, *engine.options]
    return serve_options(base, located.student.dtype, longest, engine.push, rollout.max_rows, options)
