"""An evaluation in blocks: what is played together, and what is lost of it where the process is killed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

LARGEST, SMALLEST, BLOCKS = 512, 64, 8
"""Episodes of a block at most and at least, and how many blocks there are where those allow it."""


@final
@dataclass(frozen=True)
class Block:
    """The samples numbered `first_sample` up to but not including `last_sample` of tasks by their positions."""

    first_task: int
    last_task: int
    first_sample: int
    last_sample: int

    @property
    def samples(self) -> int:
        """Of each of its tasks."""
        return self.last_sample - self.first_sample


def block_size(episodes: int, wide: bool) -> int:
    """How many episodes are played together; `wide` where many at once take hardly longer than a few."""
    return LARGEST if wide else min(LARGEST, max(SMALLEST, -(-episodes // BLOCKS)))


def blocks_of(tasks: int, stages: Sequence[int], episodes: int) -> list[Block]:
    """Every block of so many episodes at most (a task's samples are never parted).

    `stages` are the samples of a task that were asked for at first, and then each time that more were.
    """
    blocks, done = [], 0
    for samples in stages:
        together = max(1, episodes // (samples - done))
        for first in range(0, tasks, together):
            blocks.append(Block(first, min(first + together, tasks), done, samples))
        done = samples
    return blocks
