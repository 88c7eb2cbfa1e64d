"""The model's side of an episode of verifiers: where its harness asks a model, our rollout answers.

In verifiers a harness owns the loop of an episode, and asks its model over HTTP. `PlayedHarness` is such a loop in this
process: every request goes by verifiers' own session, with its limits, stops and interceptors, to an `Exchange`.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, final

import verifiers.v1 as vf  # type: ignore[import-not-found]
from verifiers.v1 import graph
from verifiers.v1.configs.agent import agent_config_fields  # type: ignore[import-not-found]
from verifiers.v1.harnesses.null import NullHarnessConfig  # type: ignore[import-not-found]
from verifiers.v1.interception import Interception  # type: ignore[import-not-found]

from sod.environments.replies import BadReplyError
from sod.environments.verifiers_tools import HostedTools, Shared, split_toolsets

MODEL = "sod"
CUT = "max_turns"
"""Why an episode of verifiers ended that our rollout cut off."""


NO_LIMIT = 1e9
"""Seconds; None would be the task's own limit."""


@final
@dataclass(eq=False)
class Exchange:
    """What an episode and the rollout say to each other: a conversation for the model, and the turn that follows it."""

    asked: asyncio.Queue[list[Any] | None] = field(default_factory=asyncio.Queue)
    """Whole conversations, each ending where the model goes on; None: the episode is over."""
    said: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    """Assistant messages; None: no more turns, the episode was cut off."""
    results: list[tuple[str, bool]] = field(default_factory=list)
    """What the tools answered to the latest turn, and whether that was an error."""
    refused: BadReplyError | None = None
    """Why it cannot be played here."""

    async def turn(self, messages: list[Any]) -> Any | None:
        """The next turn of the model."""
        self.asked.put_nowait(messages)
        return await self.said.get()


@final
class Slots(Interception):  # type: ignore[misc]
    """Stands in for verifiers' server of model requests: no port is opened, the session is kept for the harness."""

    session: Any = None

    async def start(self) -> None:
        """Nothing to start."""

    @asynccontextmanager
    async def acquire(self, session: Any) -> AsyncIterator[tuple[str, str, str]]:
        """An address that nothing listens at; the harness needs none."""
        self.session = session
        yield "http://127.0.0.1:0", "", ""


@final
class PlayedHarness(vf.Harness[NullHarnessConfig]):  # type: ignore[misc]
    """A loop of turns and tool calls that ends at a turn without a call, as verifiers' own `null` harness."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_MCP = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    def __init__(self, exchange: Exchange, slots: Slots, tools: HostedTools) -> None:
        super().__init__(NullHarnessConfig(id="null"))
        self._exchange = exchange
        self._slots = slots
        self._tools = tools

    async def launch(
        self,
        ctx: Any,
        trace: Any,
        runtime: Any,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: Any,
        tool_interception_url: str | None = None,
    ) -> Any:
        """See `verifiers.v1.Harness.launch`; also for every later turn of a user, with the conversation so far."""
        try:
            await self._tools.open(data, mcp_urls)
        except BadReplyError as error:
            self._exchange.refused = error
            raise
        system, prompt = self.resolve_prompt(data)
        messages = [] if system is None else [vf.SystemMessage(content=system)]
        messages += [vf.UserMessage(content=prompt)] if isinstance(prompt, str) else list(prompt or ())
        while (said := await self._turn(messages)) is not None:
            messages.append(said)
            if not said.tool_calls:
                break
            self._exchange.results.clear()
            for call in said.tool_calls:
                text, failed = await self._tools.call(call.name, call.arguments, trace)
                self._exchange.results.append((text, failed))
                messages.append(vf.ToolMessage(tool_call_id=call.id, content=text, name=call.name))
        return vf.ProgramResult(0, "", "")

    async def _turn(self, messages: list[Any]) -> Any | None:
        """The model's turn, taken down in the trace; None where the episode ends before or after it.

        The order of limits, interceptors and stops is that of verifiers' interception server.
        """
        session = self._slots.session
        trace = session.trace
        if session.stopped or await session.refused() is not None:
            return None
        request = vf.Request(messages=list(messages), tools=self._tools.offered)
        request, rewrites, stopped = await session.rewrite_request(request)
        trace.request_rewrites.extend(rewrites)
        turn = graph.prepare_turn(trace, request.messages, request.tools)
        said = None if stopped is not None else await self._exchange.turn(list(request.messages))
        if said is None:
            turn.commit_prompt()
            trace.stop(stopped or CUT)
            return None
        reason = "tool_calls" if said.tool_calls else "stop"
        response = vf.Response(id=trace.id, created=int(time.time()), model=MODEL, message=said, finish_reason=reason)
        response, rewrites, stopped = await session.rewrite_response(response)
        node = turn.commit(response)
        session.consume_prepared(turn.tail)
        trace.response_rewrites.extend(rewrites)
        trace.calls.append(vf.ModelCall(node=node, model=MODEL, finish_reason=response.finish_reason))
        stopped = stopped or await session.gate_tool_calls(node)
        if stopped is not None:
            trace.stop(stopped)
            return None
        return response.message


@final
class Player(vf.Agent):  # type: ignore[misc]
    """The one agent of an episode, which is run once; its runtime is a folder of this machine unless it names one."""

    def __init__(self, config: Any, exchange: Exchange, shared: Shared) -> None:
        (spec,) = agent_config_fields(config).values()
        chosen = {"model": MODEL, "client": vf.EvalClientConfig(), "harness": NullHarnessConfig(id="null")}
        if "runtime" not in spec.model_fields_set:
            chosen["runtime"] = vf.SubprocessConfig()
        # What a turn of the model takes is the rollout's, and depends on what else is sampled.
        chosen["timeout"] = spec.timeout.model_copy(update={"rollout": NO_LIMIT})
        chosen["retries"] = vf.RetryConfig(max_retries=0)  # a second run would not find the model at its beginning
        super().__init__(spec.model_copy(update=chosen))
        self.interception = Slots()
        self.trace: Any = None
        self._exchange = exchange
        self._shared = shared
        self._tools: HostedTools | None = None

    def schemas(self) -> list[dict[str, Any]]:
        """The function schemas of the tools of the run that has begun."""
        offered = [] if self._tools is None else self._tools.offered
        return [tool.model_dump(include={"name", "description", "parameters"}) for tool in offered]

    async def run(
        self,
        task: Any,
        *,
        runtime: Any = None,
        tools: Mapping[str, Any] | None = None,
        on_trace: Callable[[Any], None] | None = None,
        collect_artifacts: bool = False,
    ) -> Any:
        """See `verifiers.v1.Agent.run`."""
        played, servers, watch = self._begun(task, tools), tools or self._shared.servers, self._watch(on_trace)
        return await super().run(
            played, runtime=runtime, tools=servers, on_trace=watch, collect_artifacts=collect_artifacts
        )

    @asynccontextmanager
    async def interaction(
        self,
        task: Any,
        *,
        runtime: Any = None,
        tools: Mapping[str, Any] | None = None,
        on_trace: Callable[[Any], None] | None = None,
    ) -> AsyncIterator[Any]:
        """See `verifiers.v1.Agent.interaction`."""
        played, servers, watch = self._begun(task, tools), tools or self._shared.servers, self._watch(on_trace)
        async with super().interaction(played, runtime=runtime, tools=servers, on_trace=watch) as interaction:
            yield interaction

    async def close(self) -> None:
        """Let go of the tools of the run."""
        if self._tools is not None:
            await self._tools.close()

    def _begun(self, task: Any, tools: Any) -> Any:
        """The task, without the toolsets that are held here. Raises BadReplyError for a second run."""
        if self._tools is not None:
            raise BadReplyError("it runs its agent more than once in an episode; only one run can be played here")
        if tools:
            raise BadReplyError("it hands its agent servers of tools; here tools come from toolsets")
        hosted, left = split_toolsets(task.toolsets(task.config))
        self._tools = HostedTools(hosted, self._shared.hosted)
        self.harness = PlayedHarness(self._exchange, self.interception, self._tools)
        played = copy.copy(task)
        played.toolsets = lambda config: left
        return played

    def _watch(self, on_trace: Callable[[Any], None] | None) -> Callable[[Any], None]:
        def watch(trace: Any) -> None:
            self.trace = trace
            if on_trace is not None:
                on_trace(trace)

        return watch
