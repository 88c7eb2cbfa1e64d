"""An engine of a student whose weights are in pieces over several processes: rank 0 samples, with a whole copy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

from sod.engines.base import Engine, Sampled, SampleRequest, Sampling
from sod.records import Fault


@final
class GatheredEngine:
    """Rank 0's engine, as every rank sees it: all take part in `sync`, and rank 0 alone samples.

    `inner` is rank 0's engine, None on the others. `gather` puts the weights of a sharded model together on rank 0 and
    returns the whole model there; all ranks call it. `exact` is what `inner` says, on all ranks.
    """

    def __init__(self, inner: Engine | None, exact: bool, gather: Callable[[Any], Any]) -> None:
        self._inner = inner
        self._exact = exact
        self._gather = gather
        self._version = 0

    @property
    def exact(self) -> bool:
        """As the engine of rank 0."""
        return self._exact

    @property
    def version(self) -> int:
        """How many times `sync` was called."""
        return self._version

    def submit(self, requests: Sequence[SampleRequest], sampling: Sampling) -> None:
        """See `Engine.submit`. Raises ValueError on other ranks than 0."""
        self._own().submit(requests, sampling)

    def advance(self, tokens: int) -> Sequence[tuple[str, Sampled | Fault]]:
        """See `Engine.advance`. Raises ValueError on other ranks than 0."""
        return self._own().advance(tokens)

    def forget(self, sessions: Iterable[str]) -> None:
        """See `Engine.forget`."""
        if self._inner is not None:
            self._inner.forget(sessions)

    def sync(self, model: Any) -> None:
        """Put the weights of `model` together on rank 0, which samples with them from now on; all ranks call it."""
        whole = self._gather(model)
        if self._inner is not None:
            self._inner.sync(whole)
        self._version += 1

    def close(self) -> None:
        """See `Engine.close`."""
        if self._inner is not None:
            self._inner.close()

    def _own(self) -> Engine:
        if self._inner is None:
            raise ValueError("rank 0 alone samples")
        return self._inner
