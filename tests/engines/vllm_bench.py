"""Engines over servers that speak vLLM's routes, for tests."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from engines.vllm_stand_in import StandIn
from sod.engines.base import Sampled, SampleRequest, Sampling
from sod.engines.vllm import VllmEngine
from sod.engines.vllm_push import FilePusher
from sod.recipe import EngineSpec
from sod.records import Fault

PLAIN = Sampling()
STOPS = frozenset({5, 6, 7, 8, 9})
PROMPT = (20, 30, 40, 50, 60, 70)


class Bench:
    """Servers and engines of a test, closed after it, and the keeper of these servers.

    Those at `given_up` are not started again.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack, self.said = folder, stack, list[str]()
        self.given_up: set[str] = set()
        self.restarted: list[str] = []
        self._servers: dict[str, tuple[StandIn, Any]] = {}

    def server(self, model: Any, port: int = 0, **behaviour: Any) -> StandIn:
        server = StandIn(copy.deepcopy(model), port, **behaviour)
        self._stack.callback(server.close)
        self._servers[server.url] = server, model
        return server

    def is_given_up(self, url: str) -> bool:
        return url in self.given_up

    def restart(self, url: str) -> None:
        server, model = self._servers[url]
        server.close()
        self.restarted.append(url)
        self.server(model, server.port)

    def engine(
        self, model: Any, servers: Sequence[StandIn | str], longest: int = 200, rows: int = 16, **keys: Any
    ) -> VllmEngine:
        urls = [server if isinstance(server, str) else server.url for server in servers]
        spec = EngineSpec(kind="vllm", urls=urls, **keys)
        pusher = FilePusher(str(self.folder / "pushed"))
        engine = VllmEngine(model, STOPS, urls, spec, pusher, longest, rows, self.said.append, self)
        self._stack.callback(engine.close)
        return engine


def asked(count: int, new: int = 8, ids: Sequence[int] = PROMPT) -> list[SampleRequest]:
    return [SampleRequest(f"e{number}", ids, new, 100 + number) for number in range(count)]


def played(
    engine: VllmEngine, requests: Sequence[SampleRequest], sampling: Sampling = PLAIN
) -> dict[str, Sampled | Fault]:
    engine.submit(requests, sampling)
    return finished(engine, len(requests))


def finished(engine: VllmEngine, turns: int) -> dict[str, Sampled | Fault]:
    ended: dict[str, Sampled | Fault] = {}
    for _ in range(200):
        ended |= dict(engine.advance(16))
        if len(ended) == turns:
            return ended
    raise AssertionError("the turns do not end")


def sampled(outcome: Sampled | Fault) -> Sampled:
    assert isinstance(outcome, Sampled), outcome
    return outcome
