"""Several servers with the same weights: which one an episode is at, and what happens when one dies.

A server that failed gets no turn until it answers again, has been sent the current weights and has passed their check,
whoever starts it again. Meanwhile its episodes go to others, or wait where there are none. Everything here but the
constructor is called in one event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, final

from sod.engines.vllm_check import Gaps, Question
from sod.engines.vllm_push import Pusher
from sod.engines.vllm_server import SAMPLE_SECONDS, Server, ServerFaultError, refuse_unable
from sod.engines.vllm_wire import GENERATE, TOP_OF_CHECK, Vocabulary, read_top, scored_body
from sod.records import Fault, FaultKind, SodError

PUSH_SECONDS = 1800.0
"""Time limit of a push."""
HELD_SECONDS = 300.0
"""How long other weights wait for a server that is just being sent the current ones."""


class Keeper(Protocol):
    """Who started servers, and starts those again that ended."""

    def is_given_up(self, url: str) -> bool:
        """Whether nobody starts the server at this url again."""
        ...

    def restart(self, url: str) -> None:
        """End the server at this url, which is there and does no good, so that it is started again.

        Nothing happens where it is not one of its servers. May take seconds.
        """
        ...


@final
class Nobody:
    """The keeper of servers that somebody else has started."""

    def is_given_up(self, url: str) -> bool:
        """See `Keeper`: nobody knows."""
        return False

    def restart(self, url: str) -> None:
        """See `Keeper`."""


NOBODY = Nobody()


@final
@dataclass(frozen=True)
class Weights:
    """Weights by their name on the servers, and what the trainer makes of a few texts with them."""

    label: str
    questions: Sequence[Question]


@final
class Fleet:
    """The servers of a run; `longest` is the longest text (tokens), `tolerance` that of the check (nats/token).

    One that the `keeper` has given up is not waited for, and one that is there and does not answer is the keeper's to
    start again. `deaths` counts how often a server that worked failed.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        pusher: Pusher,
        vocabulary: Vocabulary,
        longest: int,
        tolerance: float,
        restart_seconds: float,
        notice: Callable[[str], None],
        keeper: Keeper,
    ) -> None:
        self.servers = servers
        self._pusher = pusher
        self._vocabulary = vocabulary
        self._longest = longest
        self._tolerance = tolerance
        self._restart_seconds = restart_seconds
        self._notice = notice
        self._keeper = keeper
        self._live: set[Server] = set()
        self._reviving: dict[Server, asyncio.Task[None]] = {}
        self._taking: dict[Server, asyncio.Task[None]] = {}
        self._homes: dict[str, Server] = {}
        self._weights: Weights | None = None
        self._fatal: SodError | None = None
        self._failure = ""
        self._changed = asyncio.Event()
        self.deaths = 0

    async def open(self, weights: Weights) -> None:
        """Give all servers the weights for the first time. Raises SodError for one that cannot do what it must.

        One that fails here has never worked: it is not waited for.
        """
        checks = (refuse_unable(server, self._longest) for server in self.servers)
        for failure in await asyncio.gather(*checks, return_exceptions=True):
            if isinstance(failure, ServerFaultError):
                raise SodError(f"engine.urls: {failure}; start the server, or correct the url") from failure
            if failure is not None:
                raise failure
        self._live = set(self.servers)
        self._weights = weights
        for failure in (await self._all_given(self.servers)).values():
            raise SodError(f"{failure}; it was sent its first weights: see its log") from failure

    async def hold(self) -> None:
        """Have no server read the current weights any more, so that others can be made ready in their place.

        One that came back and is just taking them may end that: with half of them it would fail, and stop the run.
        """
        if self._taking:
            await asyncio.wait(self._taking.values(), timeout=HELD_SECONDS)
        await self._stop_reviving()

    async def place(self, weights: Weights) -> None:
        """Give the servers new weights, after `hold`; those that are down get them when they are back.

        Raises SodError where a server fails their check, and where none is left.
        """
        self._refuse_unfit()
        self._weights = weights
        down = [server for server in self.servers if server not in self._live]
        for server in down:
            self._revive(server)
        live = [server for server in self.servers if server in self._live]
        for server, failure in (await self._all_given(live)).items():
            self.lost(server, failure.fault)
        if not self._live and await self._some_server() is None:
            raise SodError(
                f"no server is left of {self._named()} ({self._failure}); start them again, and go on with --resume"
            )

    async def home(self, session: str) -> Server | None:
        """The server that an episode is at, or else goes to; None where none came back in time.

        Raises SodError where one, whichever, came back and failed the check of its weights, and where all are given up.
        """
        self._refuse_unfit()
        home = self._homes.get(session)
        if home is None or home not in self._live:
            home = await self._some_server()
            if home is not None:
                self._homes[session] = home
        return home

    def lost(self, server: Server, fault: Fault) -> None:
        """A server failed: it gets no turns until it is back."""
        if server not in self._live:
            return
        self._live.discard(server)
        self._failure = fault.detail
        self.deaths += 1
        self._notice(f"{fault.detail}; its turns are sampled again, there when it is back or by another server")
        self._revive(server)

    def is_live(self, server: Server) -> bool:
        """Whether a server may get turns."""
        return server in self._live

    def forget(self, sessions: Iterable[str]) -> None:
        """These episodes are over."""
        for session in sessions:
            self._homes.pop(session, None)

    async def close(self) -> None:
        """Close all connections."""
        await self._stop_reviving()
        for server in self.servers:
            await server.close()

    async def _some_server(self) -> Server | None:
        """The server with the fewest episodes, as soon as there is one; None where none came back in time.

        Raises SodError where none is to come back.
        """
        try:
            async with asyncio.timeout(self._restart_seconds):
                while not self._live:
                    self._refuse_all_given_up()
                    self._changed.clear()
                    await self._changed.wait()
                    self._refuse_unfit()
        except TimeoutError:
            return None
        episodes = Counter(self._homes.values())
        return min((server for server in self.servers if server in self._live), key=lambda one: episodes[one])

    def _refuse_all_given_up(self) -> None:
        if all(self._keeper.is_given_up(server.url) for server in self.servers):
            raise SodError(
                f"no server is left of {self._named()}, and none is started again (launch.restarts; its log is in the "
                "run's logs); mend what ends it, and go on with --resume"
            )

    def _refuse_unfit(self) -> None:
        """Raises SodError where a server that came back was found unfit: the run is to stop, not to do without it."""
        if self._fatal is not None:
            raise self._fatal

    def _revive(self, server: Server) -> None:
        self._reviving[server] = asyncio.create_task(self._revived(server))

    async def _revived(self, server: Server) -> None:
        """Wait for a server that failed, until it is given up, and give it the weights."""
        try:
            pause = 0.5
            while not await self._back(server):
                if self._keeper.is_given_up(server.url):
                    break
                await asyncio.sleep(pause)
                pause = min(5.0, 2 * pause)  # one that fails at every push is not sent gigabytes all the time
            else:
                self._live.add(server)
                self._notice(f"{server.url}: back, with the current weights")
        except SodError as error:
            self._fatal = error
        self._changed.set()

    async def _back(self, server: Server) -> bool:
        """Whether a server answers again and has taken the weights."""
        if not await server.healthy(0.0):
            return False
        try:
            await refuse_unable(server, self._longest)
            taking = self._taking[server] = asyncio.create_task(self._given(server))
            try:
                await taking
            finally:
                del self._taking[server]
        except ServerFaultError as error:
            self._failure = error.fault.detail
            if error.fault.kind == FaultKind.TIMEOUT:  # though nothing else is asked of it
                await asyncio.to_thread(self._keeper.restart, server.url)
            return False
        except SodError:
            if await server.healthy(0.0):  # it is there, and cannot do what it must
                raise
            return False
        return True

    async def _stop_reviving(self) -> None:
        tasks, self._reviving = list(self._reviving.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _all_given(self, servers: Sequence[Server]) -> dict[Server, ServerFaultError]:
        """Give servers the weights, at the same time; the failures of those that failed. Raises SodError."""
        ended = await asyncio.gather(*(self._given(server) for server in servers), return_exceptions=True)
        failures: dict[Server, ServerFaultError] = {}
        for server, failure in zip(servers, ended, strict=True):
            if isinstance(failure, ServerFaultError):
                failures[server] = failure
            elif failure is not None:
                raise failure
        return failures

    async def _given(self, server: Server) -> None:
        """Give one server the weights and check that it has them. Raises ServerFaultError, and SodError."""
        weights = self._weights
        assert weights is not None
        await server.post("/pause?mode=keep")
        try:
            await self._pusher.push(server, PUSH_SECONDS)
            await server.post("/update_weight_version", {"new_version": weights.label})
        except ServerFaultError as error:
            if error.fault.kind == FaultKind.SERVER and await server.healthy(0.0):
                raise SodError(f"{error}; serve the model of student.path there, and see its log") from error
            raise
        finally:
            with suppress(ServerFaultError):  # one that is gone is not paused either
                await server.post("/resume")
        answers = [await self._answer(server, weights.label, question) for question in weights.questions]
        Gaps.of(weights.questions, answers).refuse(server.url, self._tolerance)

    async def _answer(self, server: Server, label: str, question: Question) -> dict[int, float]:
        """What a server makes of a text. Raises ServerFaultError."""
        asked = scored_body(question.token_ids, question.sampling, self._vocabulary, label, TOP_OF_CHECK)
        content = await server.asked(GENERATE, asked, SAMPLE_SECONDS)
        found = read_top(content)
        if isinstance(found, Fault):
            raise ServerFaultError(Fault(found.kind, f"{server.url}: {found.detail}", found.retryable))
        return found

    def _named(self) -> str:
        return ", ".join(server.url for server in self.servers)
