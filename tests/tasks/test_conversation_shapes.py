"""The shapes of SFT rows: each is recognised and read, what it declares is kept, what it lacks is said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.records import Message, ToolCall
from sod.tasks.base import Conversation
from sod.tasks.formats.base import BadRowError, Fields
from sod.tasks.formats.conversation_shapes import CONVERSATION_SHAPES

USER = {"role": "user", "content": "How many?"}
REPLY = {"role": "assistant", "content": "Two."}
ASKED, SAID = Message("user", "How many?"), Message("assistant", "Two.")
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
FLAT = {"name": "weather", "description": "Tells it.", "parameters": PARAMETERS}
WEATHER = {"type": "function", "function": FLAT}


def read(row: dict[str, Any]) -> tuple[str, Conversation, list[str]]:
    """The shape that reads a row, what it makes of it, and the fields that it leaves."""
    shape = next(shape for shape in CONVERSATION_SHAPES if shape.matches(row))
    fields = Fields(row)
    return shape.name, shape.read(fields, "r"), fields.unused()


def plain(*messages: Message, tools: tuple[Any, ...] = ()) -> Conversation:
    return Conversation("r", messages, tools)


SYSTEM = Message("system", "Be brief.")
AGAIN = (Message("user", "And now?"), Message("assistant", "Three."))
READ: dict[str, tuple[dict[str, Any], str, Conversation]] = {
    "OpenAI": ({"messages": [USER, REPLY], "tools": [WEATHER]}, "messages", plain(ASKED, SAID, tools=(WEATHER,))),
    "OpenAI's functions": (
        {"messages": [USER, REPLY], "functions": [FLAT]},
        "messages",
        plain(ASKED, SAID, tools=(WEATHER,)),
    ),
    "Anthropic": (
        {
            "system": [{"type": "text", "text": "Be brief."}],
            "messages": [USER, REPLY],
            "tools": [{"name": "weather", "description": "Tells it.", "input_schema": PARAMETERS}],
        },
        "messages",
        plain(SYSTEM, ASKED, SAID, tools=(WEATHER,)),
    ),
    "messages as JSON text": ({"messages": json.dumps([USER, REPLY])}, "messages", plain(ASKED, SAID)),
    "several user turns": (
        {
            "messages": [
                USER,
                REPLY,
                {"role": "user", "content": "And now?"},
                {"role": "assistant", "content": "Three."},
            ]
        },
        "messages",
        plain(ASKED, SAID, *AGAIN),
    ),
    "ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "Two."}],
            "system": "Be brief.",
            "tools": json.dumps([FLAT]),
        },
        "sharegpt",
        plain(SYSTEM, ASKED, SAID, tools=(WEATHER,)),
    ),
    "a trajectory with a reward": (
        {"traj": [USER, REPLY], "reward": 1, "task_id": 3},
        "messages",
        Conversation("r", (ASKED, SAID), (), 1.0),
    ),
    "TRL's texts": ({"prompt": "How many?", "completion": "Two."}, "prompt and answer", plain(ASKED, SAID)),
    "TRL's messages": (
        {"prompt": [{"role": "system", "content": "Be brief."}, USER], "completion": [REPLY], "tools": [WEATHER]},
        "prompt and answer",
        plain(SYSTEM, ASKED, SAID, tools=(WEATHER,)),
    ),
    "messages and a text": ({"input": [USER], "output": "Two."}, "prompt and answer", plain(ASKED, SAID)),
    "query and response": (
        {"query": "And now?", "response": "Three.", "history": [["How many?", "Two."]], "system": "Be brief."},
        "prompt and answer",
        plain(SYSTEM, ASKED, SAID, *AGAIN),
    ),
    "question and answer": (
        {"question": "How many?", "answer": 2},
        "prompt and answer",
        plain(ASKED, Message("assistant", "2")),
    ),
    "alpaca": (
        {"instruction": "Count.", "input": "a b", "output": "Two.", "history": json.dumps([["How many?", "Two."]])},
        "alpaca",
        plain(ASKED, SAID, Message("user", "Count.\na b"), SAID),
    ),
    "alpaca without input": ({"instruction": "How many?", "input": "", "output": "Two."}, "alpaca", plain(ASKED, SAID)),
    "dolly": (
        {"instruction": "How many?", "context": "a b", "response": "Two."},
        "alpaca",
        plain(Message("user", "How many?\na b"), SAID),
    ),
    "texts by turns": ({"conversations": ["How many?", "Two."]}, "messages", plain(ASKED, SAID)),
    "pairs": ({"conversation": [{"input": "How many?", "output": "Two."}]}, "messages", plain(ASKED, SAID)),
    "a logged request": (
        {"messages": [USER], "response": {"id": "x", "choices": [{"message": REPLY}]}},
        "messages",
        plain(ASKED, SAID),
    ),
    "wanted": ({"prompt": "How many?", "completion": "Two.", "label": True}, "prompt and answer", plain(ASKED, SAID)),
    "history as Python writes it": (
        {"query": "And now?", "response": "Three.", "history": "[['How many?', 'Two.']]"},
        "prompt and answer",
        plain(ASKED, SAID, *AGAIN),
    ),
    "xLAM": (
        {
            "query": "How many?",
            "tools": json.dumps([{**FLAT, "parameters": {"city": {"type": "str"}, "days": {"type": "int, optional"}}}]),
            "answers": json.dumps([{"name": "weather", "arguments": {"city": "Oslo"}}]),
        },
        "xlam",
        plain(
            ASKED,
            Message("assistant", "", (ToolCall("weather", {"city": "Oslo"}),)),
            tools=(
                {
                    "type": "function",
                    "function": {
                        **FLAT,
                        "parameters": {
                            "type": "object",
                            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                            "required": ["city"],
                        },
                    },
                },
            ),
        ),
    ),
}


@pytest.mark.parametrize(("row", "shape", "conversation"), READ.values(), ids=list(READ))
def test_a_shape_is_read_whole(row: dict[str, Any], shape: str, conversation: Conversation) -> None:
    name, made, unused = read(row)
    assert (name, made) == (shape, conversation)
    assert unused == (["task_id"] if "task_id" in row else [])


LISTED = f"with access to the following functions. Use them if required -\n{json.dumps(FLAT)}\n"
GLAIVE = {
    "system": f"SYSTEM: You are helpful {LISTED}",
    "chat": """USER: Rain?


ASSISTANT: Let me see. <functioncall> {"name": "weather", "arguments": '{"city": "L'Aquila"}'} <|endoftext|>


FUNCTION RESPONSE: {"rain": true}


ASSISTANT: Yes. <|endoftext|>


USER: Thanks.""",
}


def test_glaive() -> None:
    name, conversation, unused = read(GLAIVE)
    call = ToolCall("weather", {"city": "L'Aquila"})
    assert (name, unused) == ("glaive", [])
    assert conversation == plain(
        Message("system", "You are helpful."),
        Message("user", "Rain?"),
        Message("assistant", "Let me see.", (call,)),
        Message("tool", '{"rain": true}', name="weather"),
        Message("assistant", "Yes."),
        Message("user", "Thanks."),
        tools=(WEATHER,),
    )
    without = {"system": "SYSTEM: Be brief.", "chat": "USER: How many?\n\nASSISTANT: Two. <|endoftext|>"}
    assert read(without)[1] == plain(SYSTEM, ASKED, SAID)


def test_glaive_as_sharegpt() -> None:
    row = {
        "conversations": [
            {"from": "system", "value": f"You are helpful {LISTED}"},
            {"from": "human", "value": "Rain?"},
            {"from": "function-call", "value": """{"name": "weather", "arguments": '{"city": "L'Aquila"}'}"""},
            {"from": "function-response", "value": "{}"},
            {"from": "gpt", "value": "Yes."},
        ]
    }
    _, conversation, _ = read(row)
    assert conversation.tools == (WEATHER,)
    assert conversation.messages[0] == Message("system", "You are helpful.")
    assert conversation.messages[2:4] == (
        Message("assistant", "", (ToolCall("weather", {"city": "L'Aquila"}),)),
        Message("tool", "{}", name="weather"),
    )


def toolace(said: str, *more: dict[str, str]) -> dict[str, Any]:
    system = (
        f"You compose functions: {json.dumps([{**FLAT, 'name': 'Get Weather'}])} Put it in the format of [func1(x=y)]"
    )
    asked = [{"from": "user", "value": "Rain?"}, {"from": "assistant", "value": said}]
    return {"system": system, "conversations": [*asked, *more]}


def test_toolace() -> None:
    said = '[Get Weather(city="L\'Aquila (AQ)", days=[1, -2], snow=true), Get Weather(where={"a": None})]'
    name, conversation, unused = read(
        toolace(said, {"from": "tool", "value": "[]"}, {"from": "assistant", "value": "No."})
    )
    assert (name, unused) == ("toolace", [])
    first = ToolCall("Get Weather", {"city": "L'Aquila (AQ)", "days": [1, -2], "snow": True})
    assert conversation.messages == (
        Message("user", "Rain?"),
        Message("assistant", "", (first, ToolCall("Get Weather", {"where": {"a": None}}))),
        Message("tool", "[]", name="Get Weather"),
        Message("assistant", "No."),
    )
    assert [tool["function"]["name"] for tool in conversation.tools] == ["Get Weather"]


@pytest.mark.parametrize(
    "said", ["Which city?", "[Get Weather(1)]", "[Get Weather(city=open('x'))]", "[a(b=1) c]", "[a(b=(])]", "[(a=1)]"]
)
def test_a_text_of_toolace_that_is_no_call(said: str) -> None:
    assert read(toolace(said))[1].messages[1] == Message("assistant", said)


HERMES = '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize("shown", [json.dumps([WEATHER]), f"\n{json.dumps(WEATHER)}\n", repr([WEATHER])])
def test_tools_in_the_system_text(shown: str) -> None:
    """They are shown by the template, so the text does not show them a second time."""
    row = {
        "conversations": [
            {"from": "system", "value": f"Call these: <tools>{shown}</tools> Be brief."},
            {"from": "human", "value": "Rain?"},
            {"from": "gpt", "value": HERMES},
        ]
    }
    _, conversation, _ = read(row)
    assert conversation.tools == (WEATHER,)
    assert conversation.messages[0] == Message("system", "Call these: Be brief.")
    assert read({**row, "tools": json.dumps([WEATHER, {"name": "other"}])})[1].messages[0] == conversation.messages[0]
    assert "<tools>" in read({**row, "tools": [{"name": "other"}]})[1].messages[0].content


def test_the_part_of_qwens_template_that_shows_tools() -> None:
    shown = f"# Tools\n\nYou may call.\n\n<tools>\n{json.dumps(WEATHER)}\n</tools>\n\nReturn:\n{HERMES}"
    for system, left in ((f"Be brief.\n\n{shown}", (SYSTEM,)), (shown, ())):
        _, conversation, _ = read({"messages": [{"role": "system", "content": system}, USER, REPLY]})
        assert conversation == plain(*left, ASKED, SAID, tools=(WEATHER,))


def test_a_system_text_beside_a_system_message() -> None:
    messages = [{"role": "system", "content": "Be brief."}, USER, REPLY]
    assert read({"messages": messages, "system": "Be brief."})[2] == []
    assert read({"messages": messages, "system": "Be long."})[1:] == (plain(SYSTEM, ASKED, SAID), ["system"])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "TRL's preferences": ({"prompt": "a", "chosen": "b", "rejected": "c"}, "a preference row (chosen, rejected)"),
    "ms-swift's preferences": (
        {"response": "b", "query": "a", "rejected_response": "x"},
        "keep 'response' as messages or completion and leave 'rejected_response' out",
    ),
    "KTO": ({"prompt": "a", "completion": "b", "label": False}, "label is false"),
    "no assistant": ({"messages": [USER]}, "no assistant message"),
    "says nothing": ({"messages": [USER, {**REPLY, "content": ""}]}, "its assistant says nothing"),
    "nothing counts": ({"messages": [USER, {**REPLY, "weight": 0}]}, "every assistant message has weight 0"),
    "history": ({"query": "a", "response": "b", "history": ["x"]}, "history is no list of pairs"),
    "an answer that is an object": ({"prompt": "a", "response": [1]}, "response is neither a text nor messages"),
    "alpaca's input": ({"instruction": "a", "input": [1], "output": "b"}, "instruction or input is no text"),
    "glaive's call": ({"chat": "USER: a\n\nASSISTANT: <functioncall> {x}"}, "tool_calls is a string but not JSON"),
    "glaive's functions": (
        {"system": f"SYSTEM: {LISTED[:80]}", "chat": "USER: a\n\nASSISTANT: b"},
        "a function that the system text lists is no JSON",
    ),
    "KTO's messages": ({"messages": [USER, REPLY], "label": False}, "label is false"),
    "LLaMA-Factory's preferences": ({"chosen_messages": [USER, REPLY], "rejected_messages": [USER]}, "chosen_messages"),
    "xLAM without calls": ({"query": "a", "tools": "[]", "answers": "[]"}, "no answers"),
}


@pytest.mark.parametrize(("row", "reason"), REFUSED.values(), ids=list(REFUSED))
def test_a_row_that_cannot_be_used_says_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRowError) as error:
        read(row)
    assert reason in str(error.value)


WORDS = (
    *("messages", "conversations", "traj", "prompt", "completion", "query", "response", "answers", "tools", "system"),
    *("instruction", "input", "output", "history", "chat", "chosen", "rejected", "images", "functions", "reward"),
    *("task_id", "stop", "turns", "fault", "said", "calls", "results", "label"),
)
KEYS = (
    *("role", "content", "from", "value", "type", "text", "tool_calls", "function_call", "name", "arguments", "id"),
    *(
        "tool_call_id",
        "reasoning_content",
        "thinking",
        "weight",
        "loss",
        "mask",
        "summary",
        "output",
        "input",
        "function",
    ),
    *("human", "assistant", "user", "said", "thinking", "answer", "calls", "results", "parameters", "input_schema"),
)
TEXTS = st.sampled_from(
    (
        *("user", "assistant", "system", "tool", "function_call", "observation", "human", "gpt", "reasoning", "text"),
        *("tool_use", "tool_result", "image", "", "{}", "[]", "null", "x", "\ud800", "length", HERMES, "<tool_call>{"),
        *(
            "<tool_response>x</tool_response>",
            "<tools>[]</tools>",
            '{"name": "f"}',
            "[f(a=1)]",
            "USER: a\n\nASSISTANT: b",
        ),
        *("SYSTEM: {}", "Put it in the format of [func1(", "[{'a': 1}]", '[{"role": "user"}]', "<think>a</think>{}"),
    )
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | TEXTS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)
ROWS = st.dictionaries(st.sampled_from(WORDS), VALUES, min_size=1, max_size=6)
ITEMS = st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=5), max_size=5)


def reads_or_refuses(row: dict[str, Any]) -> None:
    """Every shape makes a conversation of a row or says why not: one that does not recognise it may be asked too."""
    for shape in CONVERSATION_SHAPES:
        shape.matches(row)
        try:
            made = shape.read(Fields(row), "r")
        except BadRowError:
            continue
        assert any(message.role == "assistant" and message.weight > 0 for message in made.messages)
        for message in made.messages:
            message.content.encode()


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_no_row_ends_in_a_traceback(row: dict[str, Any]) -> None:
    reads_or_refuses(row)


@settings(max_examples=40, deadline=None)
@given(ITEMS)
def test_no_messages_end_in_a_traceback(items: list[Any]) -> None:
    reads_or_refuses({"messages": items})


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(ROWS, ITEMS)
def test_many_rows_and_messages(row: dict[str, Any], items: list[Any]) -> None:
    reads_or_refuses(row)
    reads_or_refuses({**row, "messages": items})
