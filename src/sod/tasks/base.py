"""SFT examples, and the order in which a run draws its tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from sod.records import Message, Task
from sod.seeds import derive


@final
@dataclass(frozen=True)
class Conversation:
    """One SFT example: messages with at least one assistant turn, and the tools it declares.

    `reward` is what an episode earned, where the row is one.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    reward: float | None = None


def draw(count: int, total: int, seed: int, step: int) -> list[int]:
    """Indices of the `count` items of `step` (from 1) out of `total`: a pure function of (seed, step).

    Every epoch is a new permutation; a step may straddle two epochs.
    """
    first = (step - 1) * count
    chosen: list[int] = []
    while len(chosen) < count:
        epoch, offset = divmod(first + len(chosen), total)
        order = np.random.default_rng(derive(seed, "epoch", epoch)).permutation(total)
        chosen.extend(int(i) for i in order[offset : offset + count - len(chosen)])
    return chosen


def draw_tasks(tasks: Sequence[Task], count: int, seed: int, step: int) -> list[Task]:
    """The tasks of one training step; see `draw`."""
    return [tasks[i] for i in draw(count, len(tasks), seed, step)]
