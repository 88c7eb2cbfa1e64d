"""The engine of vLLM servers: turns go out as requests for token ids, and come back with the log-probabilities that
they were sampled with.

An episode stays at one server, whose prefix cache has its earlier turns. A turn's noise is a hash of its noise key and
first position, so that one that is sampled again is the same up to rounding: how a server batches requests is its own
affair, and in float32 moves log-probabilities by 1e-6. Weights are pushed and checked (`vllm_fleet.py`); every reply
names the weights that it was made with, and one of other weights is a fault.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, final

from sod.asynchronous import LoopThread
from sod.engines.base import Sampled, SampleRequest, Sampling
from sod.engines.vllm_check import default_tolerance, questions
from sod.engines.vllm_fleet import NOBODY, Fleet, Keeper, Weights
from sod.engines.vllm_push import Pusher
from sod.engines.vllm_server import Server, ServerFaultError, prefix_remark
from sod.engines.vllm_wire import GENERATE, MOST_BANNED, Vocabulary, not_finite, read_turn, turn_body
from sod.models.support import SupportHead
from sod.recipe import EngineSpec
from sod.records import Fault, FaultKind, SodError

SLICE_SECONDS = 0.2
"""How long `advance` waits for a turn to end before the caller can look at its tools."""


@final
class VllmEngine:
    """Samples with the servers at `urls`, which get the weights of `model` now and at every `sync`.

    `max_rows` turns are under way at a time at each server. `keeper` starts those again that end. `prompt_tokens` and
    `cached_tokens` add up what servers tell of their prefix caches. Raises SodError, in one line, for a server that is
    not there, is of another version, lacks a route, serves another model, or is off the trainer's log-probabilities.
    """

    def __init__(
        self,
        model: Any,
        stop_ids: frozenset[int],
        urls: Sequence[str],
        spec: EngineSpec,
        pusher: Pusher,
        longest: int,
        max_rows: int,
        notice: Callable[[str], None],
        keeper: Keeper = NOBODY,
    ) -> None:
        self._spec = spec
        self._pusher = pusher
        self._nonce = uuid.uuid4().hex[:12]  # a server may have other runs' weights of the same version
        self._version = 0
        self._vocabulary = vocabulary_of(model, stop_ids)
        self._sampling = Sampling()
        self._turns: dict[str, Future[Sampled | Fault]] = {}
        self._closed = False
        self.prompt_tokens = self.cached_tokens = 0
        self._loop = LoopThread()
        self._fleet = self._loop.run(self._made(model, urls, longest, max_rows, notice, keeper))
        try:
            self._loop.run(self._fleet.open(self._weights(model)))
            for server in self._fleet.servers:
                remark = self._loop.run(prefix_remark(server))
                if remark is not None:
                    notice(remark)
        except BaseException:
            self.close()
            raise

    @property
    def exact(self) -> bool:
        """Never: the servers' kernels are not the trainer's, so the trainer makes the old log-probabilities itself."""
        return False

    @property
    def version(self) -> int:
        """How many times `sync` was called."""
        return self._version

    @property
    def deaths(self) -> int:
        """How many times a server that worked failed."""
        return self._fleet.deaths

    def submit(self, requests: Sequence[SampleRequest], sampling: Sampling) -> None:
        """Send turns to their servers; see `Engine.submit`."""
        self._refuse_closed()
        if self._turns and sampling != self._sampling:
            raise ValueError("turns with other sampling settings are still under way")
        sessions = [*self._turns, *(request.session for request in requests)]
        if len(set(sessions)) < len(sessions):
            raise ValueError("a session has two turns under way")
        self._sampling = sampling
        for request in requests:
            self._turns[request.session] = self._loop.begin(self._turn(request, sampling))

    def advance(self, tokens: int) -> list[tuple[str, Sampled | Fault]]:
        """The turns that ended; waits a moment for one where none has, see `Engine.advance`.

        Servers decode by themselves, so that `tokens` says nothing. Raises SodError where a server that came back has
        other weights than it was sent, where its log-probabilities are no numbers, and where all are given up.
        """
        wait(self._turns.values(), SLICE_SECONDS, FIRST_COMPLETED)
        ended = [(session, turn) for session, turn in self._turns.items() if turn.done()]
        for session, _ in ended:
            del self._turns[session]
        return [(session, turn.result()) for session, turn in ended]

    def forget(self, sessions: Iterable[str]) -> None:
        """These episodes are over; see `Engine.forget`."""
        if not self._closed:
            self._loop.run(self._forgotten(list(sessions)))

    def sync(self, model: Any) -> None:
        """Push the weights of `model` to all servers and check that they sample with them; see `Engine.sync`.

        Raises SodError where they do not, and where no server is left.
        """
        self._refuse_closed()
        if self._turns:
            raise ValueError("the weights changed while turns were being sampled")
        self._version += 1
        self._loop.run(self._fleet.hold())
        self._loop.run(self._fleet.place(self._weights(model)))

    def close(self) -> None:
        """Drop turns under way, close connections, remove the file of weights; see `Engine.close`."""
        if self._closed:
            return
        self._closed = True
        for turn in self._turns.values():
            turn.cancel()
        self._turns.clear()
        self._loop.run(self._fleet.close())
        self._pusher.close()

    @property
    def _label(self) -> str:
        """What the servers call the weights of this version."""
        return f"{self._nonce}-{self._version}"

    async def _made(
        self,
        model: Any,
        urls: Sequence[str],
        longest: int,
        max_rows: int,
        notice: Callable[[str], None],
        keeper: Keeper,
    ) -> Fleet:
        """The servers, in the event loop that their connections will live in."""
        spec = self._spec
        tolerance = default_tolerance(model) if spec.tolerance is None else spec.tolerance
        servers = [Server(url, max_rows) for url in urls]
        patience = spec.restart_seconds
        return Fleet(servers, self._pusher, self._vocabulary, longest, tolerance, patience, notice, keeper)

    def _weights(self, model: Any) -> Weights:
        """Make the weights of `model` ready to be pushed, and what they are checked by."""
        self._pusher.prepare(model, self._label)
        allowed = [token for token in range(self._vocabulary.rows) if token not in self._vocabulary.banned]
        return Weights(self._label, questions(model, allowed, self._label))

    async def _turn(self, request: SampleRequest, sampling: Sampling) -> Sampled | Fault:
        """One turn, by the server that its episode is at. Raises SodError as `advance`."""
        if request.max_new_tokens <= 0:
            return Sampled((), (), False, self._version)
        label, version = self._label, self._version
        while True:
            server = await self._fleet.home(request.session)
            if server is None:
                return Fault(FaultKind.UNREACHABLE, "no server came back in time (engine.restart_seconds)", False)
            async with server.room:
                if not self._fleet.is_live(server):  # it was lost while this turn waited for others to end
                    continue
                body = turn_body(request, sampling, self._vocabulary, label)
                try:
                    content = await server.asked(GENERATE, body, self._spec.turn_seconds)
                except ServerFaultError as error:
                    return self._failed(server, error.fault)
            return self._read(server, content, request, sampling, label, version)

    def _read(
        self, server: Server, content: Any, request: SampleRequest, sampling: Sampling, label: str, version: int
    ) -> Sampled | Fault:
        """The turn in a reply. Raises SodError where its log-probabilities are no numbers."""
        reply = read_turn(content, request, sampling, self._vocabulary)
        if isinstance(reply, Fault):
            return self._failed(server, Fault(reply.kind, f"{server.url}: {reply.detail}"))
        if reply.label != label:  # it was started again in between, and nobody noticed
            return self._failed(server, Fault(FaultKind.SERVER, f"{server.url}: sampled with other weights than sent"))
        if not_finite(reply.logps):
            raise SodError(f"{server.url}: sampling: the model's logits are not finite (NaN or infinite weights?)")
        self.prompt_tokens += reply.prompt_tokens
        self.cached_tokens += reply.cached_tokens
        return Sampled(reply.token_ids, reply.logps, reply.token_ids[-1] in self._vocabulary.stop_ids, version)

    def _failed(self, server: Server, fault: Fault) -> Fault:
        """The fault of a turn; where the server may be to blame it gets no other until it has been looked after."""
        if fault.retryable:
            self._fleet.lost(server, fault)
        return fault

    async def _forgotten(self, sessions: Sequence[str]) -> None:
        self._fleet.forget(sessions)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ValueError("the engine is closed")


def vocabulary_of(model: Any, stop_ids: frozenset[int]) -> Vocabulary:
    """The tokens of a model's turns: rows of its output embedding without a token are banned.

    Raises SodError where there are more of them than a server can leave out.
    """
    head = model.get_output_embeddings()
    rows = len(head.weight)
    banned: frozenset[int] = frozenset()
    if isinstance(head, SupportHead):
        holes = [] if head.hole_V is None else head.hole_V.nonzero().flatten().tolist()
        banned = frozenset([*holes, *range(head.out_features, rows)])
    if len(banned) > MOST_BANNED:
        raise SodError(
            f"student.path: {len(banned):,} of the model's {rows:,} rows have no token, and a vLLM server leaves out "
            f"{MOST_BANNED:,} at most; save it after resize_token_embeddings({rows - len(banned)}), or set "
            "engine.kind=torch"
        )
    return Vocabulary(rows, stop_ids, banned)
