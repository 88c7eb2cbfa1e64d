"""What rows call messages: every way of writing a turn, a call, a result, a thought and a weight, as messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sod.records import Message, ToolCall
from sod.tasks.formats.base import BadRowError, Fields
from sod.tasks.formats.messages import read_messages

USER = {"role": "user", "content": "17*23?"}
ARGUMENTS = {"code": "print(17*23)"}
TEXT = json.dumps(ARGUMENTS)
CALL = ToolCall("python", ARGUMENTS)
BODY = json.dumps({"name": "python", "arguments": ARGUMENTS})
ASKED = Message("user", "17*23?")
ANSWER = Message("tool", "391", name="python")
DONE = Message("assistant", "391")


def read(*items: Any) -> tuple[Message, ...]:
    return read_messages(list(items), "messages")


def called(ident: str | None = None, said: str = "", thought: str | None = None) -> tuple[Message, ...]:
    """The exchange of every case below, as this case writes its call."""
    return ASKED, Message("assistant", said, (ToolCall("python", ARGUMENTS, ident),), reasoning=thought), ANSWER, DONE


CALLS: dict[str, tuple[list[Any], tuple[Message, ...]]] = {
    "the old function_call": (
        [
            USER,
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "python", "arguments": TEXT},
            },
            {"role": "function", "name": "python", "content": "391"},
            {"role": "assistant", "content": "391"},
        ],
        called(),
    ),
    "ids": (
        [
            USER,
            {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "python", "arguments": ARGUMENTS}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "391"},
            {"role": "assistant", "content": "391"},
        ],
        called("c1"),
    ),
    "ShareGPT": (
        [
            {"from": "human", "value": "17*23?"},
            {"from": "function_call", "value": BODY},
            {"from": "observation", "value": "391"},
            {"from": "gpt", "value": "391"},
        ],
        called(),
    ),
    "ms-swift": (
        [
            USER,
            {"role": "tool_call", "content": BODY},
            {"role": "tool_response", "content": "391"},
            {"role": "assistant", "content": "391"},
        ],
        called(),
    ),
    "a call as Python writes it": (
        [
            USER,
            {"role": "tool_call", "content": repr({"name": "python", "arguments": TEXT})},
            {"role": "tool_response", "tool_call_ids": ["x"], "content": "391"},
            {"role": "assistant", "content": "391"},
        ],
        called(),
    ),
    "a text before a call of its own": (
        [
            USER,
            {"role": "assistant", "content": "I compute."},
            {"role": "tool_call", "content": BODY},
            {"role": "tool", "content": "391"},
            {"role": "assistant", "content": "391"},
        ],
        called(said="I compute."),
    ),
    "a thought before a call of its own": (
        [
            {"from": "user", "value": "17*23?"},
            {"from": "function_call", "value": f"<think>\nHm.\n</think>\n\n{BODY}"},
            {"from": "observation", "value": "391"},
            {"from": "assistant", "value": "391"},
        ],
        called(thought="Hm."),
    ),
    "Hermes": (
        [
            {"from": "human", "value": "17*23?"},
            {"from": "gpt", "value": f"I compute.\n<tool_call>\n{BODY}\n</tool_call>"},
            {"from": "tool", "value": "<tool_response>\n391\n</tool_response>"},
            {"from": "gpt", "value": "391"},
        ],
        called(said="I compute."),
    ),
    "Hermes after a thought": (
        [
            USER,
            {"role": "model", "content": f"<think>\nHm.\n</think>\n\n<tool_call>\n{BODY}\n</tool_call>\n"},
            {"role": "ipython", "content": "391"},
            {"role": "bot", "content": "391"},
        ],
        called(thought="Hm."),
    ),
    "Anthropic": (
        [
            {"role": "user", "content": [{"type": "text", "text": "17*23?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                    {"type": "text", "text": "I compute."},
                    {"type": "tool_use", "id": "t1", "name": "python", "input": ARGUMENTS},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "391"}]}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "39"}, {"type": "text", "text": "1"}]},
        ],
        called("t1", "I compute.", "Hm."),
    ),
    "Responses": (
        [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "17*23?"}]},
            {"type": "reasoning", "id": "r1", "summary": [{"type": "summary_text", "text": "Hm."}]},
            {
                "type": "function_call",
                "id": "f1",
                "call_id": "c1",
                "name": "python",
                "arguments": TEXT,
            },
            {"type": "function_call_output", "call_id": "c1", "output": "391"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "391"}]},
        ],
        called("c1", thought="Hm."),
    ),
    "LLaMA-Factory's blocks": (
        [
            {"role": "user", "content": [{"type": "text", "value": "17*23?"}]},
            {
                "role": "assistant",
                "content": [{"type": "reasoning", "value": "Hm."}, {"type": "tool_call", "value": BODY}],
            },
            {"role": "tool", "content": [{"type": "text", "value": "391"}]},
            {"role": "assistant", "content": [{"type": "text", "value": "391"}]},
        ],
        called(thought="Hm."),
    ),
}


@pytest.mark.parametrize(("items", "messages"), CALLS.values(), ids=list(CALLS))
def test_a_call_and_its_answer(items: list[Any], messages: tuple[Message, ...]) -> None:
    assert read(*items) == messages


@pytest.mark.parametrize("arguments", ["", None, "null", {}, "{}", [], " "])
def test_a_call_without_arguments(arguments: Any) -> None:
    call = {"function": {"name": "now", "arguments": arguments}}
    assert read(USER, {"role": "assistant", "tool_calls": [call]})[1].tool_calls == (ToolCall("now", {}),)
    assert read(USER, {"role": "assistant", "tool_calls": [{"name": "now"}]})[1].tool_calls == (ToolCall("now", {}),)


@pytest.mark.parametrize(
    "arguments", [{"a": 1}, '{"a": 1}', "{'a': 1}", json.dumps('{"a": 1}')], ids=["object", "JSON", "Python", "twice"]
)
@pytest.mark.parametrize("key", ["arguments", "parameters", "input"])
def test_arguments_as_they_are_written(arguments: Any, key: str) -> None:
    asked = {"role": "assistant", "tool_calls": json.dumps([{"name": "f", key: arguments}])}
    assert read(USER, asked)[1].tool_calls == (ToolCall("f", {"a": 1}),)


def test_calls_of_one_turn_and_their_answers_by_id() -> None:
    """Items for each call belong to one turn; an answer finds its call by the id, else in order."""
    calls = [{"type": "function_call", "call_id": f"c{n}", "name": f"f{n}", "arguments": "{}"} for n in (1, 2)]
    answers = [{"type": "function_call_output", "call_id": f"c{n}", "output": {"n": n}} for n in (2, 1)]
    _, turn, second, first = read(USER, *calls, *answers)
    assert [call.name for call in turn.tool_calls] == ["f1", "f2"]
    assert (second.name, second.content, first.name) == ("f2", '{"n": 2}', "f1")
    sharegpt = [{"from": "function_call", "value": json.dumps([{"name": "f1"}, {"name": "f2"}])}]
    _, _, first, second = read(USER, *sharegpt, *[{"from": "observation", "value": "x"}] * 2)
    assert (first.name, second.name) == ("f1", "f2")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (391, "391"),
        ({"a": [1, "é"]}, '{"a": [1, "é"]}'),
        ([1, 2], "[1, 2]"),
        ([{"type": "file", "name": "x"}], '[{"type": "file", "name": "x"}]'),
        ([{"type": "text", "text": "39"}, {"type": "text", "text": "1"}], "391"),
        (None, ""),
        ("<tool_response>a</tool_response> and more", "<tool_response>a</tool_response> and more"),
    ],
)
def test_what_a_tool_gave_is_text(content: Any, text: str) -> None:
    messages = read(USER, {"role": "tool_call", "content": BODY}, {"role": "tool", "content": content})
    assert messages[2].content == text


def test_several_results_in_one_text() -> None:
    call = f"<tool_call>\n{BODY}\n</tool_call>"
    results = "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>"
    messages = read(USER, {"role": "assistant", "content": f"{call}\n{call}"}, {"role": "tool", "content": results})
    assert messages[1].tool_calls == (CALL, CALL)
    assert [message.content for message in messages[2:]] == ["1", "2"]


def test_a_call_in_the_text_that_cannot_be_read_stays_text() -> None:
    """It was a call all the same, so a tool's answer may follow."""
    content = '<tool_call>\n{"name": "python", "arguments": \n</tool_call>'
    messages = read(USER, {"role": "assistant", "content": content}, {"role": "tool", "content": "Error"})
    assert messages[1:] == (Message("assistant", content), Message("tool", "Error"))


@pytest.mark.parametrize("content", ["<think>\nHm.\n</think>\n\n391", "about <tool_call> marks", "</tool_call>"])
def test_a_text_without_a_call_is_left_to_the_dialect(content: str) -> None:
    assert read(USER, {"role": "assistant", "content": content})[1].content == content


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_beside_the_content(key: str) -> None:
    assert read(USER, {"role": "assistant", key: "Hm.", "content": "391"})[1] == Message(
        "assistant", "391", reasoning="Hm."
    )
    assert read(USER, {"role": "assistant", key: None, "content": "391"})[1].reasoning is None
    assert read(USER, {"role": "assistant", key: "Hm."})[1].content == ""


ROLES = {
    "system": ["system", "developer", "System"],
    "user": ["user", "human"],
    "assistant": ["assistant", "gpt", "model", "bot", "ai"],
}


@pytest.mark.parametrize(("role", "name"), [(role, name) for role, names in ROLES.items() for name in names])
def test_names_of_roles(role: str, name: str) -> None:
    assert read({"role": name, "content": "x"})[0].role == role
    assert read({"from": name, "value": "x"})[0].role == role


@pytest.mark.parametrize("name", ["tool", "function", "ipython", "observation", "environment", "tool_response"])
def test_names_of_tools(name: str) -> None:
    assert read(USER, {"role": "tool_call", "content": BODY}, {"role": name, "content": "391"})[2] == ANSWER


def test_an_environment_that_answers_a_text_is_a_user() -> None:
    acted = {"role": "assistant", "content": "Action: look"}
    assert read(USER, acted, {"role": "environment", "content": "A door."})[2] == Message("user", "A door.")


def test_pairs_of_ms_swift() -> None:
    pairs = [{"human": "a", "assistant": "b"}, {"tool": "c", "assistant": "d"}]
    with pytest.raises(BadRowError, match="no preceding call"):
        read(*pairs)
    assert [message.role for message in read(pairs[0], pairs[0])] == ["user", "assistant", "user", "assistant"]


def test_messages_as_json_and_as_python_text() -> None:
    items = [USER, {"role": "assistant", "content": None, "tool_calls": [{"name": "python", "arguments": ARGUMENTS}]}]
    assert read_messages(json.dumps(items), "messages", None) == read(*items)
    assert read_messages(repr(items), "messages", None) == read(*items)


WEIGHTS = {
    "weight": [(0, 0.0), (1, 1.0), (0.25, 0.25)],
    "loss_weight": [(0.0, 0.0), (2, 2.0)],
    "loss_scale": [(0.5, 0.5)],
    "loss": [(False, 0.0), (True, 1.0)],
    "loss_mask": [(0, 0.0), (1, 1.0)],
    "train": [(False, 0.0), (True, 1.0)],
    "trainable": [(False, 0.0)],
    "mask": [(1, 1.0), (0, 0.0), (True, 0.0), (False, 1.0)],
}


@pytest.mark.parametrize(
    ("key", "value", "weight"), [(key, *case) for key, cases in WEIGHTS.items() for case in cases], ids=str
)
def test_weights(key: str, value: Any, weight: float) -> None:
    """A number under `mask` is a loss mask; true means that the message is masked out."""
    assert read(USER, {"role": "assistant", "content": "x", key: value})[1].weight == weight
    assert read({**USER, key: None}, {"role": "assistant", "content": "x", key: None})[1].weight == 1.0


def test_weights_of_parts_of_a_turn() -> None:
    part = {"role": "tool_call", "content": BODY, "loss": False}
    assert read(USER, {"role": "assistant", "content": "x"}, part)[1].weight == 0.0
    with pytest.raises(BadRowError, match="different weights"):
        read(USER, {"role": "assistant", "content": "x", "loss": True}, part)


ACTED = {"role": "tool_call", "content": BODY}
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
BAD: dict[str, tuple[list[Any], str]] = {
    "no object": ([7], "unknown role None"),
    "a role that is no text": ([{"role": ["user"], "content": "x"}], "unknown role"),
    "an unknown role": ([{"role": "usr", "content": "x"}], "unknown role 'usr'"),
    "an image": ([{"role": "user", "content": [IMAGE]}], "user message with 'image_url': only text can be read"),
    "audio": ([{"role": "user", "content": [{"type": "input_audio"}]}], "'input_audio': only text can be read"),
    "a tool's image": (
        [USER, {"role": "tool_call", "content": BODY}, {"role": "tool", "content": [IMAGE]}],
        "image_url",
    ),
    "an unknown part": ([{"role": "user", "content": [{"type": "poll"}]}], "a part of an unknown type 'poll'"),
    "no content": ([{"role": "user"}], "user message without text content"),
    "nothing said": ([USER, {"role": "assistant"}], "assistant message without text content"),
    "a call by the user": ([{**USER, "tool_calls": [{"name": "f"}]}], "user message with tool_calls"),
    "a call that is no JSON": ([USER, {"role": "function_call", "content": "f(x)"}], "a call that is not JSON"),
    "a call without a name": ([USER, {"role": "function_call", "content": "{}"}], "a tool call has no name"),
    "tool_calls that are no JSON": ([{"role": "assistant", "tool_calls": "f(x)"}], "tool_calls is a string but not"),
    "arguments": (
        [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "x"}]}],
        "the arguments of a call to 'f' are no JSON object",
    ),
    "an answer to nothing": ([USER, {"role": "tool", "content": "x"}], "tool message with no preceding call"),
    "a lone surrogate": ([{"role": "user", "content": "\ud800"}], "user message is not valid Unicode"),
    "a lone surrogate in a thought": (
        [{"role": "ai", "reasoning": "\ud800"}],
        "assistant message is not valid Unicode",
    ),
    "a negative weight": ([{"role": "ai", "content": "x", "weight": -1}], "weight -1 is no weight of a message"),
    "a weight in words": ([{"role": "ai", "content": "x", "train": "yes"}], "train 'yes' is no weight of a message"),
    "no number": ([{"role": "ai", "content": "x", "weight": float("nan")}], "weight nan is no weight"),
    "two weights": ([{"role": "ai", "content": "x", "weight": 1, "train": False}], "weight 1, train 0"),
    "a user's weight": ([{**USER, "weight": 1}], "user message with weight 1: only assistant messages"),
    "parts of a message": ([{"role": "ai", "content": "x", "train_detail": [{"train": True}]}], "only whole messages"),
}


@pytest.mark.parametrize(("items", "reason"), BAD.values(), ids=list(BAD))
def test_what_cannot_be_read_is_named(items: list[Any], reason: str) -> None:
    with pytest.raises(BadRowError) as error:
        read(*items)
    assert reason in str(error.value)


def test_keys_of_messages_that_nobody_reads() -> None:
    fields = Fields({"messages": [{**USER, "mood": "good", "id": 3, "refusal": None, "annotations": []}]})
    read_messages(fields.use("messages"), "messages", fields)
    assert fields.unused() == ["messages[].mood"]
