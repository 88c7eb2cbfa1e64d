"""The servers that a run starts by itself: found a place for before anything is loaded, started beside the loading.

From then on the run is one whose servers ran before it: its recipe names their urls.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from sod.build.devices import Devices
from sod.engines.vllm_options import serve_environment, serve_options
from sod.engines.vllm_server import refuse_other_version
from sod.launch.fleet import Fleet
from sod.launch.placement import Placed, Wanted, placed
from sod.launch.server import Patience, Server, ServerPlan
from sod.launch.vllm import gpus_of, program, served, version
from sod.models.adapters import base_source
from sod.recipe import Notice, Recipe

ENVIRONMENT = "engine.environment"
LOGS = "logs"
"""The folder of a run's directory with a log for each server."""
STUDENT = "student"


@final
@dataclass(frozen=True)
class Servers:
    """What a run is to start; `recipe` is its own with the urls of that. Nothing where `places` is empty."""

    recipe: Recipe
    places: tuple[Placed, ...] = ()
    program: Path | None = None

    def plans(self, located: Recipe) -> list[ServerPlan]:
        """How each is started; the paths of `located` are directories of models."""
        if self.program is None:
            return []
        options, variables = _student_options(located), serve_environment(located.engine.push)
        return [served(self.program, options, variables, place, len(self.places)) for place in self.places]

    def begin(self, located: Recipe, directory: Path, resources: ExitStack, notice: Notice) -> Fleet:
        """Start them all. They answer later, and are ended with `resources`. Raises SodError."""
        patience = Patience(located.launch.start_seconds, located.launch.restarts)
        servers = [
            Server(plan, directory / LOGS / f"{plan.name}.log", patience, notice) for plan in self.plans(located)
        ]
        fleet = Fleet(servers)
        resources.callback(fleet.close)
        fleet.start()
        return fleet


def find_servers(recipe: Recipe, devices: Devices) -> Servers:
    """The servers that the recipe asks for, each with its GPUs and port.

    Raises SodError where vLLM is not there or of another version, and where a GPU or a port cannot be had.
    """
    places = server_places(recipe, devices)
    if not places:
        return Servers(recipe)
    found = program(recipe.engine.environment, ENVIRONMENT)
    refuse_other_version(version(found), f"{ENVIRONMENT}: {found}")
    engine = recipe.engine.model_copy(update={"urls": [place.url for place in places]})
    return Servers(recipe.model_copy(update={"engine": engine}), places, found)


def server_places(recipe: Recipe, devices: Devices) -> tuple[Placed, ...]:
    """Where the servers would be that the recipe asks for, whether or not vLLM is there. Raises SodError."""
    trainer = {device.index for device in (devices.student, devices.teacher) if device.type == "cuda"}
    return tuple(placed(_wanted(recipe), torch.cuda.device_count(), trainer))


def _wanted(recipe: Recipe) -> list[Wanted]:
    engine, own = recipe.engine, recipe.launch.student
    if engine.kind != "vllm" or engine.urls is not None:
        return []
    gpus_each = gpus_of(engine.options, "engine.options")
    return [Wanted(STUDENT, "launch.student", engine.servers, gpus_each, own.gpus, own.memory_share, own.port)]


def _student_options(located: Recipe) -> list[str]:
    """The student as the trainer has it, but for an adapter, whose weights come merged with the first push."""
    rollout, engine = located.rollout, located.engine
    longest = rollout.max_prompt_tokens + rollout.max_response_tokens
    base = base_source(located.student.path).path
    return serve_options(base, located.student.dtype, longest, engine.push, rollout.max_rows, engine.options)
