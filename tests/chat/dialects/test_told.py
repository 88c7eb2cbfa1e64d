"""Our template in front of those that know no tools: what they render, and that calls are read back."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sod.chat.dialects.gemma3 import GEMMA3
from sod.records import Said, ToolCall

# Roles must alternate, a system message goes in front of the first user message, contents are trimmed (as Gemma's).
ALTERNATING = """{{ bos_token }}{% set prefix = '' %}{% if messages[0]['role'] == 'system' %}
{%- set prefix = messages[0]['content'] + '\n\n' %}{% set messages = messages[1:] %}{% endif %}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<turn>' + role + '\n' + (prefix if loop.first else '') + message['content'] | trim + '<end>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"""
BLOCKS = """{% for message in messages %}<{{ message['role'] }}>
{%- for block in message['content'] %}{{ block['text'] if block['type'] == 'text' else '' }}{% endfor %}<end>
{%- endfor %}"""
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}} for _ in range(2)]
CALL = {"type": "function", "function": {"name": "f", "arguments": {"code": 'print("</code>")\n'}}}


def rendered(
    template: str, messages: list[dict[str, Any]], tools: list[Any] | None = None, generate: bool = False
) -> str:
    """What transformers renders: the same sandbox, filter and global."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)

    def raise_exception(message: str) -> None:
        raise ValueError(message)

    environment.globals["raise_exception"] = raise_exception
    told = files("sod.chat").joinpath("templates/told.jinja").read_text(encoding="utf-8")
    found = environment.from_string(told + template)
    return found.render(messages=messages, tools=tools, add_generation_prompt=generate, bos_token="<bos>")


def test_a_conversation_with_tools() -> None:
    """Told once, in the first user message; calls are in what the model says, results in the user's turn after it."""
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "so", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": " 3 "},
        {"role": "user", "content": "And?"},
    ]
    text = rendered(ALTERNATING, messages, TOOLS, generate=True)
    assert text.startswith("<bos><turn>user\nBe short.\n\nFunctions that can be called:\n")
    assert text.count("Functions that can be called") == 1
    assert text.count(json.dumps(TOOLS[0]["function"])) == 2
    _, first, called, results, again, last, prompt = text.split("<turn>")
    assert first.endswith("\n\nQ<end>\n")
    call = ToolCall("f", CALL["function"]["arguments"])  # type: ignore[index]
    said = called.removeprefix("model\n").removesuffix("<end>\n")
    assert GEMMA3.read(said, thought_open=False, finished=True) == Said("", "so", (call, call))
    assert results == "user\n```tool_output\n1\n```\n```tool_output\n2\n```<end>\n"
    said = again.removeprefix("model\n").removesuffix("<end>\n")
    assert GEMMA3.read(said, thought_open=False, finished=True) == Said("", "", (call,))
    assert last == "user\n```tool_output\n 3 \n```\n\nAnd?<end>\n"
    assert prompt == "model\n"


def test_results_at_the_end_are_a_turn_of_the_user() -> None:
    messages = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "1"},
    ]
    text = rendered(ALTERNATING, messages, TOOLS, generate=True)
    assert text.endswith("<turn>user\n```tool_output\n1\n```<end>\n<turn>model\n")


@pytest.mark.parametrize("generate", [False, True])
def test_without_tools_nothing_is_added(generate: bool) -> None:
    messages = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "R"},
    ]
    prompt = "<turn>model\n" if generate else ""
    expected = f"<bos><turn>user\nQ<end>\n<turn>model\nA<end>\n<turn>user\nR<end>\n{prompt}"
    assert rendered(ALTERNATING, messages, None, generate) == expected


def test_contents_in_blocks_stay_in_blocks() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Q"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "so"}], "tool_calls": [CALL]},
        {"role": "tool", "content": [{"type": "text", "text": "1"}]},
    ]
    text = rendered(BLOCKS, messages, TOOLS)
    assert text.startswith("<user>Functions that can be called:\n")
    assert "\n\nQ<end><assistant>so\n```tool_code\n" in text
    assert text.endswith("\n```<end><user>```tool_output\n1\n```<end>")


def test_reasoning_is_handed_on() -> None:
    template = "{% for message in messages %}{{ message['reasoning_content'] }}|{{ message['content'] }}{% endfor %}"
    assert rendered(template, [{"role": "assistant", "content": "A", "reasoning_content": "hm"}]) == "hm|A"
