"""What every key of a tool of one's own does, by an example: the tool's answers with two values of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sod.build.tools import make_tools, tool_schemas
from sod.recipe import load_recipe
from sod.records import Fault, ToolCall
from support import tool_request

SERVER = str(Path(__file__).parents[1] / "tools" / "own_mcp_server.py")
SOURCE = '''\
import threading, time
running, most = 0, 0
lock = threading.Lock()

def echo(text: str) -> str:
    """
    Say it again.

    Args:
        text: What.
    """
    return text

def shout(text: str) -> str:
    """
    Say it loudly.

    Args:
        text: What.
    """
    return text.upper()

def nap(text: str) -> str:
    """
    Take a while.

    Args:
        text: What to say then.
    """
    time.sleep(0.3)
    return text

def crowd(text: str) -> bool:
    """
    Count those who are here.

    Args:
        text: Nothing.
    """
    global running
    with lock:
        running += 1
    time.sleep(0.1)
    with lock:
        here, running = running, running - 1
    return here > 1
'''

ECHO = {"call": "./own.py:echo"}
SHELF = {"mcp": [sys.executable, SERVER, "{folder}"]}
OWN_KEYS: Mapping[str, tuple[dict[str, Any], dict[str, Any], str, dict[str, str]]] = {
    "call": (ECHO, {"call": "./own.py:shout"}, "own", {"text": "aloud"}),
    "timeout_seconds": ({"call": "./own.py:nap"}, {"timeout_seconds": 0.05}, "own", {"text": "x"}),
    "concurrency": ({"call": "./own.py:crowd"}, {"concurrency": 1}, "own", {"text": "x"}),
    "max_result_tokens": (ECHO, {"max_result_tokens": 1}, "own", {"text": "many words of a result"}),
    "mcp": (SHELF, {"mcp": [sys.executable, SERVER, "{other}"]}, "read", {"name": "note"}),
    "offer": (SHELF, {"offer": ["read"]}, "read", {"name": "note"}),
    "variables": (SHELF, {"variables": ["SHELF_SECRET"]}, "secret", {}),
}
"""Key to a tool's section, the change, the tool that is called, and its arguments."""


def answers(folder: Path, section: Mapping[str, Any], name: str, arguments: Mapping[str, Any], tokenizer: Any) -> Any:
    """The tools that a recipe with this section shows, and what three calls of one of them give."""
    for place in ("folder", "other"):
        (folder / place).mkdir(exist_ok=True)
        (folder / place / "note").write_text(f"of {place}")
    (folder / "own.py").write_text(SOURCE)
    filled = {key: _filled(value, folder) for key, value in section.items()}
    (folder / "own.yaml").write_text(f"student: {{path: s}}\ntools: {{python: null, own: {filled}}}\n")
    recipe = load_recipe(folder / "own.yaml")
    with ExitStack() as opened:
        tools = make_tools(recipe, opened, tokenizer)
        outcomes = tools[name].run([tool_request(f"e{n}", ToolCall(name, arguments)) for n in range(3)])
    assert not any(isinstance(outcome, Fault) for outcome in outcomes), outcomes
    return tool_schemas(recipe), sorted(outcome.text for outcome in outcomes if not isinstance(outcome, Fault))


def _filled(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_filled(item, folder) for item in value]
    return value.format(folder=folder / "folder", other=folder / "other") if isinstance(value, str) else value
