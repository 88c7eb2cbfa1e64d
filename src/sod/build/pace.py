"""How fast a world can be played, and how well scripted players do in it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import final

from sod.build.playable import Playable
from sod.environments.playing import Played, Player, episodes


@final
@dataclass(frozen=True)
class Pace:
    """Episodes that were played one after the other and side by side, and the seconds that it took in all."""

    episodes: Sequence[Played]
    succeeded: int
    seconds: float

    @property
    def per_minute(self) -> float:
        """Episodes in a minute."""
        return 60 * len(self.episodes) / self.seconds

    @property
    def turns(self) -> float:
        """Turns of an episode, on average."""
        return sum(len(one.moves) for one in self.episodes) / len(self.episodes)

    @property
    def reward(self) -> float:
        """Reward of an episode, on average."""
        return sum(one.reward for one in self.episodes) / len(self.episodes)


def pace(world: Playable, player: Player, count: int, seed: int, max_turns: int) -> Pace:
    """Play `count` episodes, the tasks in turn, `environment.concurrency` of them side by side.

    What is made once for a process (an index of passages, a catalogue) was made with the tasks, and is not counted;
    making the environments is. Raises SodError where the world has no such player, or fails.
    """
    tasks = list(islice(cycle(world.tasks), count))
    with world.worlds() as worlds:
        started = time.monotonic()
        played = list(episodes(worlds, tasks, player, seed, max_turns, world.spec.concurrency))
        seconds = time.monotonic() - started
    return Pace(played, sum(one.reward >= world.spec.success for one in played), seconds)
