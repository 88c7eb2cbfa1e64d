"""Tool calls out of sampled text: a call or a named failure for everything a model can write."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.chat.dialects.hermes import Hermes, read, render_call
from sod.chat.render import Chat
from sod.records import MalformedCall, Said, StopReason, ToolCall, Trajectory, Turn
from sod.runlog import RunLog, trajectory_row

GOOD = '<tool_call>\n{"name": "python", "arguments": {"code": "print(1)"}}\n</tool_call>'
CALL = ToolCall("python", {"code": "print(1)"})


def parse_calls(text: str) -> tuple[ToolCall | MalformedCall, ...]:
    return read(text).calls


def wrapped(body: str) -> str:
    return f"<tool_call>{body}</tool_call>"


def errors(text: str) -> list[str | None]:
    """The failure's name at each call, None for a call that could be read."""
    return [call.error if isinstance(call, MalformedCall) else None for call in parse_calls(text)]


def test_text_without_calls() -> None:
    assert parse_calls("") == parse_calls('The answer is \\boxed{3}; {"name": 1}') == ()


def test_several_calls_in_order_with_text_between() -> None:
    second = ToolCall("search", {"q": "x", "n": 3})
    assert parse_calls(f"first {GOOD} then {render_call(second)} end") == (CALL, second)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("{'name': 'python', 'arguments': {}}", "invalid_json"),
        ('{"name": "python", "arguments": {}} trailing', "invalid_json"),
        ('{"name": "python", "arguments": {"code": "a\nb"}}', "invalid_json"),  # a raw newline in a string
        ("[" * 200_000, "invalid_json"),
        ('{"name": "p", "arguments": ' + '{"a":' * 100_000 + "1" + "}" * 100_001, "invalid_json"),
        ('{"name": "p", "arguments": {"n": ' + "7" * 5_000 + "}}", "invalid_json"),
        ("[1, 2]", "invalid_call"),
        ("null", "invalid_call"),
        ('"python"', "invalid_call"),
        ('{"arguments": {}}', "invalid_call"),
        ('{"name": 3, "arguments": {}}', "invalid_call"),
        ('{"name": "python"}', "invalid_call"),
        ('{"name": "python", "arguments": "print(1)"}', "invalid_call"),
        ('{"name": "python", "arguments": ["print(1)"]}', "invalid_call"),
        ('{"name": "python", "arguments": null}', "invalid_call"),
    ],
)
def test_malformed_calls_are_named(body: str, error: str) -> None:
    """Each failure has a name and a short reason that goes to the model, and spoils no neighbour."""
    assert errors(f"{GOOD}{wrapped(body)}{GOOD}") == [None, error, None]
    (failure,) = parse_calls(wrapped(body))
    assert isinstance(failure, MalformedCall)
    result = failure.result()
    assert result.error == error
    assert result.text.startswith(f"Error: {error}: ")
    assert len(result.text) < 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<tool_call>", ["unclosed_tool_call"]),
        ('<tool_call>{"name": "python", "arguments": {}}', ["unclosed_tool_call"]),
        (f"{GOOD}<tool_call>", [None, "unclosed_tool_call"]),
        ("</tool_call>", ["unopened_tool_call"]),
        (f"</tool_call>{GOOD}", ["unopened_tool_call", None]),
        (f"{GOOD}</tool_call>", [None, "unopened_tool_call"]),
        (f"<tool_call>{GOOD}", ["unclosed_tool_call", None]),
        (f"<tool_call>{GOOD}</tool_call>", ["unclosed_tool_call", None, "unopened_tool_call"]),
    ],
)
def test_unbalanced_marks_are_named(text: str, expected: list[str | None]) -> None:
    assert errors(text) == expected


def test_arguments_keep_their_types() -> None:
    arguments = {"code": 'a\n\t"b" <x> \\ é 🙂', "n": 10**100, "deep": [{"x": [None, True, 1.5]}]}
    assert parse_calls(render_call(ToolCall("f", arguments))) == (ToolCall("f", arguments),)


def test_thinking_about_a_call_is_not_making_it() -> None:
    """Only what follows the last `</think>` counts, and an unclosed mark in a thought is no failure."""
    assert parse_calls(f"<think>maybe {GOOD}</think>no") == ()
    assert parse_calls(f"<think><tool_call></think>{GOOD}") == (CALL,)
    assert parse_calls(f"<think>a</think>{GOOD}<think>b</think>done") == ()


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("", "", ""),
        ("\\boxed{3}", "", "\\boxed{3}"),
        ("<think>hm</think>\n\n7", "hm", "\n\n7"),
        ("hm</think>7", "hm", "7"),  # the template had opened the thought
        ("<think>a</think>b<think>c</think>d", "a</think>b<think>c", "d"),
        ("<think>never closed", "", "<think>never closed"),
        (f"so\n{GOOD}", "", "so"),
        (f"so\n{GOOD}\n{GOOD} end", "", "so end"),
        (f"<think>{GOOD}</think>{GOOD}", GOOD, ""),
        (f"{GOOD}<tool_call>{{</tool_call>", "", "<tool_call>{</tool_call>"),
        (f"<tool_call>{GOOD}", "", "<tool_call>"),
    ],
)
def test_thinking_and_answer(text: str, thinking: str, answer: str) -> None:
    """Up to the last `</think>`, and the rest without the calls that could be read."""
    said = read(text)
    assert (said.thinking, said.answer) == (thinking, answer)


def test_a_turn_that_was_cut_off_makes_no_calls(chat: Chat) -> None:
    """Without its end token a call is text; with any of the stop tokens it is made."""
    ids = chat.tokenizer.encode(f"<think>hm</think>{GOOD}", add_special_tokens=False)
    dialect = Hermes(chat.decode_turn, chat.stop_ids)
    assert dialect.parse(ids) == Said("hm", GOOD, ())
    for stop in chat.stop_ids:
        assert dialect.parse([*ids, stop]) == chat.parse([*ids, stop]) == Said("hm", "", (CALL,))
    assert dialect.parse([]) == Said()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None)
@given(name=st.text(max_size=9), arguments=st.dictionaries(st.text(max_size=5), JSON, max_size=3))
def test_rendered_calls_are_read_back(name: str, arguments: dict[str, object]) -> None:
    """Render, then parse, for any name and arguments without a mark of our own in them."""
    call = ToolCall(name, arguments)
    assert parse_calls(f"text {render_call(call)} {GOOD}") == (call, CALL)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["<tool_call>", "</tool_call>", "</think>", "{", "}", '"name"', ":", "x", GOOD])))
def test_parsing_never_raises_and_counts_add_up(parts: list[str]) -> None:
    """Every mark after the last thought belongs to exactly one entry."""
    text = "".join(parts)
    spoken = text.rsplit("</think>", 1)[-1]
    found = parse_calls(text)
    names = errors(text)
    paired = len(found) - names.count("unclosed_tool_call") - names.count("unopened_tool_call")
    assert spoken.count("<tool_call>") == paired + names.count("unclosed_tool_call")
    assert spoken.count("</tool_call>") == paired + names.count("unopened_tool_call")


@pytest.mark.parametrize("depth", [10, 300, 500, 700, 900])
def test_what_is_parsed_can_be_recorded(tmp_path: Path, depth: int) -> None:
    """A nesting just shallow enough to be read must not stop the run where its trajectory is written."""
    (call,) = parse_calls(wrapped('{"name": "f", "arguments": {"x": ' + "[" * depth + "]" * depth + "}}"))
    if isinstance(call, MalformedCall):
        assert call.error == "invalid_json"
        return
    turn = Turn(1, 1, 2, "", calls=(call,))
    trajectory = Trajectory("t", 0, 1, (1, 2), (0, 1), (0.0, -1.0), (turn,), StopReason.ANSWER)
    log = RunLog.create(tmp_path / "run", {}, 0)
    log.write_trajectories(1, [trajectory_row(trajectory)])
    (row,) = log.trajectories(1)
    assert row["turns"][0]["calls"][0]["arguments"] == call.arguments
