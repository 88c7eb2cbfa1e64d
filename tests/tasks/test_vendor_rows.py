"""Rows as the services and agents of others write them, each read whole or refused with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sod.records import Message, SodError, ToolCall
from sod.tasks.base import Conversation
from sod.tasks.files import load_conversations
from sod.tasks.formats.base import BadRowError, Fields
from sod.tasks.formats.conversation_shapes import CONVERSATION_SHAPES

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "Tells it.", "parameters": PARAMETERS}
DECLARED = {"type": "function", "function": WEATHER}
SYSTEM, ASKED, SAID = Message("system", "Be brief."), Message("user", "Where?"), Message("assistant", "Here.")


def call(ident: str | None = None) -> ToolCall:
    return ToolCall("weather", {"city": "Bern"}, ident)


def called(ident: str | None = None, **more: Any) -> tuple[Message, ...]:
    acted = Message("assistant", "", (call(ident),), **more)
    return ASKED, acted, Message("tool", "3", name="weather"), SAID


def read(row: dict[str, Any]) -> tuple[Conversation, list[str]]:
    shape = next(shape for shape in CONVERSATION_SHAPES if shape.matches(row))
    fields = Fields(row)
    return shape.read(fields, "r"), fields.unused()


USER, REPLY = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}
ARGUMENTS = {"name": "weather", "arguments": {"city": "Bern"}}
READ: dict[str, tuple[dict[str, Any], tuple[Message, ...], bool]] = {
    "Bedrock": (
        {
            "system": [{"text": "Be brief."}],
            "messages": [
                {"role": "user", "content": [{"text": "Where?"}]},
                {
                    "role": "assistant",
                    "content": [
                        {"reasoningContent": {"reasoningText": {"text": "Hm."}}},
                        {"toolUse": {"toolUseId": "t1", "name": "weather", "input": {"city": "Bern"}}},
                    ],
                },
                {"role": "user", "content": [{"toolResult": {"toolUseId": "t1", "content": [{"text": "3"}]}}]},
                {"role": "assistant", "content": [{"text": "Here."}]},
            ],
            "toolConfig": {
                "tools": [
                    {
                        "toolSpec": {
                            "name": "weather",
                            "description": "Tells it.",
                            "inputSchema": {"json": PARAMETERS},
                        }
                    }
                ]
            },
        },
        (SYSTEM, *called("t1", reasoning="Hm.")),
        True,
    ),
    "Gemini": (
        {
            "systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "Where?"}]},
                {"role": "model", "parts": [{"functionCall": {"name": "weather", "args": {"city": "Bern"}}}]},
                {"role": "function", "parts": [{"functionResponse": {"name": "weather", "response": 3}}]},
                {"role": "model", "parts": [{"text": "Here."}]},
            ],
            "tools": [{"functionDeclarations": [WEATHER]}],
        },
        (SYSTEM, *called()),
        True,
    ),
    "Cohere": (
        {"messages": [{"role": "User", "content": "Where?"}, {"role": "Chatbot", "content": "Here."}]},
        (ASKED, SAID),
        False,
    ),
    "a call inside its answer": (
        {
            "tools": [WEATHER],
            "conversations": [
                USER,
                {"role": "assistant", "content": "Let me see."},
                {"role": "tool", "name": "weather", "parameters": {"city": "Bern"}, "observation": "3"},
                REPLY,
            ],
        },
        (ASKED, Message("assistant", "Let me see.", (call(),)), Message("tool", "3", name="weather"), SAID),
        True,
    ),
    "tools of the system message": (
        {
            "messages": [
                {"role": "system", "content": "Be brief.", "tools": [WEATHER]},
                USER,
                {"role": "assistant", "content": None, "function_call": ARGUMENTS},
                {"role": "function", "name": "weather", "content": "3"},
                REPLY,
            ]
        },
        (SYSTEM, *called()),
        True,
    ),
    "tools as available_tools": (
        {"messages": [USER, REPLY], "available_tools": json.dumps([DECLARED])},
        (ASKED, SAID),
        True,
    ),
    "a history that is all that was said": ({"history": [USER, REPLY]}, (ASKED, SAID), False),
    "steps beside their history": (
        {"history": [USER, REPLY], "trajectory": [{"action": "ls", "observation": "a"}]},
        (ASKED, SAID),
        False,
    ),
    "an answer that was generated": ({"problem": "Where?", "generation": "Here."}, (ASKED, SAID), False),
}


@pytest.mark.parametrize(("row", "messages", "tools"), READ.values(), ids=list(READ))
def test_a_row_of_others_is_read_whole(row: dict[str, Any], messages: tuple[Message, ...], tools: bool) -> None:
    conversation, unused = read(row)
    assert conversation.messages == messages
    assert conversation.tools == ((DECLARED,) if tools else ())
    assert unused == (["trajectory"] if "trajectory" in row else [])


def test_history_is_what_came_before_where_a_question_follows() -> None:
    conversation, _ = read({"query": "And now?", "response": "There.", "history": [USER, REPLY]})
    assert [message.content for message in conversation.messages] == ["Where?", "Here.", "And now?", "There."]


def test_calls_of_one_turn_in_a_message_each() -> None:
    acted = [{"role": "assistant", "content": None, "tool_calls": [{"id": i, "function": ARGUMENTS}]} for i in "ab"]
    answers = [{"role": "tool", "tool_call_id": i, "content": i} for i in "ba"]
    conversation, _ = read({"messages": [USER, *acted, *answers, REPLY]})
    assert conversation.messages[1] == Message("assistant", "", (call("a"), call("b")))
    assert [message.content for message in conversation.messages[2:]] == ["b", "a", "Here."]


def test_pairs_with_more_in_them() -> None:
    conversation, unused = read({"conversation": [{"input": "Where?", "output": "Here.", "sep": "\n"}]})
    assert conversation.messages == (ASKED, SAID)
    assert unused == ["conversation[].sep"]


@pytest.mark.parametrize("role", ["function", "tool"])
def test_what_answers_an_action_in_a_text_is_a_user(role: str) -> None:
    acted = {"role": "assistant", "content": "Thought: hm\nAction: weather\nAction Input: {}"}
    conversation, _ = read({"messages": [USER, acted, {"role": role, "content": "3"}, REPLY]})
    assert conversation.messages[2] == Message("user", "3")


REFUSED = {
    "tools in words": ({"messages": [USER, REPLY], "tools": ["weather: tells it"]}, "a declared tool is a text"),
    "an answer without a call": (
        {"messages": [USER, REPLY, {"role": "tool", "content": "3"}]},
        "no preceding call: give the assistant's message before it its tool_calls",
    ),
    "a part of an unknown key": (
        {"messages": [USER, {"role": "assistant", "content": [{"guardContent": {}}]}]},
        "unknown type 'guardContent'",
    ),
    "OpenAI's preferences": (
        {"input": {"messages": [USER]}, "preferred_output": [REPLY], "non_preferred_output": [REPLY]},
        "keep 'preferred_output'",
    ),
}


@pytest.mark.parametrize(("row", "reason"), REFUSED.values(), ids=list(REFUSED))
def test_a_row_of_others_that_cannot_be_used(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRowError, match=reason):
        read(row)


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"name": "n", "prompt": "Where?", "program": "Here."}, "data.columns='{prompt: prompt, completion: program}'"),
        ({"said": [USER, REPLY], "name": "n"}, "data.columns='{messages: said}'"),
        ({"input_ids": [1, 2], "labels": [1, 2]}, "tokens of a model: give the texts that they were made of"),
    ],
)
def test_the_hint_for_rows_of_no_known_shape(tmp_path: Path, row: dict[str, Any], hint: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(SodError) as error:
        load_conversations(path.as_posix())
    assert str(error.value).endswith(hint)


def test_columns_as_the_hint_names_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"name": "n", "prompt": "Where?", "program": "Here."}) + "\n")
    loaded = load_conversations(path.as_posix(), columns={"prompt": "prompt", "completion": "program"})
    assert [conversation.messages for conversation in loaded.items] == [(ASKED, SAID)]
    assert loaded.unused == {"name": 1}
