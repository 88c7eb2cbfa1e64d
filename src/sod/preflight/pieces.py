"""What a process takes of a student whose weights are in pieces over several (`sod.models.parallel`). In bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from sod.build.servers import ranks_here
from sod.models.cut import tokens_of_rank
from sod.preflight.devices import CPU
from sod.preflight.models import FLOAT, Micro, Planned
from sod.preflight.parts import Part
from sod.recipe import Recipe

GATHERED_LAYERS = 2
"""Layers whose weights are together at a time: the one that computes, and the next."""


@final
@dataclass(frozen=True)
class Spread:
    """The trainer's processes: `ranks` on this machine, of which teams of `sequence` share rows; and which one is
    meant, the `first` or another. `devices` are those of the others, by number from 1 on.
    """

    ranks: int = 1
    sequence: int = 1
    first: bool = True
    devices: tuple[str, ...] = ()

    def rows(self, count: int) -> int:
        """Of so many rows those that one process, or one team, gets at most."""
        return max(1, -(-count // (self.ranks // self.sequence)))

    def others(self, parts: Sequence[Part]) -> list[Part]:
        """The parts of all others, each of which takes these: on the CPU together, on CUDA each on its own device."""
        together = [part for part in parts if part.device == CPU]
        several = self.ranks - 1
        name = "rank 1" if several == 1 else f"ranks 1 to {several}"
        found = [replace(part, name=f"{name}: {part.name}", bytes=several * part.bytes) for part in together]
        for number, device in enumerate(self.devices, start=1):
            own = [part for part in parts if part.device != CPU]
            found += [replace(part, name=f"rank {number}: {part.name}", device=device) for part in own]
        return found


ALONE = Spread()


def is_stored(recipe: Recipe) -> bool:
    """Whether nothing is played, as the episodes are in a file."""
    return recipe.teacher is not None and recipe.teacher.scores is not None


def spread_of(recipe: Recipe) -> Spread:
    """The processes of a recipe on this machine, seen from the first."""
    ranks = ranks_here(recipe)
    return Spread(ranks, recipe.parallel.sequence, True, tuple(f"cuda:{number}" for number in range(1, ranks)))


def cut(micro: Micro, spread: Spread) -> Micro:
    """What one process of a team computes of a micro-batch."""
    return Micro(micro.rows, tokens_of_rank(micro.length, spread.sequence))


def student_in_pieces(student: Planned, device: str, spread: Spread, whole_on: str) -> list[Part]:
    """Weights and moments of a process, weights that are together for a while, and the first one's whole copy.

    What is outside of the layers (embeddings, the last norm) stays together from a forward to the end of its backward.
    """
    counts, ranks = student.counts, spread.ranks
    layer, rest = _layer_and_rest(student)
    frozen = (counts.all - counts.trained) * student.size
    together = (rest.all + GATHERED_LAYERS * layer.all) * student.size
    parts = [
        Part("student: weights in pieces", device, (counts.trained * FLOAT + frozen) // ranks),
        Part("student: moments in pieces", device, 2 * counts.trained * FLOAT // ranks),
        Part("student: weights put together", device, together),
    ]
    if spread.first:
        parts.append(Part("student: whole copy", whole_on, counts.all * student.size))
    return parts


def gradients_in_pieces(student: Planned, spread: Spread) -> tuple[int, int]:
    """Gradients that stay, in float32 and in pieces; and those of a layer and of what is outside of layers, which are
    whole, as they were computed and once more in float32 to be reduced.
    """
    layer, rest = _layer_and_rest(student)
    whole = (layer.trained + rest.trained) * student.size + max(layer.trained, rest.trained) * FLOAT
    return student.counts.trained * FLOAT // spread.ranks, whole


@final
@dataclass(frozen=True)
class _Weights:
    all: int
    trained: int


def _layer_and_rest(student: Planned) -> tuple[_Weights, _Weights]:
    """The weights of a layer, and of what is outside of layers."""
    one, two = (list(student.fake(layers).parameters()) for layers in (1, 2))
    counts = [
        (sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad))
        for parameters in (one, two)
    ]
    (all_of_one, trained_of_one), (all_of_two, trained_of_two) = counts
    layer = _Weights(all_of_two - all_of_one, trained_of_two - trained_of_one)
    return layer, _Weights(all_of_one - layer.all, trained_of_one - layer.trained)
