"""Thoughts that the generation prompt opens (Qwen3-Thinking, DeepSeek-R1), through a whole `Chat` and an episode."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest

from sod.chat.dialects.hermes import render_call
from sod.chat.render import Chat
from sod.records import Message, Said, StopReason, ToolCall
from sod.tools.python import SCHEMA
from support import played

CALL = ToolCall("python", {"code": "print('</think>')"})
TURNS = (
    "{{ 'Tools: ' + (tools | tojson) if tools else '' }}"
    "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.role == 'assistant' and HISTORY -%}{{ '<think>\n\n</think>\n\n' }}{%- endif -%}"
    "{{ m.content }}"
    "{%- for c in m.tool_calls or [] -%}{{ '<tool_call>' + (c.function | tojson) + '</tool_call>' }}{%- endfor -%}"
    "{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}GENERATION{%- endif -%}"
)
OPENS = "{{ '<think>\n' }}"
CLOSED = "{{ '<think>\n\n</think>\n\n' }}"
OPENS_FIRST = "{%- if messages[-1].role == 'user' -%}{{ '<think>\n' }}{%- endif -%}"


def chat_with(tokenizer: Any, generation: str, history: str = "false", tools: Sequence[Any] = (SCHEMA,)) -> Chat:
    own = copy.deepcopy(tokenizer)
    own.chat_template = TURNS.replace("GENERATION", generation).replace("HISTORY", history)
    return Chat(own, tools, template="tokenizer")


def parsed(chat: Chat, text: str) -> Said:
    return chat.parse([*chat.tokenizer.encode(text, add_special_tokens=False), chat.end_id])


@pytest.mark.parametrize("history", ["false", "loop.last"])
def test_a_thought_that_the_prompt_leaves_open(tokenizer: Any, history: str) -> None:
    """Whether or not earlier turns are rendered with a think block: a turn without `</think>` says nothing."""
    chat = chat_with(tokenizer, OPENS, history)
    call = render_call(CALL)
    assert tokenizer.decode(chat.prompt_ids([Message("user", "7")])).endswith("assistant\n<think>\n")
    assert tokenizer.decode(list(chat.suffix_ids([Message("tool", "7")]))).endswith("assistant\n<think>\n")
    assert parsed(chat, f"hm {call} \\boxed{{3}}") == Said(f"hm {call} \\boxed{{3}}")
    assert parsed(chat, f"hm {call}</think>so{call}") == Said(f"hm {call}", "so", (CALL,))


@pytest.mark.parametrize("generation", ["", CLOSED])
def test_no_thought_or_a_closed_one_leaves_none_open(tokenizer: Any, generation: str) -> None:
    chat = chat_with(tokenizer, generation)
    assert parsed(chat, "7" + render_call(CALL)) == Said("", "7", (CALL,))


def test_a_template_that_opens_only_some_thoughts(tokenizer: Any) -> None:
    """As DeepSeek R1's, which opens none after a tool's result: a turn is read by what stands before it."""
    chat, call = chat_with(tokenizer, OPENS_FIRST), render_call(CALL)
    trajectory, made = played(chat, [f"hm</think>{call}", f"so {call}", "done"])
    assert made == [CALL, CALL]
    assert [turn.said.thinking for turn in trajectory.turns] == ["hm", "", ""]
    _, made = played(chat, [f"hm {call}", "done"])
    assert made == [], "the first turn is all thought"
    messages = [
        Message("user", "?"),
        Message("assistant", "", (CALL,)),
        Message("tool", "7"),
        Message("assistant", "7"),
    ]
    ids, turns = chat.encode_conversation(messages)
    said = [tokenizer.decode([t for t, turn in zip(ids, turns, strict=True) if turn == k]) for k in (1, 2)]
    assert said == [f"\n</think>\n\n{call}<|im_end|>", "7<|im_end|>"]


@pytest.mark.parametrize("generation", ["", CLOSED, OPENS])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("7", Said("", "7")),
        ("<think>\nhm\n</think>\n\n7", Said("hm", "7")),
        ("<think>hm</think>7", Said("hm", "7")),
        ("", Said()),
    ],
)
def test_demonstrations_say_what_they_say(tokenizer: Any, generation: str, content: str, said: Said) -> None:
    """An SFT example after a prompt that opens a thought goes on with it, or closes it before its first word."""
    chat = chat_with(tokenizer, generation)
    for calls in ((), (CALL,)):
        ids, turn_ids = chat.encode_conversation([Message("user", "?"), Message("assistant", content, calls)])
        found = chat.parse([token for token, turn in zip(ids, turn_ids, strict=True) if turn])
        assert (found.thinking.strip(), found.answer.strip(), found.calls) == (said.thinking, said.answer, calls)
        assert chat.tokenizer.decode(ids).count("<think>") == (generation != "" or "<think>" in content) + (
            generation == CLOSED and "<think>" in content
        )


@pytest.mark.parametrize(
    ("generation", "lead", "runs"),
    [
        ("", "", True),
        ("", "<think>hm</think>", True),
        ("", "<think>hm", False),
        ("", "<think>a</think>b<think>", False),
        (OPENS, "", False),
        (OPENS, "hm", False),
        (OPENS, "hm</think>", True),
        (OPENS, "hm</think>so <think>again ", False),
        (CLOSED, "", True),
    ],
)
def test_a_call_in_a_thought_is_not_run(tokenizer: Any, generation: str, lead: str, runs: bool) -> None:
    chat = chat_with(tokenizer, generation)
    trajectory, made = played(chat, [lead + render_call(CALL), "done"])
    assert made == ([CALL] if runs else [])
    assert len(trajectory.turns) == (2 if runs else 1)
    assert trajectory.stop is StopReason.ANSWER
