"""What a process takes of a student whose weights are in pieces over several (`sod.models.parallel`). In bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from sod.build.servers import ranks_here
from sod.models.architecture import head_sizes
from sod.models.cut import tokens_of_rank
from sod.preflight.devices import CPU
from sod.preflight.models import FLOAT, Micro, Planned
from sod.preflight.parts import SCORING, UPDATE, Part
from sod.preflight.rehearsal import Laps, Sizes
from sod.recipe import Recipe

GATHERED_LAYERS = 2
"""Layers whose weights are together at a time: the one that computes, and the next, as it was sent."""


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
    """What one process of a team computes of a micro-batch; rows that are cut share nothing."""
    if spread.sequence == 1:
        return micro
    length = tokens_of_rank(micro.length, spread.sequence)
    return Micro(micro.rows, length, max(1, micro.context // spread.sequence))


def student_in_pieces(student: Planned, device: str, spread: Spread, whole_on: str) -> list[Part]:
    """Weights and moments of a process, weights that are together for a while, and the first one's whole copy.

    What is outside of the layers (embeddings, the last norm) stays together from a forward to the end of its backward.
    Layers are put together one by one: in an update that is part of its backward pass, see `update_in_pieces`.
    """
    counts, ranks = student.counts, spread.ranks
    layer, rest = _layer_and_rest(student)
    frozen = (counts.all - counts.trained) * student.size
    parts = [
        Part("student: weights in pieces", device, (counts.trained * FLOAT + frozen) // ranks),
        Part("student: moments in pieces", device, 2 * counts.trained * FLOAT // ranks),
        Part("student: embeddings put together", device, rest.all * student.size, (SCORING, UPDATE)),
        Part("student: layers put together", device, GATHERED_LAYERS * layer.all * student.size, (SCORING,)),
    ]
    if spread.first:
        parts.append(Part("student: whole copy", whole_on, counts.all * student.size))
    return parts


def with_exchange(laps: Laps, student: Planned, micro: Micro) -> Laps:
    """With what attention says in a team a second time: as computed, all tokens of some heads, and as it comes back.

    See `models.spread`. A layer that is recomputed has it for a moment.
    """
    heads, _, head_dim = head_sizes(student.config)
    layer = micro.tokens * heads * head_dim * student.size
    grown = 0 if student.recompute else layer
    kept = student.layers * grown
    return replace(
        laps,
        kept=laps.kept + kept,
        head=laps.head + kept,
        last=laps.last + max(kept, layer),
        left=laps.left + kept - grown,
        layer=laps.layer + grown,
    )


def update_in_pieces(laps: Laps, student: Planned, spread: Spread, several: bool) -> Sizes:
    """What a forward and backward take where weights are in pieces, beside those that stay together and gradients that
    are there before (of `several` micro-batches).

    `laps` are those of whole weights without gradients. As torch's FSDP goes, in an update that begins at the top: a
    layer's weights arrive while the one above computes, are copied out, and go when its gradients are there; these are
    copied in float32 to be sent, a copy that stays until the next layer's is made, and a rank's piece of them is kept.
    So logits are there with one layer's weights, and activations of all layers with one layer's gradients.
    """
    layer, rest = _layer_and_rest(student)
    gathered, sent = layer.all * student.size, layer.trained * FLOAT
    piece = -(-sent // spread.ranks)
    kept_pieces = 0 if several else piece

    def computing(above: int) -> int:
        """In a layer with so many above it done."""
        copied = sent + above * kept_pieces if above else 0
        return laps.last - above * laps.layer + GATHERED_LAYERS * gathered + copied

    def sending(above: int) -> int:
        """As its gradients are sent, when only the next layer's weights are there."""
        return laps.left - above * laps.layer + gathered + sent + piece + above * kept_pieces

    last = student.layers - 1
    # With more layers done it goes up or down by as much each time.
    backward = max(at(above) for at in (computing, sending) for above in (0, min(1, last), last))
    # At the end gradients of what is outside of the layers: of tied embeddings twice, before they are added up.
    times = 2 if student.config.get_text_config().tie_word_embeddings else 1
    of_rest = rest.trained * student.size
    end = student.layers * kept_pieces + of_rest + max(times * of_rest - of_rest + sent, rest.trained * FLOAT)
    return Sizes(laps.kept, max(laps.head + gathered, backward, end))


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
