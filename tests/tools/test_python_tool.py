"""The Python tool, on a real sandbox."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from processes import PATIENT

from sod.records import Fault, ToolCall, ToolResult
from sod.tools.base import Tool
from sod.tools.python import PythonTool
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox
from support import tool_request

LIMITS = ProgramLimits(seconds=PATIENT, memory_mb=128)
HASTY = ProgramLimits(seconds=2.0, memory_mb=128)


@pytest.fixture(scope="module")
def tool() -> Iterator[Tool]:
    python = PythonTool(LocalSandbox(LIMITS), 1000, 60)
    yield python
    python.close()


def call(tool: Tool, arguments: Mapping[str, Any]) -> ToolResult:
    (result,) = tool.run([tool_request("e", ToolCall("python", arguments))])
    assert isinstance(result, ToolResult)
    return result


def run(tool: Tool, code: str) -> tuple[str, str | None]:
    result = call(tool, {"code": code})
    return result.text, result.error


def test_schema_names_the_tool(tool: Tool) -> None:
    assert tool.name == tool.schema["function"]["name"] == "python"
    assert tool.schema["function"]["parameters"]["required"] == ["code"]


@pytest.mark.parametrize("stateful", [False, True])
def test_the_tool_and_its_argument_can_have_other_names(stateful: bool) -> None:
    """As the data calls them: schema, program and tool errors follow."""
    tool = PythonTool(LocalSandbox(LIMITS, workers=1), stateful=stateful, name="code_interpreter", argument="program")
    function = tool.schema["function"]
    assert tool.name == function["name"] == "code_interpreter"
    assert list(function["parameters"]["properties"]) == function["parameters"]["required"] == ["program"]
    assert call(tool, {"program": "print(12*7)"}).text == "84"
    refused = call(tool, {"code": "print(1)"})
    assert (refused.text, refused.error) == ("Error: bad_arguments: `program` is missing", "bad_arguments")
    tool.close()


@pytest.mark.parametrize(
    ("code", "text", "error"),
    [
        ("print(12*7)", "84", None),
        ("print('a')\nprint('b')\n\n", "a\nb", None),
        ("12*7", "(no output)", None),
        ("", "(no output)", None),
        ("print('é∑🙂')", "é∑🙂", None),
        ("1/0", "ZeroDivisionError: division by zero", "exception"),
        ("print('so far')\n1/0", "so far\nZeroDivisionError: division by zero", "exception"),
        ("x = = 1", "SyntaxError: invalid syntax", "exception"),
        ("import no_such", "ModuleNotFoundError: No module named 'no_such'", "exception"),
        ("import sys; sys.exit('bad input')", "bad input", "exception"),
        ("import sys; sys.exit(3)", "process exited with status 3", "exception"),
        ("x = bytearray(10**10)", "Error: memory: more than 128 MiB", "memory"),
        ("import sys; sys.stderr.write('a warning')", "(no output)", None),
    ],
)
def test_what_the_model_reads(tool: Tool, code: str, text: str, error: str | None) -> None:
    assert run(tool, code) == (text, error)


def test_what_the_model_reads_of_a_time_limit() -> None:
    hasty = PythonTool(LocalSandbox(HASTY, workers=1))
    result = run(hasty, "print(1)\nwhile True: pass")
    hasty.close()
    assert result == ("1\nError: timeout: stopped after 2 s", "timeout")


def test_output_is_cut(tool: Tool) -> None:
    assert run(tool, "print('x' * 60)") == ("x" * 60, None)
    assert run(tool, "print('x' * 61)") == ("x" * 60 + "... [cut, 61 characters in all]", None)


def test_endless_output_is_a_tool_error(tool: Tool) -> None:
    text, error = run(tool, "while True: print('x')")
    assert error == "output_limit"
    assert text.endswith("\nError: output_limit: more than 4096 characters of output")


def test_a_long_exception_is_cut(tool: Tool) -> None:
    text, error = run(tool, "raise ValueError('y' * 500)")
    assert error == "exception"
    assert text == f"ValueError: {'y' * 48}... [cut, 512 characters in all]"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "`code` is missing"),
        ({"source": "1"}, "`code` is missing"),
        ({"code": 7}, "`code` must be a string"),
        ({"code": None}, "`code` must be a string"),
        ({"code": "1", "timeout": 3}, "only `code` is accepted, not 'timeout'"),
    ],
)
def test_bad_arguments(tool: Tool, arguments: Mapping[str, Any], reason: str) -> None:
    result = call(tool, arguments)
    assert (result.text, result.error) == (f"Error: bad_arguments: {reason}", "bad_arguments")


def test_code_too_long(tool: Tool) -> None:
    assert run(tool, "#" * 1000) == ("(no output)", None)
    too_long = "Error: code_too_long: 1001 characters, at most 1000"
    assert run(tool, "#" * 1001) == (too_long, "code_too_long")


def test_no_local_paths_reach_the_model(tool: Tool) -> None:
    for code in ("def f(): g()\nf()", "open('nowhere')", "import json; json.loads('{')", "print(__name__)"):
        text, _ = run(tool, code)
        assert "fork_server" not in text
        assert "/" not in text


def test_order_is_kept_among_refused_and_executed(tool: Tool) -> None:
    codes: list[Any] = ["import time; time.sleep(.2); print(0)", 1, "print(2)", "1/0", "print(4)"]
    requests = [tool_request("e", ToolCall("python", {"code": code})) for code in codes]
    results = tool.run(requests)
    assert [r.text.split(":")[0] for r in results if isinstance(r, ToolResult)] == [
        "0", "Error", "2", "ZeroDivisionError", "4",
    ]  # fmt: skip


def test_nothing_to_do(tool: Tool) -> None:
    assert tool.run([]) == []


def test_close_twice_then_fault() -> None:
    python = PythonTool(LocalSandbox(workers=1))
    python.close()
    python.close()
    (result,) = python.run([tool_request("e", ToolCall("python", {"code": "print(1)"}))])
    assert isinstance(result, Fault)
    assert result.kind == "sandbox"


# --- stateful -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stateful() -> Iterator[PythonTool]:
    python = PythonTool(LocalSandbox(LIMITS), 1000, 60, stateful=True)
    yield python
    python.close()


def texts(tool: Tool, *calls: tuple[str, str]) -> list[str]:
    results = tool.run([tool_request(episode, ToolCall("python", {"code": code})) for episode, code in calls])
    return [result.text for result in results if isinstance(result, ToolResult)]


def test_stateful_keeps_names_within_an_episode(stateful: PythonTool) -> None:
    assert "earlier calls" in stateful.schema["function"]["description"]
    assert texts(stateful, ("e", "x = 1"), ("f", "x = 10")) == ["(no output)"] * 2
    assert texts(stateful, ("e", "print(x)"), ("f", "print(x)"), ("g", "print(x)")) == [
        "1", "10", "NameError: name 'x' is not defined",
    ]  # fmt: skip
    stateful.finish(["e", "f", "g"])


def test_stateful_calls_of_one_episode_go_in_order(stateful: PythonTool) -> None:
    calls = [("e", "import time; time.sleep(.1); n = [0]"), ("f", "print('f')"), ("e", "n += [1]"), ("e", "print(n)")]
    assert texts(stateful, *calls) == ["(no output)", "f", "(no output)", "[0, 1]"]
    stateful.finish(["e", "f"])


def test_finish_forgets(stateful: PythonTool) -> None:
    texts(stateful, ("e", "x = 1"))
    stateful.finish(["e", "unknown"])
    assert texts(stateful, ("e", "print(x)")) == ["NameError: name 'x' is not defined"]
    stateful.finish(["e"])


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("while True: pass", "Error: timeout: stopped after 2 s; the state of this session is lost"),
        ("y = bytearray(10**10)", "Error: memory: more than 128 MiB; the state of this session is lost"),
        ("print(1); import sys; sys.exit()", "1\nthe interpreter ended; the state of this session is lost"),
        ("import os; os._exit(4)", "process exited with status 4; the state of this session is lost"),
    ],
)
def test_the_model_is_told_that_its_state_is_lost(code: str, text: str) -> None:
    python = PythonTool(LocalSandbox(HASTY, workers=1), stateful=True)
    said = texts(python, ("e", "x = 1"), ("e", code), ("e", "print(x)"))
    python.close()
    assert said[1:] == [text, "NameError: name 'x' is not defined"]


def test_stateless_has_nothing_to_finish(tool: Tool) -> None:
    tool.finish(["e"])
    assert run(tool, "print(1)") == ("1", None)


def test_probe_says_what_is_wrong() -> None:
    python = PythonTool(LocalSandbox(LIMITS, workers=1))
    assert python.probe() is None
    python.close()
    fault = python.probe()
    assert fault is not None
    assert fault.detail == "the sandbox is closed"
