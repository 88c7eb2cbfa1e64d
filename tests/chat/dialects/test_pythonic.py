"""Calls as Python writes them."""

from __future__ import annotations

from typing import Any

import pytest

from sod.chat.dialects.lfm2 import LFM2
from sod.chat.dialects.python_lines import PYTHON_LINES
from sod.records import MalformedCall, Message, Said, ToolCall


def wrapped(body: str) -> str:
    return f"<|tool_call_start|>{body}<|tool_call_end|>"


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ("f()", {}),
        ("f(a='x', b=1, c=-2.5, d=True, e=None)", {"a": "x", "b": 1, "c": -2.5, "d": True, "e": None}),
        ('f( a = "it\'s" ,)', {"a": "it's"}),
        ("f(a='two\nlines')", {"a": "two\nlines"}),
        (
            r"f(a='q\'q \\ \n \x41\u00e9 \d \
')",
            {"a": "q'q \\ \n Aé \\d "},
        ),
        (
            "f(a=[1, 'x', [true, null]], b={'k': {\"l\": 1e3}})",
            {"a": [1, "x", [True, None]], "b": {"k": {"l": 1000.0}}},
        ),
        ("f(a='<|tool_call_end|>)]')", {"a": "<|tool_call_end|>)]"}),
        ("f(a=[], b={},)", {"a": [], "b": {}}),
        ("f(a=celsius, b=[x.y])", {"a": "celsius", "b": ["x.y"]}),
    ],
)
def test_calls_are_read_as_python_reads_them(body: str, arguments: dict[str, Any]) -> None:
    assert LFM2.read(wrapped(f"[{body}]"), False, True) == Said("", "", (ToolCall("f", arguments),))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "f()",
        "[f]",
        "[f(]",
        "[f(1)]",
        "[f(a)]",
        "[f(a=)]",
        "[f(a=[)]",
        "[f(a=1 b=2)]",
        "[f(a=007)]",
        "[f(a='x)]",
        "[f(a={1: 2})]",
        "[f(a=" + "[" * 70 + "]" * 70 + ")]",
        "[f(a=" + "7" * 5_000 + ")]",
        "[f() g()]",
        "['f']",
    ],
)
def test_what_is_no_list_of_calls_is_malformed_and_spoils_no_neighbour(body: str) -> None:
    good = wrapped("[g(a='x')]")
    said = LFM2.read(f"{good}{wrapped(body)}{good}", False, True)
    assert [call.error if isinstance(call, MalformedCall) else call.name for call in said.calls] == [
        "g",
        "invalid_call",
        "g",
    ]
    assert said.answer == wrapped(body)


def test_marks_without_their_other_half() -> None:
    """A list that is not closed is unclosed, also where it is whole, and a mark alone that closes is unopened."""
    for text, error in [
        ("<|tool_call_start|>[f()]", "unclosed_tool_call"),
        ("[f()]<|tool_call_end|>", "unopened_tool_call"),
        (f"{wrapped('[f()] and more')}", "invalid_json"),
    ]:
        (call,) = LFM2.read(text, False, True).calls
        assert isinstance(call, MalformedCall)
        assert call.error == error


def test_calls_are_written_as_python_writes_them() -> None:
    calls = (ToolCall("f", {"a": "it's\n\\", "b": True, "c": [None, "x"]}), ToolCall("g", {}))
    text = LFM2.write(Message("assistant", "so", calls), False)
    assert text == "so" + wrapped(r"""[f(a='it\'s\n\\', b=True, c=[null, "x"]), g()]""")


F, G = ToolCall("f", {"a": 1}), ToolCall("g", {})


@pytest.mark.parametrize(
    ("text", "thinking", "answer", "calls"),
    [
        ("[f(a=1)]", "", "", (F,)),
        ("so\n[f(a=1), g()]", "", "so", (F, G)),
        ("<think>hm</think>\n[f(a=1)]", "hm", "", (F,)),
        ("<think>[g()]</think>[f(a=1)] end", "[g()]", " end", (F,)),
        ("[f(x) + g(x)] is 7", "", None, ()),
        ("so [f(a=1)]", "", None, ()),
        ("[a](b) and\n[f](c)", "", None, ()),
        ('[f(a="[g()]', "", None, ()),
        ("[f(a=1), 2]", "", None, ()),
    ],
)
def test_without_marks_a_line_is_calls_or_text(
    text: str, thinking: str, answer: str | None, calls: tuple[ToolCall, ...]
) -> None:
    """What is no list of nothing but calls is an answer, not a malformed call."""
    assert PYTHON_LINES.read(text, False, True) == Said(thinking, text if answer is None else answer, calls)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ 'Respond in the format [name1(key1=value1, key2=value2), name2(key)]' }}", True),
        ("{{ messages[0]['content'] }}", False),
        ("{{ '<tool_call>' }}", False),
    ],
)
def test_templates_that_show_a_list_of_calls_speak_it(template: str, expected: bool) -> None:
    assert PYTHON_LINES.speaks(template) is expected
