"""The memory of the servers that a run starts."""

from __future__ import annotations

import torch

from sod.build.devices import find_devices
from sod.build.servers import server_places
from sod.launch.placement import Placed
from sod.launch.vllm import cpu_cache
from sod.preflight.devices import CPU
from sod.preflight.models import Planned
from sod.recipe import Recipe

OWN_SHARE = 0.9
"""Of a GPU's memory that vLLM takes where it is not told."""


Size = tuple[str, str, int]
"""What takes memory, on which device, and how many bytes of it."""


def server_sizes(recipe: Recipe) -> list[Size]:
    """What each server takes, throughout a step. Raises SodError where one cannot be placed."""
    places = server_places(recipe, find_devices(recipe, lambda text: None))
    return [size for place in places for size in sizes_of(place, recipe)]


def sizes_of(place: Placed, recipe: Recipe) -> list[Size]:
    """What one server takes: its weights and cache, or its share of its GPUs."""
    if place.gpus:
        share = OWN_SHARE if place.memory_share is None else place.memory_share
        name = f"{place.name}: vLLM's share of the device"
        return [(name, device, int(share * torch.cuda.mem_get_info(device)[1])) for device in place.devices]
    model = Planned(recipe.student.whole)
    sizes = [(f"{place.name}: weights", CPU, model.counts.all * model.size)]
    cache = cpu_cache(recipe.engine.options) if place.memory_share is None else None
    return sizes if cache is None else [*sizes, (f"{place.name}: cache", CPU, cache)]
