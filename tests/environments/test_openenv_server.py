"""Clients of OpenEnv against real servers of it, programs of ours: run where openenv-core can serve."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastmcp")
pytest.importorskip("openenv.core.env_server.http_server")

from sod.build.worlds import make_worlds
from sod.environments.base import Action, Began, Reset, Step, Stepped, WorldReply, WorldRequest
from sod.recipe import EnvironmentSpec
from sod.records import Fault, Task, ToolCall

pytestmark = pytest.mark.slow
SERVER = Path(__file__).parents[1] / "openenv_server.py"
CLIENTS = {"text": "openenv.core.generic_client:GenericEnvClient", "tools": "openenv.core.mcp_client:MCPToolClient"}
EPISODES = ("one", "two")


@contextmanager
def served(kind: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(SERVER), kind, str(port)], stderr=subprocess.DEVNULL)
    address, limit = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/health").close()
                break
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < limit, "the server does not answer"
            time.sleep(0.1)
        yield address, process
    finally:
        process.kill()
        process.wait()


def played(kind: str, address: str, actions: Sequence[Action]) -> list[list[WorldReply | Fault]]:
    """What two episodes side by side are answered, each in a session of its own."""
    spec = EnvironmentSpec.model_validate({"call": CLIENTS[kind], "base_url": address})
    task = Task("t", (), "", extra={"seed": 4})
    with closing(make_worlds(spec)) as worlds:
        ask = [Reset(task, 1), *map(Step, actions)]
        return [worlds.run([WorldRequest(name, each) for name in EPISODES]) for each in ask]


def test_a_game_in_text_and_a_server_that_dies() -> None:
    with served("text") as (address, process):
        began, *answers = played("text", address, [str(number) for number in range(1, 10)])
        assert began == [Began("Guess a number from 1 to 9.", ())] * 2
        assert all(one == other for one, other in answers)
        right = next(reply for reply, _ in answers if isinstance(reply, Stepped) and reply.done)
        assert (right.results[0].text, right.reward) == ("Right.", 1.0)
        process.kill()
        process.wait()
        gone = played("text", address, [])[0]
        assert [isinstance(reply, Fault) and reply.retryable for reply in gone] == [True, True]


def test_the_tools_of_a_server() -> None:
    first = (ToolCall("put", {"number": 4}), ToolCall("put", {"number": -1}))
    last = (ToolCall("put", {"number": 6}), ToolCall("put", {"number": 1}))
    with served("tools") as (address, _):
        began, *answers = played("tools", address, [first, last])
    assert isinstance(began[0], Began)
    assert began[0].observation == ""  # the client itself leaves out what is said at a reset
    assert [tool["function"]["name"] for tool in began[0].tools] == ["put"]
    for reply in answers[0]:
        assert isinstance(reply, Stepped)
        assert [(result.text, result.error) for result in reply.results] == [
            ("4 in the box", None),
            ("Error: Error calling tool 'put': no debts", "exception"),
        ]
    for reply in answers[1]:
        assert isinstance(reply, Stepped)
        assert [result.text for result in reply.results] == ["10 in the box", "Error: the episode is over"]
        assert (reply.reward, reply.done) == (1.0, True)
