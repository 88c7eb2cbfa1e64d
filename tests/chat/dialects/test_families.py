"""The law of every dialect here: what is written is read back, the pieces are the text, nothing takes too long."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from time import process_time
from typing import Any, final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.chat.dialects.base import Dialect
from sod.chat.dialects.deepseek import DEEPSEEK_V3, DEEPSEEK_V31
from sod.chat.dialects.gemma3 import GEMMA3
from sod.chat.dialects.gemma4 import FUNCTION_GEMMA, GEMMA4
from sod.chat.dialects.gpt_oss import GPT_OSS
from sod.chat.dialects.kimi import KIMI_K2
from sod.chat.dialects.known import DIALECTS
from sod.chat.dialects.mistral import MISTRAL_V3, MISTRAL_V11, MISTRAL_V13
from sod.chat.dialects.phi4 import PHI4, PHI4_FUNCTOOLS
from sod.chat.dialects.python_lines import PYTHON_LINES
from sod.records import Message, Said, ToolCall

BAR, JOINT = "\uff5c", "\u2581"
DEEPSEEK_MARKS = tuple(
    f"<{BAR}{words.replace(' ', JOINT)}{BAR}>"
    for words in ("tool calls begin", "tool call begin", "tool sep", "tool call end", "tool calls end")
)
HARMONY = ("<|start|>assistant", "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>")
KIMI_MARKS = tuple(
    f"<|tool_call{words}|>" for words in ("s_section_begin", "_begin", "_argument_begin", "_end", "s_section_end")
)


@final
@dataclass(frozen=True)
class Family:
    """A dialect for the law: its marks, those of thoughts, and whether a name or a key may be any text.

    `spaced`: white space is written around thoughts, so that what is read back may have more of it.
    """

    dialect: Dialect
    marks: tuple[str, ...]
    thought: tuple[str, ...] = ("<think>", "</think>")
    any_name: bool = False
    any_key: bool = True
    ids: bool = False
    spaced: bool = False
    halves: tuple[str, ...] = field(default=("{", "}", "[", "]", '"', "\\", "\n", "```", "<", "call:f{a:"))

    @property
    def all_marks(self) -> tuple[str, ...]:
        """The marks of calls and of thoughts."""
        return (*self.marks, *self.thought)


FAMILIES = [
    Family(DEEPSEEK_V3, DEEPSEEK_MARKS, spaced=True),
    Family(DEEPSEEK_V31, DEEPSEEK_MARKS),
    Family(KIMI_K2, KIMI_MARKS),
    Family(MISTRAL_V3, ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"), ("[THINK]", "[/THINK]"), any_name=True, ids=True),
    Family(MISTRAL_V11, ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"), ("[THINK]", "[/THINK]"), ids=True),
    Family(MISTRAL_V13, ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"), ("[THINK]", "[/THINK]")),
    Family(PHI4, ("<|tool_call|>", "<|/tool_call|>"), any_name=True),
    Family(PHI4_FUNCTOOLS, ("functools[", 'functools[{"name": "', "functools"), any_name=True),
    Family(GEMMA3, ("```tool_code", "```tool_code\n", "\n```"), any_name=True, spaced=True),
    Family(GEMMA4, ("<|tool_call>", "<tool_call|>", '<|"|>'), ("<|channel>thought\n", "<channel|>")),
    Family(FUNCTION_GEMMA, ("<start_function_call>", "<end_function_call>", "<escape>"), ()),
    Family(GPT_OSS, HARMONY, ()),
    Family(PYTHON_LINES, ("[f(", "[f(a=1)]", "\n["), any_key=False, spaced=True),
]
NAMED = [pytest.param(family, id=family.dialect.name) for family in FAMILIES]
NAMES = st.from_regex(r"[a-z_][A-Za-z0-9_.-]{0,8}", fullmatch=True)


def text_of(family: Family) -> st.SearchStrategy[str]:
    """Text with the family's marks, and with what JSON is made of."""
    parts = st.text(max_size=4) | st.sampled_from([*family.all_marks, *family.halves])
    return st.lists(parts, max_size=5).map("".join)


def prose_of(family: Family) -> st.SearchStrategy[str]:
    """Text in which nothing is a mark. What goes before a mark cannot be half of one."""
    return text_of(family).filter(lambda text: not any(mark in text for mark in family.all_marks))


def thought_of(family: Family) -> st.SearchStrategy[str]:
    """Text without the marks of thoughts; in gpt-oss without those that end a message."""
    ends = family.thought or ("<|start|>", "<|end|>", "<|call|>", "<|return|>")
    return text_of(family).filter(lambda text: not any(mark in text for mark in ends))


def calls_of(family: Family) -> st.SearchStrategy[list[ToolCall]]:
    texts = text_of(family)
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=5,
    )
    ids = st.from_regex(r"[a-z0-9]{9}", fullmatch=True) if family.ids else st.none()
    names = texts if family.any_name else NAMES
    keys = texts if family.any_key else NAMES
    return st.lists(st.builds(ToolCall, names, st.dictionaries(keys, values, max_size=3), ids), max_size=3)


def stripped(said: Said) -> Said:
    return Said(said.thinking.strip(), said.answer.strip(), said.calls)


def is_read_back(family: Family, message: Message, thought_open: bool) -> None:
    text = family.dialect.write(message, thought_open)
    said = family.dialect.read(text, thought_open, finished=True)
    expected = Said(message.reasoning or "", message.content, message.tool_calls)
    assert said == expected or (family.spaced and stripped(said) == stripped(expected))
    assert family.dialect.read(text, thought_open, finished=False).calls == ()
    pieces = family.dialect.pieces(text, thought_open)
    assert "".join(piece.text for piece in pieces) == text
    contents = "".join(piece.text for piece in pieces if not piece.frame)
    assert message.content in contents
    assert (message.reasoning or "") in contents


@pytest.mark.parametrize("examples", [10, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", NAMED)
def test_a_message_is_read_back_as_it_was_written(family: Family, examples: int) -> None:
    """Thought, content and calls with any JSON, marks in strings of arguments and marks of calls in the thought."""

    def law(content: str, thought: str, calls: list[ToolCall], prompted: bool) -> None:
        thinks = family.dialect is not FUNCTION_GEMMA
        message = Message("assistant", content, tuple(calls), reasoning=thought if thinks and thought else None)
        is_read_back(family, message, prompted and thinks)

    drawn = given(prose_of(family), thought_of(family), calls_of(family), st.booleans())(law)
    settings(max_examples=examples, deadline=None)(drawn)()


@pytest.mark.parametrize("examples", [10, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", NAMED)
def test_any_text_is_read(family: Family, examples: int) -> None:
    """Nothing raises, the pieces are the text, every frame is or begins with a mark, and cut off nothing is called."""

    def law(parts: list[str], prompted: bool) -> None:
        text = "".join(parts)
        pieces = family.dialect.pieces(text, prompted)
        assert "".join(piece.text for piece in pieces) == text
        marks = (*family.all_marks, "```")  # a fence ends a call, and is none by itself
        assert all(any(mark in piece.text for mark in marks) for piece in pieces if piece.frame)
        family.dialect.read(text, prompted, finished=True)
        assert family.dialect.read(text, prompted, finished=False).calls == ()

    whole = family.dialect.write(Message("assistant", "", (ToolCall("f", {"a": "1"}),)), False)
    parts = [*family.all_marks, *family.halves, "f", " ", "function", "commentary", "to=functions.f", whole]
    drawn = given(st.lists(st.sampled_from(parts), max_size=12), st.booleans())(law)
    settings(max_examples=examples, deadline=None)(drawn)()


@pytest.mark.slow
@pytest.mark.parametrize("family", NAMED)
def test_reading_takes_no_more_than_linear_time(family: Family) -> None:
    """Marks without end, each with the beginning of a value that goes on: four times the text takes no sixteen times.

    By the processor's time, and with a factor of two to spare on either side.
    """
    whole = family.dialect.write(Message("assistant", "", (ToolCall("f", {"a": "1"}),)), False)
    first = whole.partition("1")[0]
    units = {*family.all_marks, whole, first, f"{first}{family.marks[0]}", f'{family.marks[0]}["', " ", '"'}
    for unit in sorted(units):
        short, long = (min(seconds_to_read(family.dialect, unit, size) for _ in range(2)) for size in (10_000, 40_000))
        assert long < 8 * short + 0.02, unit


def seconds_to_read(dialect: Dialect, unit: str, size: int) -> float:
    """Without what collecting the garbage of other tests takes."""
    text = unit * (size // len(unit))
    gc.disable()
    try:
        start = process_time()
        dialect.read(text, False, finished=True)
        dialect.pieces(text, True)
        return process_time() - start
    finally:
        gc.enable()


def test_every_dialect_is_known() -> None:
    assert {family.dialect for family in FAMILIES} <= set(DIALECTS)
    names = [dialect.name for dialect in DIALECTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("thought_open", [False, True])
@pytest.mark.parametrize("family", [family for family in NAMED if family.values[0].thought])
def test_a_content_may_bring_its_thought_along(family: Any, thought_open: bool) -> None:
    think, thought = family.thought
    message = Message("assistant", f"{think}hm{thought}7")
    text = family.dialect.write(message, thought_open)
    assert stripped(family.dialect.read(text, thought_open, True)) == Said("hm", "7")


@pytest.mark.parametrize("family", [family for family in NAMED if family.values[0].thought])
def test_prompts_that_open_a_thought(family: Any) -> None:
    think, thought = family.thought
    dialect = family.dialect
    assert dialect.opens_thought(f"user: a\n{think}")
    assert not dialect.opens_thought(f"user: a\n{think}{thought}")
    for end in (think, f"{think}\n", f"{think}\n{thought}\n\n", thought):
        assert dialect.without_thought(f"user: a\n{end}") == "user: a\n"
    assert dialect.without_thought("user: a\n") == "user: a\n"
