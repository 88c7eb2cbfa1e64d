"""The chain world: values in range, disjoint splits, and expert traces that Python itself confirms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from sod.chat.dialects.hermes import read
from sod.chat.render import Chat
from sod.records import Message, ToolCall, ToolResult
from sod.rewards.math import verify
from sod.tasks import chain
from sod.tasks.chain import Chain, as_conversation, as_task, random_chain, splits
from sod.tasks.privileged import Privilege
from sod.tools.base import Tool
from sod.tools.python import SCHEMA
from support import tool_request

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


@pytest.fixture(scope="module")
def chains() -> list[Chain]:
    rng = np.random.default_rng(0)
    return [random_chain(rng, 2, 5) for _ in range(3000)]


def test_expression_and_steps() -> None:
    example = Chain(47, (("+", 8), ("*", 6), ("-", 29)))
    assert example.expression == "((47+8)*6)-29"
    assert list(example.steps()) == [("47+8", 55), ("55*6", 330), ("330-29", 301)]
    assert example.value == 301


def test_the_hint_tells_the_way_but_not_the_end(chains: list[Chain]) -> None:
    """Operations in the order of the expert's calls; they lead from the start to the answer, which is not told."""
    assert Chain(47, (("+", 8), ("*", 6), ("-", 29))).hint == "+8 *6 -29"
    for one in chains[:500]:
        value = one.start
        for operation, (code, result) in zip(one.hint.split(), one.steps(), strict=True):
            assert code == f"{value}{operation}"
            value = result
        assert value == one.value
        assert str(one.value) not in one.hint.split()


@pytest.mark.parametrize(("privilege", "told"), [("ground_truth", "Answer: 301"), ("hint", "Hint: +8 *6 -29")])
def test_a_privileged_trace_differs_in_its_prompt_alone(privilege: Privilege, told: str) -> None:
    """What is told is that of the task in the prompt, also where the expert misread it."""
    posed, misread = Chain(47, (("+", 8), ("*", 6), ("-", 29))), Chain(47, (("+", 8), ("*", 5), ("-", 29)))
    for worked in (posed, misread):
        plain = as_conversation(worked, 1, SCHEMA, posed)
        privileged = as_conversation(worked, 1, SCHEMA, posed, privilege)
        assert privileged.messages[0] == Message("user", f"((47+8)*6)-29\n\n{told}")
        assert privileged.messages[1:] == plain.messages[1:]
        assert (privileged.id, privileged.tools) == (plain.id, plain.tools)


def test_values_are_what_python_says_and_stay_in_range(chains: list[Chain]) -> None:
    """The whole expression and every step of it, by eval; lengths cover the range asked for."""
    for one in chains:
        assert eval(one.expression) == one.value
        for code, value in one.steps():
            assert eval(code) == value
            assert 0 <= value <= chain.LARGEST
    assert {len(one.operations) for one in chains} == {2, 3, 4, 5}
    assert {operator for one in chains for operator, _ in one.operations} == set("+-*")


@pytest.fixture(scope="module")
def code_limit() -> int:
    """Characters of code per call in the quickstart."""
    limit: int = yaml.safe_load(QUICKSTART.read_text())["tools"]["python"]["max_code_chars"]
    return limit


def test_every_call_of_the_expert_fits_the_quickstarts_limit(chains: list[Chain], code_limit: int) -> None:
    for number, one in enumerate(chains):
        for message in as_conversation(one, number, SCHEMA).messages:
            for call in message.tool_calls:
                assert len(call.arguments["code"]) <= code_limit


def test_no_whole_expression_fits_into_one_call(chains: list[Chain], code_limit: int) -> None:
    """The module's promise: with two operations or more, one call can never do it all."""
    fitting = [one.expression for one in chains if len(f"print({one.expression})") <= code_limit]
    assert fitting == []


def test_splits_are_disjoint_distinct_and_repeatable() -> None:
    sizes = {"sft": 300, "train": 200, "test": 50}
    made = splits(sizes, 1, 3, seed=4)
    assert {name: len(part) for name, part in made.items()} == sizes
    everything = [one.expression for part in made.values() for one in part]
    assert len(set(everything)) == 550
    assert splits(sizes, 1, 3, seed=4) == made
    assert splits(sizes, 1, 3, seed=5) != made


def test_traces_are_what_cpython_prints(chains: list[Chain], python_tool: Tool) -> None:
    """Every call of forty traces run on the real tool prints the next tool message; the end is the value."""
    calls, printed = [], []
    for number, one in enumerate(chains[:40]):
        conversation = as_conversation(one, number, SCHEMA)
        roles = [m.role for m in conversation.messages]
        assert roles == ["user", *["assistant", "tool"] * len(one.operations), "assistant"]
        for asked, answered in zip(conversation.messages, conversation.messages[1:], strict=False):
            for call in asked.tool_calls:
                calls.append(tool_request(conversation.id, call))
                printed.append(answered.content)
        assert verify(conversation.messages[-1].content, as_task(one, number).ground_truth).correct
        assert conversation.messages[0].content == one.expression
        assert conversation.tools == (SCHEMA,)
    results = python_tool.run(calls)
    assert [(r.text, r.error) for r in results if isinstance(r, ToolResult)] == [(text, None) for text in printed]


def test_tasks_carry_what_a_verifier_needs(chains: list[Chain]) -> None:
    for number, one in enumerate(chains[:50]):
        task = as_task(one, number)
        assert task.id == f"chain-{number}"
        assert task.ground_truth == str(eval(task.prompt[0].content))
        assert task.extra["calls"] == len(one.operations)
        assert task.extra["hint"] == one.hint
        assert task.data_source == chain.SOURCE


def test_each_call_depends_on_the_one_before(chains: list[Chain], chat: Chat) -> None:
    """The printed value opens the next call's code, and the rendered call is read back as it was."""
    for number, one in enumerate(chains[:50]):
        messages = as_conversation(one, number, SCHEMA).messages
        for result, following in zip(messages[2::2], messages[3::2], strict=True):
            if following.tool_calls:
                assert following.tool_calls[0].arguments["code"].startswith(f"print({result.content}")
        assert read(chat.assistant_text(messages[1])).calls == messages[1].tool_calls
        assert isinstance(messages[1].tool_calls[0], ToolCall)
        assert json.dumps(dict(messages[1].tool_calls[0].arguments))


def test_an_expression_is_read_back(chains: list[Chain]) -> None:
    for one in chains:
        assert chain.read(one.expression) == one
    for text in ("", "47", "How many eggs?", "47+8=", "(47+8", "47+8)", "047+8", "-4+8", "4/2"):
        assert chain.read(text) is None
