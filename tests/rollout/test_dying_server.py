"""An MCP server that dies in the middle of a step: its episode is set apart, the others and the next step go on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rollout.test_collect import ScriptedEngine, collector, task
from sod.chat.render import Chat
from sod.engines.base import Sampling
from sod.records import FaultKind
from sod.rollout.episode import EpisodeLimits
from sod.tools.function import CallLimits
from sod.tools.mcp import McpServer, McpTool, ServerCommand, listed_tools

SERVER = Path(__file__).parents[1] / "tools" / "own_mcp_server.py"


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@pytest.mark.slow
def test_the_episode_of_a_server_that_dies_is_set_apart(chat: Chat, tmp_path: Path) -> None:
    pytest.importorskip("mcp")
    server = McpServer(ServerCommand((sys.executable, str(SERVER), str(tmp_path)), (), "tools.shelf.mcp"))
    tools = [McpTool(tool, server, CallLimits(), str) for tool in listed_tools(server, ["die", "pid"])]
    script = {
        "dying": [call("pid"), call("die", last_words="x"), "never said"],
        "living": [call("pid"), "\\boxed{2}"],
    }
    playing = collector(
        ScriptedEngine(chat, script), chat, tools, EpisodeLimits(4, 256, 1024), max_fault_rate=1.0, fault_window=1
    )
    first = playing.collect([task("dying"), task("living")], 1, Sampling(), "train", 1)
    dying, living = first.groups
    assert dying.trajectories == ()
    (apart,) = dying.faulted
    assert apart.fault is not None
    assert apart.fault.kind == FaultKind.TOOL
    assert "the server died while die was under way" in apart.fault.detail
    assert first.retries == 0  # nobody knows what the first try did
    (whole,) = living.trajectories
    assert whole.correct
    assert server.starts == 1
    second = playing.collect([task("living")], 1, Sampling(), "train", 2)
    assert second.trajectories[0].correct
    assert server.starts == 2
    assert second.trajectories[0].tool_results[0].text != whole.tool_results[0].text  # another process
    server.close()
