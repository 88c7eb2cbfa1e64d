"""The toolsets of verifiers, held in this process: a server for each of them and each episode would take seconds.

What a toolset registers is what its own MCP server would offer, under the same names. Toolsets with a `url` are clients
of their server, as in verifiers.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, final

import verifiers.v1 as vf  # type: ignore[import-not-found]
from mcp.server.mcpserver import MCPServer
from verifiers.v1.harnesses.utils import mcp as remote  # type: ignore[import-not-found]
from verifiers.v1.mcp import SharedToolServer  # type: ignore[import-not-found]

from sod.environments.replies import BadReplyError
from sod.records import ToolFault

_TRACE: ContextVar[Any] = ContextVar("trace of the episode that calls a tool")


@final
class HostedToolset:
    """A toolset of verifiers and what it registered; of a task, or shared by all tasks of its taskset."""

    def __init__(self, toolset: Any) -> None:
        if not isinstance(toolset.config.runtime, vf.SubprocessConfig):
            raise BadReplyError(
                f"its toolset {type(toolset).__name__} runs in {toolset.config.runtime.type}; here a toolset runs in "
                "this process or at a url: set its config's runtime to subprocess"
            )
        self.toolset = toolset
        self._opening = asyncio.Lock()  # episodes side by side wait for a shared one
        self._ready = False
        with _own_logging():
            self._server = MCPServer(toolset.server_name or type(toolset).__name__)

    async def open(self, data: Any | None) -> None:
        """Set it up, for a task where it is a task's."""
        async with self._opening:
            if self._ready:
                return
            # A toolset reads and writes the episode's state over HTTP; here it has the episode itself.
            self.toolset._pull_state = self._state
            self.toolset._push_state = self._keep
            await self.toolset.setup()
            if data is not None:
                await self.toolset.setup_task(data)
            self.toolset.register(self._server)
            self._ready = True

    async def listed(self) -> list[tuple[str, Any]]:
        """Its tools by the names that verifiers' harnesses show them under."""
        prefix = f"{self.toolset.server_name}_" if self.toolset.server_name else ""
        return [(f"{prefix}{tool.name}", tool) for tool in await self._server.list_tools()]

    async def call(self, name: str, arguments: Mapping[str, Any], trace: Any) -> tuple[str, bool]:
        """What a tool answers, and whether that is an error. Raises ToolFault where the tool does."""
        _TRACE.set(trace)
        try:
            result: Any = await self._server.call_tool(name, dict(arguments))
        except Exception as error:
            if isinstance(error.__cause__, ToolFault):
                raise error.__cause__ from error
            return str(error), True
        return _text(remote.mcp_content_to_chat_content(result.content)), bool(result.is_error)

    async def _state(self) -> Any:
        state = _TRACE.get().state
        kind = self.toolset._state_cls
        return state if isinstance(state, kind) else kind.model_validate(state.model_dump())

    async def _keep(self, before: bytes) -> None:
        state, trace = self.toolset.state, _TRACE.get()
        if state is not trace.state:
            trace.state = type(trace.state).model_validate(state.model_dump())


def split_toolsets(toolsets: Sequence[Any]) -> tuple[list[HostedToolset], list[Any]]:
    """Those that are held here, and those that are at a url."""
    here = [HostedToolset(toolset) for toolset in toolsets if not toolset.config.url]
    return here, [toolset for toolset in toolsets if toolset.config.url]


@final
class Shared:
    """The toolsets that all tasks of a taskset share: one of each, whatever the number of episodes."""

    def __init__(self, taskset: Any) -> None:
        self.hosted, left = split_toolsets(taskset.toolsets(taskset.config))
        self.servers = {
            toolset.server_name: SharedToolServer(url=toolset.config.url, local=False, external=True)
            for toolset in left
        }


@final
class HostedTools:
    """All tools of an episode: those of its task, the shared ones, and those at a url."""

    def __init__(self, own: Sequence[HostedToolset], shared: Sequence[HostedToolset]) -> None:
        self._own, self._shared = own, shared
        self._stack = AsyncExitStack()
        self._at: dict[str, tuple[HostedToolset, str]] = {}
        self._remote: tuple[Any, Any] | None = None
        self.offered: list[Any] = []
        """The tools as verifiers' requests carry them."""

    async def open(self, data: Any, urls: Mapping[str, str]) -> None:
        """Set them up, once. Raises BadReplyError where two have one name."""
        if self._remote is not None:
            return
        servers = {name: {"url": url} for name, url in urls.items()}
        schemas, names, connections = await remote.connect_mcp({"mcpServers": servers}, self._stack)
        self._remote = (connections, names)
        self.offered = [vf.Tool(**schema["function"]) for schema in schemas]
        for hosted, task in [*((each, None) for each in self._shared), *((each, data) for each in self._own)]:
            await hosted.open(task)
            for name, tool in await hosted.listed():
                if name in self._at or name in names:
                    raise BadReplyError(f"two tools are named {name!r}; give one toolset another TOOL_PREFIX")
                self._at[name] = (hosted, tool.name)
                self.offered.append(
                    vf.Tool(name=name, description=tool.description or "", parameters=tool.input_schema)
                )

    async def call(self, name: str, arguments: str, trace: Any) -> tuple[str, bool]:
        """What the tool answers, and whether that is an error."""
        given = json.loads(arguments)
        if name in self._at:
            hosted, raw = self._at[name]
            return await hosted.call(raw, given, trace)
        assert self._remote is not None
        connections, names = self._remote
        return _text(await remote.call_mcp(connections, names, name, given)), False

    async def close(self) -> None:
        """Let go of what was opened for this episode."""
        await self._stack.aclose()
        for hosted in self._own:
            await hosted.toolset._exit_stack.aclose()


@contextmanager
def _own_logging() -> Iterator[None]:
    """Keep a server of MCP from printing the log of the whole process: it does where nobody has set that up."""
    quiet, root = logging.NullHandler(), logging.getLogger()
    root.addHandler(quiet)
    try:
        yield
    finally:
        root.removeHandler(quiet)


def _text(content: Any) -> str:
    if not isinstance(content, str):
        raise BadReplyError("a tool answered with an image; the model reads text")
    return content
