"""An MCP server of our own, over stdio: the program that the tests of `sod.tools.mcp` start."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import anyio
from mcp.server.mcpserver import Image, MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("shelf")


def read(name: str) -> str:
    """Read a file of the shelf."""
    return (Path(sys.argv[1]) / name).read_text()


def pid() -> int:
    """The number of this process."""
    return os.getpid()


async def wait(seconds: float) -> str:
    """Wait."""
    await anyio.sleep(seconds)
    return "waited"


def die(last_words: str) -> str:
    """End this process in the middle of a call."""
    print(last_words, file=sys.stderr, flush=True)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def picture() -> Image:
    """A picture."""
    return Image(data=b"\x89PNG", format="png")


def secret() -> str:
    """A variable of the environment."""
    return os.environ.get("SHELF_SECRET", "none")


if __name__ == "__main__":
    server.tool(annotations=ToolAnnotations(read_only_hint=True))(read)
    server.tool()(pid)
    server.tool(annotations=ToolAnnotations(idempotent_hint=True))(wait)
    for function in (die, picture, secret):
        server.tool()(function)
    server.run("stdio")
