"""The engine interface: token ids in, sampled token ids and their exact log-probabilities out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Sampling:
    """The distribution that tokens are drawn from.

    `temperature` 0 means greedy. `top_k` 0 and `top_p` 1 switch truncation off; with truncation the reported
    log-probabilities are those of the truncated, renormalised distribution.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


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


@dataclass(frozen=True)
class Sampled:
    """A sampled turn. `stopped` tells whether it ended in a stop token (which is then its last id)."""

    token_ids: tuple[int, ...]
    logps: tuple[float, ...]  # nats, under the distribution sampled from
    stopped: bool


class Engine(Protocol):
    """Samples turns for many episodes at once, new ones joining while others are under way."""

    def submit(self, requests: Sequence[SampleRequest], sampling: Sampling) -> None:
        """Queue one turn of each session. All turns under way share their sampling settings.

        Raises ValueError for other settings, and for a session that has a turn under way already.
        """
        ...

    def advance(self, tokens: int) -> list[tuple[str, Sampled]]:
        """Sample up to so many tokens for every turn that has room in the batch; the turns that ended, by session.

        Returns early when nothing is left to sample. What is sampled is a function of the requests, of the order
        and moments (in tokens) of their submission, and of the weights alone.
        """
        ...

    def forget(self, sessions: Iterable[str]) -> None:
        """These episodes are over: what was kept for them may go. Unknown names are ignored."""
        ...

    def sync(self, model: Any) -> None:
        """Take over the trainer's weights after an update. Raises ValueError while turns are being sampled."""
        ...
