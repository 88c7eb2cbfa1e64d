"""What a rollout asks of an engine: token ids in, sampled token ids and their exact log-probabilities out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

from sod.records import Fault


@final
@dataclass(frozen=True)
class Sampling:
    """The distribution that tokens are drawn from.

    `temperature` 0 means greedy. `top_k` 0 and `top_p` 1 switch truncation off; with truncation the reported
    log-probabilities are those of the truncated, renormalised distribution.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@final
@dataclass(frozen=True)
class SampleRequest:
    """One assistant turn to sample.

    `token_ids` is the whole context. `noise_key` (64 bits) and the absolute position of a token fix its
    sampling noise, whatever else is in the batch. `session` names the episode, for engines that keep
    their cache across its turns.
    """

    session: str
    token_ids: Sequence[int]
    max_new_tokens: int
    noise_key: int


@final
@dataclass(frozen=True)
class Sampled:
    """A sampled turn. `stopped` tells whether it ended in a stop token (which is then its last id).

    `version` is the engine's `version` at the turn's first token: the weights that it was sampled with.
    """

    token_ids: tuple[int, ...]
    logps: tuple[float, ...]  # nats, under the distribution sampled from
    stopped: bool
    version: int = 0


class Engine(Protocol):
    """Samples turns for many episodes at once, new ones joining while others are under way."""

    @property
    def exact(self) -> bool:
        """Whether log-probabilities are the trainer's own up to float32 rounding, where nothing is truncated.

        Where they are, the trainer takes them as those of the old policy and runs no forward of its own.
        """
        ...

    @property
    def version(self) -> int:
        """How many times weights were taken over: 0 for those that the engine began with, 1 more for every `sync`."""
        ...

    def submit(self, requests: Sequence[SampleRequest], sampling: Sampling) -> None:
        """Queue one turn of each session. All turns under way share their sampling settings.

        Raises ValueError for other settings, for a session that has a turn under way already, and after `close`.
        """
        ...

    def advance(self, tokens: int) -> Sequence[tuple[str, Sampled | Fault]]:
        """Sample up to so many tokens for every turn that has room in the batch; the turns that ended, by session.

        A turn ends sampled, or in a `Fault` where the engine failed (its server is down): the turn is then no longer
        under way, nothing of it counts, and its session may submit it again.
        Returns early when nothing is left to sample. What is sampled is a function of the requests, of the order
        and moments (in tokens) of their submission, and of the weights alone.
        """
        ...

    def forget(self, sessions: Iterable[str]) -> None:
        """These episodes are over: what was kept for them may go. Unknown names are ignored."""
        ...

    def sync(self, model: Any) -> None:
        """Sample with the weights of `model`, the trainer's, from now on; `version` grows by 1.

        What was cached under other weights is forgotten. Raises ValueError while turns are under way, and after
        `close`.
        """
        ...

    def close(self) -> None:
        """Release memory, connections and processes; turns under way are dropped. Safe to call twice."""
        ...
