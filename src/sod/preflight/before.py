"""A run's memory as one of its facts, and a word before it is loaded where it will not fit."""

from __future__ import annotations

from pathlib import Path

from sod.preflight.advice import beyond
from sod.preflight.devices import free_bytes
from sod.preflight.estimate import estimated, readable
from sod.preflight.words import peak_text, shortage_text
from sod.recipe import Notice, Recipe
from sod.records import SodError

WORTH = 64 * 2**20
"""Bytes of weights from which on the second that an estimate takes is nothing beside the loading."""


def memory_facts(recipe: Recipe, sft: bool, notice: Notice) -> list[tuple[str, str]]:
    """The fact `memory` of a run that is about to be prepared; none for small models.

    `notice` hears of a run that will not fit. What cannot be read here is left to the run's own checks, which say it
    in their order and better; a model that cannot be planned may still be trained.
    """
    try:
        found = readable(recipe, sft, lambda text: None)
        paths = [found.student.path, *(spec.path for spec in found.local_teachers.values())]
        if sum(map(_weights, paths)) < WORTH:
            return []
        estimate = estimated(found, sft)
    except SodError:
        return []
    free = {device: free_bytes(device) for device in estimate.devices}
    if beyond(estimate, free):
        notice(str(shortage_text(estimate, free)))
    return [("memory", peak_text(estimate, free))]


def _weights(path: str) -> int:
    """Bytes of the weights in a directory; a hub id counts as large."""
    if not Path(path).is_dir():
        return WORTH
    return sum(file.stat().st_size for kind in ("*.safetensors", "*.bin") for file in Path(path).glob(kind))
