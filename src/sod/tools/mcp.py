"""Tools of an MCP server that is a program of its own, spoken to over its standard input and output.

The official `mcp` package speaks the protocol; this starts the server, notices when it dies, and starts it again.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TextIO, final

from sod.asynchronous import LoopBlockedError, loop_thread
from sod.records import Fault, FaultKind, SodError, Task, ToolResult
from sod.tools.base import ToolRequest
from sod.tools.function import CallLimits
from sod.tools.results import Cut, tool_error

if TYPE_CHECKING:
    from mcp import ClientSession
    from mcp import Tool as ToolOfServer

STARTING_SECONDS = 60.0
"""How long a server may take to answer for the first time: `npx` and the like fetch it first."""
STOPPING_SECONDS = 20.0
_SAID = 200  # characters of what a server said on its standard error that are told


class ServerDownError(Exception):
    """The server cannot be started, or has died; in words for people."""


@final
@dataclass(frozen=True)
class ServerCommand:
    """How a server is started: its command with arguments, and the environment variables that it gets beside the few
    that every server does (PATH, HOME, ...). `where` begins every message about it.
    """

    command: tuple[str, ...]
    variables: tuple[str, ...]
    where: str

    def environment(self) -> dict[str, str]:
        """Raises SodError for a variable that is not set."""
        missing = [name for name in self.variables if name not in os.environ]
        if missing:
            raise SodError(f"{self.where}: the environment variable {missing[0]} is not set; set it, or do not name it")
        return {name: os.environ[name] for name in self.variables}


@final
@dataclass(eq=False)
class _Life:
    """One start of a server. `session` is there while it lives."""

    up: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    session: ClientSession | None = None
    failure: str = ""
    task: asyncio.Task[None] | None = None

    def over(self) -> bool:
        """Whether it cannot be used any more: the server is down, or lives in an event loop that was given up."""
        elsewhere = self.task is not None and self.task.get_loop() is not asyncio.get_running_loop()
        return elsewhere or (self.up.is_set() and self.session is None)


@final
class McpServer:
    """A server that runs from its first use until `close`; one that died is started again at the next use.

    Raises SodError where the package is missing or a variable is not set.
    """

    def __init__(self, command: ServerCommand) -> None:
        _refuse_missing(command.where)
        self.where = command.where
        self._command = command
        self._environment = command.environment()
        self._life: _Life | None = None
        self._errors: TextIO | None = None
        self.starts = 0
        self.calls = 0
        """How many are under way."""

    async def ready(self) -> ClientSession:
        """`session`, after a server that died between two calls was started again. Raises ServerDownError."""
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        session = await self.session()
        if self.calls:  # it may be too busy to say that it is well, and if it dies all calls will hear of it
            return session
        try:
            await asyncio.wait_for(session.send_ping(), STARTING_SECONDS)
        except MCPError as error:
            if error.code != CONNECTION_CLOSED:
                return session  # it answered, if only that it knows no ping
            self.lost(session)
            return await self.session()
        except TimeoutError:
            self.lost(session)
            raise ServerDownError(f"no answer within {STARTING_SECONDS:g} s{self.said()}") from None
        return session

    async def session(self) -> ClientSession:
        """The connection to the running server. Raises ServerDownError where it cannot be started."""
        if self._life is None or self._life.over():
            self._life = _Life()
            if self._errors is None:
                self._errors = tempfile.TemporaryFile("a+", encoding="utf-8", errors="replace")  # noqa: SIM115  see close
            self._life.task = asyncio.ensure_future(self._live(self._life))
            self.starts += 1
        life = self._life
        try:
            await asyncio.wait_for(life.up.wait(), STARTING_SECONDS)
        except TimeoutError:
            await self.stop()
            raise ServerDownError(f"no answer within {STARTING_SECONDS:g} s of its start{self.said()}") from None
        if life.session is None:
            raise ServerDownError(f"cannot be started: {life.failure}{self.said()}")
        return life.session

    def lost(self, session: ClientSession) -> None:
        """Note that this connection broke: the next use starts the server again."""
        if self._life is not None and self._life.session is session:
            self._life.session = None
            self._life.stop.set()

    async def stop(self) -> None:
        """End the server, if it runs."""
        life, self._life = self._life, None
        if life is None or life.task is None or life.task.get_loop() is not asyncio.get_running_loop():
            return  # in a loop that was given up it ends with this program, which holds its input
        life.stop.set()
        if not life.up.is_set():  # it waits for an answer, and looks at nothing else
            life.task.cancel()
        await asyncio.wait({life.task}, timeout=STOPPING_SECONDS)

    def close(self) -> None:
        """End the server and wait for that. Safe to call twice."""
        with suppress(LoopBlockedError):
            loop_thread().run(self.stop())
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def said(self) -> str:
        """The end of what the server wrote to its standard error, for a message."""
        if self._errors is None:
            return ""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 4 * _SAID))
        text = " ".join(self._errors.read().split())[-_SAID:]
        return f"; it said: {text}" if text else ""

    async def _live(self, life: _Life) -> None:
        """The whole life of a server. One task enters and leaves its streams, as they want it."""
        from mcp import ClientSession, StdioServerParameters, stdio_client

        command, *arguments = self._command.command
        parameters = StdioServerParameters(command=command, args=arguments, env=self._environment)
        try:
            errors = self._errors or sys.stderr
            async with stdio_client(parameters, errlog=errors) as (read, write), ClientSession(read, write) as session:
                await session.initialize()
                life.session = session
                life.up.set()
                await life.stop.wait()
        except BaseException as error:
            life.failure = _plain(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            life.session = None
            life.up.set()


@final
@dataclass(frozen=True)
class ListedTool:
    """A tool as its server tells of it; `repeatable` where it says that calling it twice does no more than once."""

    schema: Mapping[str, Any]
    repeatable: bool = False

    @property
    def name(self) -> str:
        """What the server calls it."""
        return str(self.schema["function"]["name"])


def listed_tools(server: McpServer, offer: Sequence[str] | None) -> list[ListedTool]:
    """The server's tools, all or those of `offer`, in their order.

    Raises SodError where it cannot be started or has no such tool.
    """
    try:
        tools = loop_thread().run(_listed(server))
    except LoopBlockedError:
        raise SodError(f"{server.where}: other async code keeps the event loop without `await`") from None
    except ServerDownError as error:
        raise SodError(f"{server.where}: {error}; try the command by hand") from None
    if offer is None:
        return tools
    names = [tool.name for tool in tools]
    if missing := [name for name in offer if name not in names]:
        raise SodError(f"{server.where}: the server has no tool {missing[0]!r}; it has {', '.join(names) or 'none'}")
    return [tools[names.index(name)] for name in offer]


async def _listed(server: McpServer) -> list[ListedTool]:
    from mcp import MCPError
    from mcp.types import PaginatedRequestParams

    session = await server.session()
    tools: list[ListedTool] = []
    cursor: str | None = None
    while True:
        try:
            page = await session.list_tools(params=PaginatedRequestParams(cursor=cursor))
        except MCPError as error:
            server.lost(session)
            raise ServerDownError(f"does not tell its tools: {error}{server.said()}") from None
        tools += [_as_listed(tool) for tool in page.tools]
        cursor = page.next_cursor
        if not cursor:
            return tools


def _as_listed(tool: ToolOfServer) -> ListedTool:
    parameters = {key: value for key, value in tool.input_schema.items() if key not in ("$schema", "title")}
    function = {"name": tool.name, "description": tool.description or "", "parameters": parameters}
    hints = tool.annotations
    repeatable = hints is not None and bool(hints.read_only_hint or hints.idempotent_hint)
    return ListedTool({"type": "function", "function": function}, repeatable)


@final
class McpTool:
    """One tool of a server. The server is shared, and closed with whichever of its tools is closed first.

    A server that dies while calls are under way is a fault of each of them. There is no second try unless the tool is
    repeatable, as nobody knows what the first one did. Later calls find it started again.
    """

    def __init__(self, tool: ListedTool, server: McpServer, limits: CallLimits, cut: Cut) -> None:
        self._tool = tool
        self._server = server
        self._limits = limits
        self._cut = cut
        self._slots: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None

    @property
    def name(self) -> str:
        """What the server calls it."""
        return self._tool.name

    @property
    def schema(self) -> Mapping[str, Any]:
        """As the server tells it."""
        return self._tool.schema

    @property
    def keeps_state(self) -> bool:
        """Taken for a tool without: what a server keeps, it keeps for all episodes."""
        return False

    def start(self, episodes: Sequence[tuple[str, Task]]) -> None:
        """Nothing to do: a server knows of no episode."""

    def run(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        """Call it for all requests, side by side; see `Tool.run`. Tool errors: `exception`, `timeout`."""
        try:
            return loop_thread().run(self._all(requests))
        except LoopBlockedError:
            return [self._fault("other async code keeps the event loop without `await`")] * len(requests)

    def probe(self) -> Fault | None:
        """Whether the server answers and still has the tool."""
        try:
            names = [tool.name for tool in listed_tools(self._server, None)]
        except SodError as error:
            return Fault(FaultKind.UNREACHABLE, str(error))
        return None if self.name in names else self._fault(f"the server no longer has {self.name!r}")

    def finish(self, episodes: Sequence[str]) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """End the server. Safe to call twice."""
        self._server.close()

    async def _all(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        return list(await asyncio.gather(*map(self._one, requests)))

    async def _one(self, request: ToolRequest) -> ToolResult | Fault:
        async with self._slot():
            try:
                session = await self._server.ready()
            except ServerDownError as error:
                return Fault(FaultKind.UNREACHABLE, f"{self._server.where}: {error}")
            self._server.calls += 1
            try:
                return await self._called(session, request)
            finally:
                self._server.calls -= 1

    async def _called(self, session: ClientSession, request: ToolRequest) -> ToolResult | Fault:
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        seconds = self._limits.seconds
        if request.deadline is not None:
            seconds = max(0.001, min(seconds, request.deadline - time.monotonic()))
        began = time.monotonic()
        try:
            result = await session.call_tool(self.name, dict(request.call.arguments), read_timeout_seconds=seconds)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                self._server.lost(session)
                told = f"the server died while {self.name} was under way{self._server.said()}"
                return self._fault(told, self._tool.repeatable)
            if error.code == REQUEST_TIMEOUT:
                return tool_error("timeout", f"stopped after {self._limits.seconds:g} s", time.monotonic() - began)
            return ToolResult(self._cut(f"Error: {error}"), "exception", time.monotonic() - began)
        except (RuntimeError, ValueError) as error:  # an answer that is not as the protocol or the tool's schema has it
            return Fault(FaultKind.BAD_REPLY, f"{self._server.where}: {self.name}: {_plain(error)}", retryable=False)
        text = _text(result)
        if text is None:
            kinds = ", ".join(sorted({block.type for block in result.content}))
            wanted = "only text can be shown; leave the tool out with `offer`"
            return Fault(
                FaultKind.BAD_REPLY, f"{self._server.where}: {self.name} answered with {kinds}; {wanted}", False
            )
        shown = self._cut(text or "(no output)")
        return ToolResult(shown, "exception" if result.is_error else None, time.monotonic() - began)

    def _slot(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if self._slots is None or self._slots[0] is not loop:
            self._slots = (loop, asyncio.Semaphore(self._limits.concurrency))
        return self._slots[1]

    def _fault(self, detail: str, retryable: bool = False) -> Fault:
        return Fault(FaultKind.TOOL, f"{self._server.where}: {detail}", retryable)


def _text(result: Any) -> str | None:
    """All text of an answer, that of resources too; its structure as JSON where there is no text. None for others."""
    texts = []
    for block in result.content:
        if block.type == "text":
            texts.append(block.text)
        elif block.type == "resource" and getattr(block.resource, "text", None) is not None:
            texts.append(block.resource.text)
        elif block.type == "resource_link":
            texts.append(str(block.uri))
    if not texts and result.content:
        return None
    if not texts and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(texts)


def _plain(error: BaseException) -> str:
    """An error in one line; of a group, its first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def _refuse_missing(where: str) -> None:
    try:
        installed = version("mcp")
    except PackageNotFoundError:
        raise SodError(f"{where}: needs the package mcp; install it: pip install 'mcp>=2'") from None
    if int(installed.partition(".")[0]) < 2:
        raise SodError(f"{where}: needs mcp 2 or newer and finds {installed}; install it: pip install 'mcp>=2'")
