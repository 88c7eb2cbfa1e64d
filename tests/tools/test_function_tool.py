"""Functions of the user's own as tools: real ones, called as a run calls them."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from typing import Any, ClassVar, Literal

import pytest

from sod.records import Fault, FaultKind, Message, SodError, Task, ToolCall, ToolFault, ToolResult
from sod.tools.base import ToolRequest
from sod.tools.function import CallLimits, FunctionTool

TASK = Task("t1", (Message("user", "How many?"),), "3", extra={"table": "cities"})
WHERE = "tools.sql.call='mine:sql'"


def uncut(text: str) -> str:
    return text


def tool(function: Callable[..., Any], seconds: float = 5.0, concurrency: int = 16, told: Any = None) -> FunctionTool:
    told = [] if told is None else told
    return FunctionTool("sql", function, CallLimits(seconds, concurrency), uncut, told.append, WHERE)


def request(arguments: Mapping[str, Any] | None = None, episode: str = "e1", task: Task = TASK) -> ToolRequest:
    return ToolRequest(episode, ToolCall("sql", arguments or {}), task)


def call(made: FunctionTool, **arguments: Any) -> ToolResult | Fault:
    (outcome,) = made.run([request(arguments)])
    return outcome


def sql(query: str, task: Task, limit: int = 5) -> list[list[Any]]:
    """
    Run a query.

    Args:
        query: The SELECT.
        limit: The most rows.
    """
    with sqlite3.connect(":memory:") as database:
        database.execute(f"CREATE TABLE {task.extra['table']} (name TEXT)")
        database.execute(f"INSERT INTO {task.extra['table']} VALUES ('Ulm'), ('Bonn')")
        return [list(row) for row in database.execute(query).fetchmany(limit)]


async def slow(text: str) -> str:
    """
    Wait, then say it.

    Args:
        text: What to say.
    """
    await asyncio.sleep(0.1)
    return text


def test_the_schema_comes_of_hints_and_docstring_without_the_task() -> None:
    assert tool(sql).schema == {
        "type": "function",
        "function": {
            "name": "sql",
            "description": "Run a query.",
            "parameters": {
                "type": "object",
                "properties": {
                    "query": {"type": "string", "description": "The SELECT."},
                    "limit": {"type": "integer", "description": "The most rows."},
                },
                "required": ["query"],
            },
        },
    }


def test_a_call_gets_its_arguments_and_the_task() -> None:
    outcome = call(tool(sql), query="SELECT name FROM cities", limit="1")
    assert isinstance(outcome, ToolResult)
    assert (outcome.text, outcome.error) == ('[["Ulm"]]', None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "'query' is missing"),
        ({"query": "x", "sql": 1}, "only 'query', 'limit' is accepted, not 'sql'"),
        ({"query": "x", "task": "t"}, "only 'query', 'limit' is accepted, not 'task'"),
        ({"query": "x", "limit": "many"}, "`limit`: input should be a valid integer"),
        ({"query": 3}, "`query`: input should be a valid string"),
    ],
)
def test_wrong_arguments_are_a_tool_error(arguments: dict[str, Any], said: str) -> None:
    outcome = call(tool(sql), **arguments)
    assert isinstance(outcome, ToolResult)
    assert outcome.error == "bad_arguments"
    assert outcome.text.startswith(f"Error: bad_arguments: {said}")


def test_what_a_function_raises_is_a_tool_error() -> None:
    outcome = call(tool(sql), query="SELECT name FROM towns")
    assert isinstance(outcome, ToolResult)
    assert (outcome.text, outcome.error) == ("Error: OperationalError: no such table: towns", "exception")


@pytest.mark.parametrize("retryable", [True, False])
def test_a_tool_fault_is_a_fault_of_ours(retryable: bool) -> None:
    def down() -> str:
        """Fails."""
        raise ToolFault("the database is down", retryable)

    assert call(tool(down)) == Fault(FaultKind.TOOL, f"{WHERE}: the database is down", retryable)


def leaving() -> str:
    """Leaves."""
    raise SystemExit(3)


async def leaving_async() -> str:
    """Leaves."""
    raise SystemExit(3)


def stopping() -> str:
    """Raises what generators end with."""
    raise StopIteration


@pytest.mark.parametrize("function", [leaving, leaving_async, stopping])
def test_no_exception_ends_the_run(function: Callable[..., Any]) -> None:
    made = tool(function)
    for _ in range(2):  # the event loop outlives the first
        outcome = call(made)
        assert isinstance(outcome, ToolResult)
        assert outcome.error == "exception"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\nb", "a\nb"),
        ("", "(no output)"),
        (None, "(no output)"),
        (1.5, "1.5"),
        (True, "true"),
        ({"ä": [1]}, '{"ä": [1]}'),
    ],
)
def test_values_become_text(value: Any, text: str) -> None:
    def gives() -> Any:
        """Gives."""
        return value

    outcome = call(tool(gives))
    assert isinstance(outcome, ToolResult)
    assert outcome.text == text


@pytest.mark.parametrize("value", [b"bytes", object(), {1, 2}, [object()]])
def test_what_is_no_text_is_a_fault(value: Any) -> None:
    def gives() -> Any:
        """Gives."""
        return value

    outcome = call(tool(gives))
    assert isinstance(outcome, Fault)
    assert (outcome.kind, outcome.retryable) == (FaultKind.BAD_REPLY, False)
    assert outcome.detail.startswith(f"{WHERE}: returned a {type(value).__name__}, which is no text; return a string")


def test_calls_run_side_by_side_and_no_more_than_may() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def counted(number: int) -> int:
        """
        Count.

        Args:
            number: Which.
        """
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return number

    outcomes = tool(counted, concurrency=3).run([request({"number": n}) for n in range(9)])
    assert [outcome.text for outcome in outcomes if isinstance(outcome, ToolResult)] == [str(n) for n in range(9)]
    assert most == 3


def hanging(text: str) -> str:
    """
    Hang, or not.

    Args:
        text: Whether.
    """
    threading.Event().wait(30 if text == "hang" else 0)
    return text


async def hanging_async(text: str) -> str:
    """
    Hang, or not, and take no cancelling.

    Args:
        text: Whether.
    """
    until = time.monotonic() + 30
    while text == "hang" and time.monotonic() < until:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            continue
    return text


@pytest.mark.parametrize("function", [hanging, hanging_async])
def test_what_hangs_is_a_tool_error_and_stalls_nobody(function: Callable[..., Any]) -> None:
    made = tool(function, seconds=0.2, concurrency=1)
    begun = time.monotonic()
    first, second = made.run([request({"text": "hang"}), request({"text": "go"})])
    assert time.monotonic() - begun < 10
    assert isinstance(first, ToolResult)
    assert (first.text, first.error) == ("Error: timeout: stopped after 0.2 s", "timeout")
    assert isinstance(second, ToolResult)
    assert (second.text, second.error) == ("go", None)


def test_async_calls_share_one_event_loop() -> None:
    loops: set[int] = set()

    async def where(text: str) -> str:
        """
        Tell.

        Args:
            text: Nothing.
        """
        loops.add(id(asyncio.get_running_loop()))
        return text

    first, second = tool(where), tool(slow)
    first.run([request({"text": "a"}), request({"text": "b"})])
    assert call(second, text="c").text == "c"  # type: ignore[union-attr]
    first.run([request({"text": "d"})])
    assert len(loops) == 1


class Counter:
    """Count the calls of a conversation."""

    log: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.calls = 0
        self.table = ""

    def start(self, task: Task) -> None:
        self.table = str(task.extra["table"])

    def __call__(self, by: int) -> str:
        """
        Count on.

        Args:
            by: How far.
        """
        self.calls += by
        return f"{self.table} {self.calls}"

    def finish(self) -> None:
        self.log.append(f"{self.table} {self.calls}")


class AsyncCounter(Counter):
    """Count the calls of a conversation, async."""

    async def start(self, task: Task) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().start(task)

    async def __call__(self, by: int) -> str:  # type: ignore[override]
        """
        Count on.

        Args:
            by: How far.
        """
        await asyncio.sleep(0.02 / by)
        return super().__call__(by)

    async def finish(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().finish()


@pytest.mark.parametrize("kind", [Counter, AsyncCounter])
def test_a_class_keeps_the_state_of_each_episode(kind: type[Counter]) -> None:
    kind.log = []
    made = tool(kind)
    assert made.keeps_state
    other = Task("t2", TASK.prompt, "", extra={"table": "rivers"})
    outcomes = made.run([request({"by": 1}), request({"by": 5}, "e2", other), request({"by": 2})])
    assert [getattr(outcome, "text", outcome) for outcome in outcomes] == ["cities 1", "rivers 5", "cities 3"]
    made.finish(["e1", "never seen"])
    assert call(made, by=7).text == "cities 7"  # type: ignore[union-attr]  # begun anew
    made.close()
    made.close()
    assert sorted(kind.log) == ["cities 3", "cities 7", "rivers 5"]


def test_a_finish_that_raises_is_told_once_and_changes_nothing() -> None:
    class Bad(Counter):
        """Bad."""

        def finish(self) -> None:
            raise OSError("the file is gone")

    told: list[str] = []
    made = tool(Bad, told=told)
    made.run([request({"by": 1}, f"e{n}") for n in range(3)])
    made.finish(["e0"])
    made.finish(["e1", "e2"])
    made.close()
    assert len(told) == 1
    assert told[0].startswith(f"{WHERE}: its finish() raised OSError: the file is gone; ")


@pytest.mark.parametrize(("error", "retryable"), [(ValueError("no"), False), (ToolFault("down"), True)])
def test_a_start_that_raises_is_a_fault(error: Exception, retryable: bool) -> None:
    class Bad(Counter):
        """Bad."""

        def start(self, task: Task) -> None:
            raise error

    outcome = call(tool(Bad), by=1)
    assert isinstance(outcome, Fault)
    assert outcome.retryable is retryable
    assert f"its start raised {type(error).__name__}: {error}" in outcome.detail


def test_after_a_time_out_an_episode_has_another_object() -> None:
    class Slow(Counter):
        """Slow."""

        def __call__(self, by: int) -> str:
            """
            Count.

            Args:
                by: How far; 9 hangs.
            """
            self.calls += by
            threading.Event().wait(30 if by == 9 else 0)
            return str(self.calls)

    made = tool(Slow, seconds=0.2)
    outcomes = made.run([request({"by": by}) for by in (1, 9, 2)])
    texts = [getattr(outcome, "text", outcome) for outcome in outcomes]
    assert texts == ["1", "Error: timeout: stopped after 0.2 s; what earlier calls left is gone", "2"]
    made.close()


class Colour(Enum):
    RED = "red"


def test_hints_are_read_as_the_types_they_name() -> None:
    def paint(colour: Colour, way: Literal["a", "b"] = "a", many: list[int] | None = None) -> str:
        """
        Paint.

        Args:
            colour: Which.
            way: How.
            many: Where.
        """
        return f"{colour!r} {way} {many}"

    assert call(tool(paint), colour="red", many=[1]).text == "<Colour.RED: 'red'> a [1]"  # type: ignore[union-attr]
    outcome = call(tool(paint), colour="red", way="c")
    assert isinstance(outcome, ToolResult)
    assert outcome.error == "bad_arguments"


def unhinted(query) -> str:  # type: ignore[no-untyped-def]
    """Search."""
    return str(query)


def row(task) -> str:  # type: ignore[no-untyped-def]
    """Search."""
    return str(task)


def undocumented(query: str) -> str:
    return query


def half_documented(query: str) -> str:
    """Search."""
    return query


def custom(where: threading.Event) -> str:
    """
    Search.

    Args:
        where: There.
    """
    return ""


def spread(*words: str) -> str:
    """Search."""
    return ""


class Uncalled:
    """Nothing."""


class Argued(Counter):
    """Argued."""

    def __init__(self, path: str) -> None:
        super().__init__()


class Startled(Counter):
    """Startled."""

    def start(self) -> None:  # type: ignore[override]
        pass


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (unhinted, "its parameter query has no type hint; write query: str, int, ..."),
        (row, "its parameter task has no type hint; write task: sod.Task to be given the task, or str, int, ..."),
        (undocumented, "no docstring!; say in its docstring what it does and, below 'Args:', a line for each"),
        (half_documented, "no description for the argument 'query'; say in its docstring"),
        (custom, "Couldn't convert the type hint <class 'threading.Event'> to a JSON schema"),
        (spread, "its parameter *words: 'str' cannot be given by name; name every parameter"),
        (Uncalled, "is class Uncalled has no __call__; name a function, or a class whose __call__"),
        (Argued, "Argued cannot be made without arguments: missing a required argument: 'path'; give them defaults"),
        (Startled, "Startled.start too many positional arguments; it must be start(self, task)"),
        ("a string", "is a str; name a function"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_with_the_fix(thing: Any, said: str) -> None:
    with pytest.raises(SodError) as caught:
        tool(thing)
    line = str(caught.value)
    assert line.startswith(f"{WHERE}: ")
    assert said in line
    assert "\n" not in line


def test_an_object_that_can_be_called_is_a_tool() -> None:
    made = tool(partial(Counter)())
    assert not made.keeps_state
    assert [call(made, by=2).text for _ in range(2)] == [" 2", " 4"]  # type: ignore[union-attr]
