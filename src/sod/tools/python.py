"""The Python tool: runs the model's code in a sandbox and shows what it prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast, final

from sod.outcomes import filled
from sod.records import Execution, Fault, Program, Task, ToolResult
from sod.tools.base import ToolRequest
from sod.tools.sandbox.base import Cell, Sandbox, SessionSandbox
from sod.tools.sandbox.probe import healthy
from sod.tools.sandbox.sessions import STATE_LOST

NAME = "python"
ARGUMENT = "code"
"""What the tool and its argument are called where the recipe says nothing else."""


def python_schema(stateful: bool, name: str = NAME, argument: str = ARGUMENT) -> Mapping[str, Any]:
    """What is shown to the model: one required string, the `argument`."""
    kept = " Names and files of earlier calls are still there." if stateful else ""
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Run Python code and read what it prints.{kept}",
            "parameters": {
                "type": "object",
                "properties": {argument: {"type": "string"}},
                "required": [argument],
            },
        },
    }


SCHEMA: Mapping[str, Any] = python_schema(stateful=False)


@final
class PythonTool:
    """Executes its one argument, code, and shows what it prints; the value of a last expression is not echoed.

    Each call is a program of its own; where `stateful`, it is a cell of its episode's session, and
    finds what earlier calls of the episode defined. That needs a `SessionSandbox`.
    `max_code_chars` and `max_output_chars` are in characters. `name` and `argument` are what the model calls the tool
    and its code: data of others has `code_interpreter`, say. The sandbox is closed with the tool.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        max_code_chars: int = 20_000,
        max_output_chars: int = 2_000,
        stateful: bool = False,
        name: str = NAME,
        argument: str = ARGUMENT,
    ) -> None:
        self._name = name
        self._argument = argument
        self._sandbox = sandbox
        self._sessions = cast(SessionSandbox, sandbox) if stateful else None
        self._max_code_chars = max_code_chars
        self._max_output_chars = max_output_chars

    @property
    def name(self) -> str:
        """What the model calls it, `python` by default."""
        return self._name

    @property
    def schema(self) -> Mapping[str, Any]:
        """One required string, the code."""
        return python_schema(self.keeps_state, self._name, self._argument)

    @property
    def sandbox(self) -> Sandbox:
        """What runs the programs."""
        return self._sandbox

    @property
    def keeps_state(self) -> bool:
        """Whether the calls of an episode share one interpreter."""
        return self._sessions is not None

    def start(self, episodes: Sequence[tuple[str, Task]]) -> None:
        """Nothing to do: a session begins with its first call."""

    def run(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        """Execute all requests; see `Tool.run`. Where stateful, those of one episode run in the order given.

        Tool errors: `bad_arguments`, `code_too_long`, `exception`, `timeout`, `memory`, `output_limit`.
        """
        refusals: list[ToolResult | Fault | None] = [self._refuse(request.call.arguments) for request in requests]
        return filled(refusals, requests, self._execute)

    def probe(self) -> Fault | None:
        """Whether the sandbox answers one trivial program rightly; see `Tool.probe`."""
        return healthy(self._sandbox)

    def finish(self, episodes: Sequence[str]) -> None:
        """Forget the state of these episodes and free its memory; nothing to do where there is none."""
        if self._sessions is not None:
            self._sessions.end_sessions(episodes)

    def close(self) -> None:
        """Close the sandbox. Safe to call twice."""
        self._sandbox.close()

    def _execute(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        """Run calls whose arguments are as they must be."""
        if self._sessions is None:
            outcomes = self._sandbox.execute([Program(r.call.arguments[self._argument]) for r in requests])
        else:
            outcomes = self._sessions.run_cells([Cell(r.episode, r.call.arguments[self._argument]) for r in requests])
        return [outcome if isinstance(outcome, Fault) else self._show(outcome) for outcome in outcomes]

    def _refuse(self, arguments: Mapping[str, Any]) -> ToolResult | None:
        """A tool error for arguments that cannot be executed, else None."""
        code = self._argument
        if code not in arguments:
            return _error("bad_arguments", f"`{code}` is missing")
        if not isinstance(arguments[code], str):
            return _error("bad_arguments", f"`{code}` must be a string")
        if others := [repr(key) for key in arguments if key != code]:
            return _error("bad_arguments", f"only `{code}` is accepted, not {', '.join(others)}")
        length = len(arguments[code])
        if length > self._max_code_chars:
            return _error("code_too_long", f"{length} characters, at most {self._max_code_chars}")
        return None

    def _show(self, execution: Execution) -> ToolResult:
        """What the model reads of an execution: its stdout, then the last line of what went wrong."""
        output = self._cut(execution.stdout.rstrip("\n"))
        lines = execution.stderr.strip().splitlines()
        last = self._cut(lines[-1].strip()) if lines else "the program failed"
        if execution.status == "ok":
            if self._sessions is not None and last.endswith(STATE_LOST):
                output = f"{output}\n{last}" if output else last
            return ToolResult(output or "(no output)", None, execution.seconds)
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
