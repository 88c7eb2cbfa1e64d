"""An engine that samples while the trainer learns: with weights of its own, and stopped from outside."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any, final

from sod.engines.base import Engine, Sampled, SampleRequest, Sampling
from sod.models.lora import take_weights
from sod.records import Fault, SodError


@final
class BesideEngine:
    """`engine` over the model `own`, which gets the trainer's weights at `sync` and keeps them until the next.

    None for an engine that holds weights of its own anyway, in servers or in a copy of the trainer's model. Its
    log-probabilities are never taken for the trainer's. `stop` may be called from any thread.
    """

    def __init__(self, engine: Engine, own: Any | None) -> None:
        self._engine = engine
        self._own = own
        self._stopped = threading.Event()

    @property
    def exact(self) -> bool:
        """False: the trainer's weights go on while turns are sampled."""
        return False

    @property
    def version(self) -> int:
        """See `Engine.version`."""
        return self._engine.version

    def submit(self, requests: Sequence[SampleRequest], sampling: Sampling) -> None:
        """See `Engine.submit`."""
        self._engine.submit(requests, sampling)

    def advance(self, tokens: int) -> Sequence[tuple[str, Sampled | Fault]]:
        """See `Engine.advance`. Raises SodError after `stop`."""
        if self._stopped.is_set():
            raise SodError("sampling was stopped, as the run has ended")
        return self._engine.advance(tokens)

    def forget(self, sessions: Iterable[str]) -> None:
        """See `Engine.forget`."""
        self._engine.forget(sessions)

    def sync(self, model: Any) -> None:
        """See `Engine.sync`."""
        if self._own is None:
            self._engine.sync(model)
            return
        take_weights(self._own, model)
        self._engine.sync(self._own)

    def stop(self) -> None:
        """What is under way, or begins, ends with an error at its next chunk of tokens."""
        self._stopped.set()

    def close(self) -> None:
        """See `Engine.close`."""
        self.stop()
        self._engine.close()
