"""The Python tool: runs the model's code in a sandbox and shows what it prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sod.records import Fault, ToolResult
from sod.tools.base import ToolRequest
from sod.tools.sandbox.base import Execution, Sandbox

NAME = "python"
SCHEMA: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "Run Python code and read what it prints.",
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string"}},
            "required": ["code"],
        },
    },
}


class PythonTool:
    """Executes `code` as a program of its own: no state between calls, no echo of a last expression.

    `max_code_chars` and `max_output_chars` are in characters. The sandbox is closed with the tool.
    """

    def __init__(self, sandbox: Sandbox, max_code_chars: int = 20_000, max_output_chars: int = 2_000) -> None:
        self._sandbox = sandbox
        self._max_code_chars = max_code_chars
        self._max_output_chars = max_output_chars

    @property
    def name(self) -> str:
        """`python`."""
        return NAME

    @property
    def schema(self) -> Mapping[str, Any]:
        """One required string, `code`."""
        return SCHEMA

    def run(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        """Execute all requests; see `Tool.run`.

        Tool errors: `bad_arguments`, `code_too_long`, `exception`, `timeout`, `memory`, `output_limit`.
        """
        results: list[ToolResult | Fault | None] = [self._refuse(r.call.arguments) for r in requests]
        accepted = [index for index, refusal in enumerate(results) if refusal is None]
        programs = [requests[index].call.arguments["code"] for index in accepted]
        for index, outcome in zip(accepted, self._sandbox.execute(programs), strict=True):
            results[index] = outcome if isinstance(outcome, Fault) else self._show(outcome)
        return [result for result in results if result is not None]

    def close(self) -> None:
        """Close the sandbox. Safe to call twice."""
        self._sandbox.close()

    def _refuse(self, arguments: Mapping[str, Any]) -> ToolResult | None:
        """A tool error for arguments that cannot be executed, else None."""
        if "code" not in arguments:
            return _error("bad_arguments", "`code` is missing")
        if not isinstance(arguments["code"], str):
            return _error("bad_arguments", "`code` must be a string")
        if others := [repr(key) for key in arguments if key != "code"]:
            return _error("bad_arguments", f"only `code` is accepted, not {', '.join(others)}")
        length = len(arguments["code"])
        if length > self._max_code_chars:
            return _error("code_too_long", f"{length} characters, at most {self._max_code_chars}")
        return None

    def _show(self, execution: Execution) -> ToolResult:
        """What the model reads of an execution: its stdout, then the last line of what went wrong."""
        output = self._cut(execution.stdout.rstrip("\n"))
        if execution.status == "ok":
            return ToolResult(output or "(no output)", None, execution.seconds)
        lines = execution.stderr.strip().splitlines() or ["the program failed"]
        last = self._cut(lines[-1].strip())
        name = "exception" if execution.status == "error" else execution.status
        if name != "exception":
            last = f"Error: {name}: {last}"
        return ToolResult(f"{output}\n{last}" if output else last, name, execution.seconds)

    def _cut(self, text: str) -> str:
        if len(text) <= self._max_output_chars:
            return text
        return f"{text[: self._max_output_chars]}... [cut, {len(text)} characters in all]"


def _error(name: str, explanation: str) -> ToolResult:
    return ToolResult(f"Error: {name}: {explanation}", name)
