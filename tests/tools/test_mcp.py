"""Tools of a real MCP server, a program of ours that speaks over stdio; it is killed in the middle of calls."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sod.records import Fault, FaultKind, Message, SodError, Task, ToolCall, ToolResult
from sod.tools.base import ToolRequest
from sod.tools.function import CallLimits
from sod.tools.mcp import McpServer, McpTool, ServerCommand, listed_tools

pytest.importorskip("mcp")
pytestmark = pytest.mark.slow

SERVER = Path(__file__).with_name("own_mcp_server.py")
TASK = Task("t", (Message("user", "?"),), "")


class Shelf:
    """The server's tools, by name."""

    def __init__(self, folder: Path, seconds: float = 20.0, variables: tuple[str, ...] = ()) -> None:
        self.server = McpServer(ServerCommand((sys.executable, str(SERVER), str(folder)), variables, "tools.shelf.mcp"))
        limits = CallLimits(seconds)
        self.listed = {tool.name: tool for tool in listed_tools(self.server, None)}
        self.tools = {name: McpTool(tool, self.server, limits, str) for name, tool in self.listed.items()}

    def calls(self, name: str, *arguments: dict[str, Any]) -> list[ToolResult | Fault]:
        return self.tools[name].run([ToolRequest("e", ToolCall(name, given), TASK) for given in arguments])

    def call(self, name: str, **arguments: Any) -> Any:
        return self.calls(name, arguments)[0]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "note").write_text("a note")
    opened = Shelf(folder)
    yield opened
    opened.server.close()


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def test_the_schemas_are_the_servers(shelf: Shelf) -> None:
    assert list(shelf.listed) == ["read", "pid", "wait", "die", "picture", "secret"]
    function = shelf.listed["read"].schema["function"]
    assert function["description"] == "Read a file of the shelf."
    assert function["parameters"]["required"] == ["name"]
    assert [tool.name for tool in listed_tools(shelf.server, ["wait", "read"])] == ["wait", "read"]
    assert shelf.tools["read"].probe() is None


def test_a_tool_that_the_server_lacks_is_refused(shelf: Shelf) -> None:
    with pytest.raises(SodError, match=r"tools\.shelf\.mcp: the server has no tool 'rea'; it has read, pid, wait"):
        listed_tools(shelf.server, ["rea"])


def test_results_and_errors(shelf: Shelf) -> None:
    """What the tool raises, and arguments that it does not take, are tool errors."""
    good, absent, wrong = shelf.calls("read", {"name": "note"}, {"name": "absent"}, {"nam": "note"})
    assert isinstance(good, ToolResult)
    assert (good.text, good.error) == ("a note", None)
    for outcome in (absent, wrong):
        assert isinstance(outcome, ToolResult)
        assert outcome.error == "exception"
        assert outcome.text.startswith("Error executing tool read")


def test_what_is_no_text_is_a_fault(shelf: Shelf) -> None:
    outcome = shelf.call("picture")
    assert isinstance(outcome, Fault)
    assert outcome.kind == FaultKind.BAD_REPLY
    assert "picture answered with image; only text can be shown" in outcome.detail


def test_a_call_that_hangs_is_a_tool_error_and_stalls_nobody(tmp_path: Path) -> None:
    own = Shelf(tmp_path, seconds=1.0)
    try:
        slow, quick = own.calls("wait", {"seconds": 30}, {"seconds": 0.01})
        assert isinstance(slow, ToolResult)
        assert (slow.text, slow.error) == ("Error: timeout: stopped after 1 s", "timeout")
        assert isinstance(quick, ToolResult)
        assert quick.text == "waited"
    finally:
        own.server.close()


def test_a_server_that_dies_in_mid_call_is_a_fault_of_all_its_calls_and_starts_again(shelf: Shelf) -> None:
    before, starts = int(shelf.call("pid").text), shelf.server.starts
    outcome = shelf.call("die", last_words="out of paper")
    assert isinstance(outcome, Fault)
    assert (outcome.kind, outcome.retryable) == (FaultKind.TOOL, False)
    assert outcome.detail.startswith("tools.shelf.mcp: the server died while die was under way; it said: ")
    assert "out of paper" in outcome.detail
    assert int(shelf.call("pid").text) != before
    assert shelf.server.starts == starts + 1


def test_what_was_under_way_is_tried_again_where_the_tool_says_that_it_may_be(shelf: Shelf) -> None:
    """`wait` is idempotent by its annotations, `die` has none."""
    assert [tool.repeatable for tool in shelf.listed.values()] == [True, False, True, False, False, False]
    asked = [("wait", {"seconds": 30}), ("die", {"last_words": "x"})]
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(lambda call: shelf.call(call[0], **call[1]), asked))
    assert all(isinstance(outcome, Fault) for outcome in outcomes)
    assert [outcome.retryable for outcome in outcomes] == [True, False]


def test_a_server_that_died_between_calls_is_started_again_and_no_call_is_lost(shelf: Shelf) -> None:
    before, starts = int(shelf.call("pid").text), shelf.server.starts
    os.kill(before, signal.SIGKILL)
    time.sleep(0.3)
    assert int(shelf.call("pid").text) != before
    assert shelf.server.starts == starts + 1


def test_variables_are_handed_on_by_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELF_SECRET", "s3cret")
    told, untold = Shelf(tmp_path, variables=("SHELF_SECRET",)), Shelf(tmp_path)
    try:
        assert (told.call("secret").text, untold.call("secret").text) == ("s3cret", "none")
    finally:
        told.server.close()
        untold.server.close()
    monkeypatch.delenv("SHELF_SECRET")
    with pytest.raises(SodError, match="the environment variable SHELF_SECRET is not set"):
        Shelf(tmp_path, variables=("SHELF_SECRET",))


def test_closing_ends_the_server(tmp_path: Path) -> None:
    own = Shelf(tmp_path)
    pid = int(own.call("pid").text)
    assert alive(pid)
    own.tools["read"].close()
    own.tools["wait"].close()
    assert not alive(pid)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("no-such-program-anywhere",), "cannot be started: FileNotFoundError"),
        ((sys.executable, "-c", "import sys; sys.exit('no shelf here')"), "it said: no shelf here"),
        ((sys.executable, "-c", "print('hello')"), "cannot be started"),
    ],
)
def test_what_is_no_server_is_refused(command: tuple[str, ...], said: str) -> None:
    server = McpServer(ServerCommand(command, (), "tools.shelf.mcp"))
    with pytest.raises(SodError) as caught:
        listed_tools(server, None)
    server.close()
    line = str(caught.value)
    assert line.startswith("tools.shelf.mcp: ")
    assert said in line
    assert "\n" not in line
