"""The memory of the servers that a run starts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sod.build.devices import find_devices
from sod.build.servers import STUDENT, server_places, teacher_to_serve
from sod.launch.placement import Placed
from sod.launch.vllm import cpu_cache
from sod.objective.methods import Method
from sod.preflight.devices import CPU
from sod.preflight.models import Planned
from sod.recipe import ModelSpec, Recipe

OWN_SHARE = 0.9
"""Of a GPU's memory that vLLM takes where it is not told."""
SHARE, WEIGHTS, CACHE = "vLLM's share", "served weights", "served cache"

Size = tuple[str, str, int]
"""What takes memory, on which device, and how many bytes of it."""


def server_sizes(recipe: Recipe, method: Method) -> list[Size]:
    """What each server takes, throughout a step. Raises SodError where one cannot be placed."""
    places = server_places(recipe, method, find_devices(recipe, lambda text: None))
    return [size for place in places for size in sizes_of(place, recipe, method)]


def sizes_of(place: Placed, recipe: Recipe, method: Method) -> list[Size]:
    """What one server takes: its weights and cache, or its share of its GPUs."""
    if place.gpus:
        share = OWN_SHARE if place.memory_share is None else place.memory_share
        name = f"{place.name}: {SHARE}"
        return [(name, device, int(share * torch.cuda.mem_get_info(device)[1])) for device in place.devices]
    spec, options = _model(place, recipe, method)
    model = Planned(spec)
    sizes = [(f"{place.name}: {WEIGHTS}", CPU, model.counts.all * model.size)]
    cache = cpu_cache(options) if place.memory_share is None else None
    return sizes if cache is None else [*sizes, (f"{place.name}: {CACHE}", CPU, cache)]


def _model(place: Placed, recipe: Recipe, method: Method) -> tuple[ModelSpec, Sequence[str]]:
    """The model of a server, and the options that it is started with."""
    teacher = None if place.where == STUDENT else teacher_to_serve(recipe, method, lambda text: None)
    if teacher is None or recipe.launch.teacher is None:
        return recipe.student.whole, recipe.engine.options
    return teacher, recipe.launch.teacher.options
