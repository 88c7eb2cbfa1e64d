"""The processes that train together, each with a number, and what passes between them.

A run in one process has `ALONE`, for which everything here is what it was given: nothing is computed, copied or
imported. Between several, tensors and records travel over gloo on the CPU, as batches and the objective are there;
weights and gradients are another matter (`sod.models.parallel`).

All ranks must call the same functions in the same order. What only rank 0 knows, a rollout or the answer of a server,
it hands to the others by `shared`, its failure too, so that no rank waits for one that has given up.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from sod.models.memory import OutOfMemoryError
from sod.models.team import SOLO, Team
from sod.records import SodError
from sod.seeds import derive

T = TypeVar("T")
LAUNCHED = "RANK"
"""What torchrun, and every other launcher, sets in the environment of each process that it starts."""


class LostRankError(SodError):
    """Another process of the run is gone."""

    on_all_ranks = True


class DifferenceError(SodError):
    """The processes of a run do not agree on what it is."""

    on_all_ranks = True


class RankZeroError(SodError):
    """What rank 0 has raised, and said, on another rank."""

    on_all_ranks = True


@final
@dataclass(frozen=True)
class Ranks:
    """The processes of a run: the `number` of this one, from 0, how many they are, and its number on its machine.

    `team` are those that share rows with this one: as many neighbours as `parallel.sequence` says.
    """

    number: int = 0
    count: int = 1
    local: int = 0
    team: Team = SOLO

    @property
    def first(self) -> bool:
        """Whether this is the process that plays, rewards, writes and speaks."""
        return self.number == 0

    def rows(self, lengths: Sequence[int]) -> list[int]:
        """The rows of a batch that are this process's; every row is that of exactly one, or one team. See `dealt`."""
        hands = self.count // self.team.size
        return list(range(len(lengths))) if hands == 1 else dealt(lengths, hands)[self.number // self.team.size]

    def evened(self, own: Sequence[T]) -> Iterator[T | None]:
        """What this process has to do, then None as often as another has more: forwards of a sharded model are common.

        Every process has to call it.
        """
        idle = self.most(len(own)) - len(own)  # known before the first of them
        yield from own
        yield from [None] * idle

    def most(self, value: int) -> int:
        """The largest of the processes' values."""
        return value if self.count == 1 else max(self.everybodys(value))

    def summed(self, value: Tensor) -> Tensor:
        """The sum of the processes' tensors, which are on the CPU and of one shape; where there is one, it itself.

        A team has one tensor of its rows, so that of its first counts.
        """
        if self.count == 1:
            return value
        from torch import distributed

        total = value.clone() if self.team.place == 0 else torch.zeros_like(value)
        with naming_lost_ranks():
            distributed.all_reduce(total)
        return total

    def shared(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank. It must pickle.

        What `make` raises on rank 0 is raised on all: a SodError as it is, anything else as one on the others.
        """
        if self.count == 1:
            return make()
        sent: list[Any] = [None, None]
        raised: Exception | None = None
        if self.first:
            try:
                sent[0] = make()
            except Exception as error:
                raised = error
                sent[1] = f"{error}" if isinstance(error, SodError) else f"rank 0: {type(error).__name__}: {error}"
        from torch import distributed

        with naming_lost_ranks():
            distributed.broadcast_object_list(sent, src=0)
        if raised is not None:
            raise raised
        if sent[1] is not None:
            raise RankZeroError(sent[1])
        made: T = sent[0]
        return made

    def on_first(self, make: Callable[[], T]) -> T | None:
        """What `make` gives on rank 0, which alone calls it; None on the others. What it raises is raised on all."""
        made: list[T] = []
        self.shared(lambda: made.append(make()))
        return made[0] if made else None

    def complaint(self, own: str | None) -> str | None:
        """What is wrong: on this rank, or on the first of those where something is; None where all is well."""
        if self.count == 1:
            return own
        every = self.everybodys(own)
        return own or next((f"rank {number}: {said}" for number, said in enumerate(every) if said is not None), None)

    @contextmanager
    def in_common(self) -> Iterator[None]:
        """What is wrong inside is so on all ranks, but for a lack of memory: on others than rank 0, a RankZeroError."""
        try:
            yield
        except OutOfMemoryError:
            raise
        except SodError as error:
            if self.first:
                raise
            raise RankZeroError(str(error)) from error

    def naming_losses(self) -> AbstractContextManager[None]:
        """Inside, what torch says of a process that is gone becomes a LostRankError."""
        return nullcontext() if self.count == 1 else naming_lost_ranks()

    def refuse_difference(self, value: str, what: str) -> None:
        """Raises SodError on every rank where `value`, the `what` of this one, is not the same on all."""
        if self.count == 1:
            return
        values = self.everybodys(value)
        other = next((number for number, theirs in enumerate(values) if theirs != values[0]), None)
        if other is not None:
            raise DifferenceError(
                f"rank {other} has another {what} than rank 0 ({values[other]:.12} and {values[0]:.12}); start all "
                "ranks with the same files, keys and versions"
            )

    def seed(self, seed: int) -> int:
        """A seed of this process's own: noise that is drawn for its rows must not repeat another's."""
        return seed if self.first else derive(seed, "rank", self.number)

    def everybodys(self, value: T) -> list[T]:
        """The values of all processes, by number, on each of them. They must pickle."""
        if self.count == 1:
            return [value]
        from torch import distributed

        found: list[Any] = [None] * self.count
        with naming_lost_ranks():
            distributed.all_gather_object(found, value)
        return found


ALONE = Ranks()


def refuse_other_weights(model: Any, ranks: Ranks, role: str) -> None:
    """Raises SodError where not all ranks have read the same weights: each reads `role`'s path on its own machine."""
    if ranks.count > 1:
        from sod.models.lora import fingerprint  # slow: it brings transformers

        ranks.refuse_difference(fingerprint(model), f"model at {role}.path")


def launched() -> bool:
    """Whether a launcher has started this process as one of several, or alone in the same way."""
    return LAUNCHED in os.environ


def dealt(lengths: Sequence[int], hands: int) -> list[list[int]]:
    """The numbers of rows by the hand that gets each, in order, so that all hold about as many tokens.

    The longest row first, always to the hand with the fewest tokens; a function of the lengths alone.
    """
    loads = [(0, hand) for hand in range(hands)]
    rows: list[list[int]] = [[] for _ in range(hands)]
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        load, hand = heapq.heappop(loads)
        rows[hand].append(row)
        heapq.heappush(loads, (load + lengths[row], hand))
    return [sorted(hand) for hand in rows]


@contextmanager
def naming_lost_ranks() -> Iterator[None]:
    """Turns what torch says inside of a process that is gone into a LostRankError; other errors pass."""
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in _SAID_OF_LOSS):
            raise
        raise LostRankError(
            "another rank of the run is gone (its own message, or the kernel's, says why); go on from the newest "
            "checkpoint with --resume RUN"
        ) from error


_SAID_OF_LOSS = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting"),
    *("ncclRemoteError", "NCCL communicator was aborted", "collective operation timeout"),
)
"""What gloo and NCCL put into the RuntimeError of a collective whose other end is gone."""
