"""Turns as the families' models write them, whole and broken, and templates in the families' manner."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sod.chat.dialects.base import Dialect, Piece
from sod.chat.dialects.deepseek import DEEPSEEK_V3, DEEPSEEK_V31
from sod.chat.dialects.gemma3 import GEMMA3
from sod.chat.dialects.gemma4 import FUNCTION_GEMMA, GEMMA4
from sod.chat.dialects.gpt_oss import GPT_OSS
from sod.chat.dialects.kimi import KIMI_K2
from sod.chat.dialects.known import DIALECTS
from sod.chat.dialects.mistral import MISTRAL_V3, MISTRAL_V11, MISTRAL_V13
from sod.chat.dialects.phi4 import PHI4, PHI4_FUNCTOOLS
from sod.records import MalformedCall, Message, Said, ToolCall

F = ToolCall("f", {"a": 1})
G = ToolCall("g", {})


def deepseek(text: str) -> str:
    """DeepSeek's marks out of shorter ones: `<calls>`, `<call>`, `<sep>`, `</call>`, `</calls>`."""
    words = {
        "<calls>": "tool calls begin",
        "<call>": "tool call begin",
        "<sep>": "tool sep",
        "</call>": "tool call end",
        "</calls>": "tool calls end",
    }
    for short, long in words.items():
        text = text.replace(short, f"<\uff5c{long.replace(' ', chr(0x2581))}\uff5c>")
    return text


def kimi(text: str) -> str:
    words = {"<calls>": "s_section_begin", "<call>": "_begin", "<sep>": "_argument_begin", "</call>": "_end"}
    for short, long in (words | {"</calls>": "s_section_end"}).items():
        text = text.replace(short, f"<|tool_call{long}|>")
    return text


def phi(text: str) -> str:
    return text.replace("<call>", "<|tool_call|>").replace("</call>", "<|/tool_call|>")


def gemma(text: str) -> str:
    return text.replace("<call>", "<|tool_call>").replace("</call>", "<tool_call|>").replace("~", '<|"|>')


FENCED_F = 'function<sep>f\n```json\n{"a": 1}\n```'
BLOCK_F = deepseek(f"<calls><call>{FENCED_F}</call></calls>")
# dialect, a turn, and its thinking, answer and calls; an answer of None is the turn itself
TURNS: list[tuple[Dialect, str, str, str | None, tuple[ToolCall | str, ...]]] = [
    (DEEPSEEK_V3, deepseek(f"so<calls><call>{FENCED_F}</call></calls>"), "", "so", (F,)),
    (DEEPSEEK_V3, deepseek(f"<calls><call>{FENCED_F}</call>\n<call>g<sep>{{}}</call></calls>"), "", "", (F, G)),
    (DEEPSEEK_V3, deepseek(f"<think>hm</think>so<calls>\n<call>{FENCED_F}</call>\n</calls>"), "hm", "so", (F,)),
    (
        DEEPSEEK_V3,
        deepseek(f"<think><calls><call>{FENCED_F}</call></calls></think>7"),
        deepseek(f"<calls><call>{FENCED_F}</call></calls>"),
        "7",
        (),
    ),
    (DEEPSEEK_V3, deepseek("<calls><call>function<sep>f\n```json\n{</call></calls>"), "", None, ("invalid_json",)),
    (DEEPSEEK_V3, deepseek('<calls><call>function<sep>f\n{"a": 1}</call></calls>'), "", None, ("invalid_json",)),
    (DEEPSEEK_V31, deepseek('<calls><call>f<sep>{"a": 1}</call><call>g<sep>{}</call></calls>'), "", "", (F, G)),
    (DEEPSEEK_V31, deepseek('<calls><call>f<sep>{"a": 1}</calls>'), "", "", (F,)),
    (DEEPSEEK_V31, deepseek('<calls><call>f<sep>{"a": 1} x</call></calls>'), "", None, ("invalid_json",)),
    (DEEPSEEK_V31, deepseek("<calls><call>f<sep>[1]</call></calls>"), "", None, ("invalid_call",)),
    (DEEPSEEK_V31, deepseek('<calls><call>f {"a": 1}</call></calls>'), "", None, ("invalid_call",)),
    (DEEPSEEK_V31, deepseek('<calls><call>f<sep>{"a": 1}'), "", None, ("unclosed_tool_call",)),
    (DEEPSEEK_V31, deepseek("<calls>nothing</calls>"), "", None, ("invalid_call",)),
    (DEEPSEEK_V31, deepseek("so</call></calls>"), "", None, ("unopened_tool_call",)),
    (DEEPSEEK_V31, "hm</think>7", "hm", "7", ()),
    (KIMI_K2, kimi('so<calls><call>functions.f:0<sep>{"a": 1}</call><call>g<sep>{}</call></calls>'), "", "so", (F, G)),
    (KIMI_K2, kimi("<calls><call>functions.f:0<sep>{</call></calls>"), "", None, ("invalid_json",)),
    (KIMI_K2, kimi("<calls><call>functions.f:0{}</call></calls>"), "", None, ("invalid_call",)),
    (KIMI_K2, kimi("<call>functions.f:0<sep>{}"), "", None, ("unclosed_tool_call",)),
    (KIMI_K2, kimi("</call>"), "", None, ("unopened_tool_call",)),
    (MISTRAL_V3, '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]', "", "", (F,)),
    (MISTRAL_V3, 'so[TOOL_CALLS]{"name": "f", "arguments": {"a": 1}} end', "", "so end", (F,)),
    (MISTRAL_V3, '[TOOL_CALLS][{"name": "g", "arguments": {}}, {"name": "f"}]', "", None, (G, "invalid_call")),
    (MISTRAL_V3, "[TOOL_CALLS][]", "", None, ("invalid_call",)),
    (MISTRAL_V3, '[TOOL_CALLS][{"name"', "", None, ("invalid_json",)),
    (MISTRAL_V3, "[TOOL_CALLS]", "", None, ("invalid_call",)),
    (MISTRAL_V11, '[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}', "", "", (ToolCall("f", {"a": 1}, "abcdefghi"),)),
    (MISTRAL_V13, '[THINK]hm[/THINK]so[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}', "hm", "so", (F, G)),
    (MISTRAL_V13, '[TOOL_CALLS]f{"a": 1}', "", None, ("invalid_call",)),
    (MISTRAL_V13, "[TOOL_CALLS]f[ARGS]{[TOOL_CALLS]g[ARGS]{}", "", "[TOOL_CALLS]f[ARGS]{", ("invalid_json", G)),
    (MISTRAL_V13, "[THINK][TOOL_CALLS]g[ARGS]{}", "[TOOL_CALLS]g[ARGS]{}", "", ()),
    (
        PHI4,
        phi('so<call>[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]</call>'),
        "",
        "so",
        (F, G),
    ),
    (PHI4, phi('<call>{"name": "f", "arguments": {"a": 1}}</call>'), "", "", (F,)),
    (PHI4, phi("<call>[</call>"), "", None, ("invalid_json",)),
    (PHI4, phi("<call>[]</call>"), "", None, ("invalid_call",)),
    (PHI4, phi("<call>[1] x</call>"), "", None, ("invalid_json",)),
    (PHI4, phi("<call>[1]"), "", None, ("unclosed_tool_call",)),
    (PHI4, phi("</call>"), "", None, ("unopened_tool_call",)),
    (PHI4_FUNCTOOLS, 'so functools[{"name": "f", "arguments": {"a": 1}}] end', "", "so  end", (F,)),
    (PHI4_FUNCTOOLS, '{"name": "f", "arguments": {"a": 1}}', "", "", (F,)),
    (PHI4_FUNCTOOLS, '{"name": "f"', "", None, ()),
    (PHI4_FUNCTOOLS, "import functools", "", None, ()),
    (PHI4_FUNCTOOLS, 'functools[{functools[{"name": "g", "arguments": {}}]', "", "functools[{", ("invalid_json", G)),
    (PHI4_FUNCTOOLS, "functools[1]", "", None, ("invalid_call",)),
    (GEMMA3, 'so\n```tool_code\n{"name": "f", "parameters": {"a": 1}}\n```', "", "so", (F,)),
    (GEMMA3, '```tool_code\n{"name": "f", "arguments": {"a": 1}}\n```\n', "", "\n", (F,)),
    (GEMMA3, "```python\nprint(1)\n```", "", None, ()),
    (GEMMA3, "```tool_code\nf(a=1)\n```", "", None, ("invalid_json",)),
    (GEMMA3, '```tool_code\n{"name": "f"}\n```', "", None, ("invalid_call",)),
    (GEMMA3, '```tool_code\n{"name": "f", "parameters": {"a": 1}}', "", None, ("unclosed_tool_call",)),
    (
        GEMMA4,
        gemma("<|channel>thought\nhm<channel|>so<call>call:f{a:1}</call><call>call:g{}</call>"),
        "hm",
        "so",
        (F, G),
    ),
    (GEMMA4, gemma("<call>call:f{a:1}</call>"), "", "", (F,)),
    (
        GEMMA4,
        gemma('<call>call:f{ a: ~x~ ,~b c~:[1,{d:None}], "e": true}</call>'),
        "",
        "",
        (ToolCall("f", {"a": "x", "b c": [1, {"d": None}], "e": True}),),
    ),
    (GEMMA4, gemma("<call>call:f{a:x}</call>"), "", None, ("invalid_arguments",)),
    (GEMMA4, gemma("<call>call:f{a:~x}</call>"), "", None, ("invalid_arguments",)),
    (GEMMA4, gemma("<call>call:f{a 1}</call>"), "", None, ("invalid_arguments",)),
    (GEMMA4, gemma("<call>call:f{a:" + "[" * 500 + "}</call>"), "", None, ("invalid_arguments",)),
    (GEMMA4, gemma("<call>call:f{a:1}x</call>"), "", None, ("invalid_json",)),
    (GEMMA4, gemma("<call>f{a:1}</call>"), "", None, ("invalid_call",)),
    (GEMMA4, gemma("<call>call:f{a:1}"), "", None, ("unclosed_tool_call",)),
    (GEMMA4, gemma("</call>"), "", None, ("unopened_tool_call",)),
    (
        FUNCTION_GEMMA,
        "<start_function_call>call:f{a:<escape>x<escape>}<end_function_call>",
        "",
        "",
        (ToolCall("f", {"a": "x"}),),
    ),
    (GPT_OSS, '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}', "", "", (F,)),
    (GPT_OSS, ' to=functions.f<|channel|>commentary json<|message|>{"a": 1}', "", "", (F,)),
    (GPT_OSS, '<|channel|>analysis to=f<|message|>{"a": 1}', "", "", (F,)),
    (
        GPT_OSS,
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary<|message|>so<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.g<|message|>{}",
        "hm",
        "so",
        (G,),
    ),
    (GPT_OSS, "<|channel|>analysis<|message|>hm<|start|>assistant<|channel|>final<|message|>7", "hm", "7", ()),
    (GPT_OSS, "<|channel|>analysis<|message|>hm", "hm", "", ()),
    (GPT_OSS, "<|channel|>final<|message|>7<|return|>", "", "7", ()),
    (GPT_OSS, "no header", "", "no header", ()),
    (GPT_OSS, "<|channel|>commentary to=functions.f<|message|>{", "", None, ("invalid_json",)),
    (GPT_OSS, '<|channel|>commentary to=functions.f<|message|>{"a": 1} x', "", None, ("invalid_json",)),
    (GPT_OSS, "<|channel|>commentary to=functions.f<|message|>[]", "", None, ("invalid_call",)),
    (GPT_OSS, '<|channel|>commentary to=functions.f json{"a": 1}', "", None, ("invalid_call",)),
]


def described(said: Said) -> tuple[ToolCall | str, ...]:
    return tuple(call.error if isinstance(call, MalformedCall) else call for call in said.calls)


@pytest.mark.parametrize(("dialect", "text", "thinking", "answer", "calls"), TURNS)
def test_turns_as_models_write_them(
    dialect: Dialect, text: str, thinking: str, answer: str | None, calls: tuple[ToolCall | str, ...]
) -> None:
    said = dialect.read(text, thought_open=False, finished=True)
    assert (said.thinking, said.answer, described(said)) == (thinking, text if answer is None else answer, calls)


@pytest.mark.parametrize(("dialect", "text", "thinking", "answer", "calls"), TURNS)
def test_malformed_calls_are_explained(
    dialect: Dialect, text: str, thinking: str, answer: str | None, calls: tuple[ToolCall | str, ...]
) -> None:
    for call in dialect.read(text, thought_open=False, finished=True).calls:
        if isinstance(call, MalformedCall):
            assert call.result().text.startswith(f"Error: {call.error}: ")
            assert 5 < len(call.detail) < 150


@pytest.mark.parametrize(
    "text", ["<|channel|>final<|message|>7<|return|>", " to=functions.f<|channel|>commentary json<|message|>{}<|call|>"]
)
def test_what_ends_a_turn_of_gpt_oss_is_no_mark_in_it(text: str) -> None:
    """The end of a turn is found by that; between two messages the same is a mark."""
    *_, last = GPT_OSS.pieces(text, thought_open=False)
    assert last == Piece("<|" + text.rpartition("<|")[2], frame=False)
    more = f"{text}<|start|>assistant<|channel|>final<|message|>8"
    assert Piece(last.text, frame=True) in GPT_OSS.pieces(more, thought_open=False)


# how a template of the family writes an assistant's message; what stands around it is cut away
WRITTEN: list[tuple[Dialect, str]] = [
    (
        DEEPSEEK_V3,
        "{{ content }}"
        + deepseek(
            "<calls>{% for c in calls %}{% if not loop.first %}{{ '\n' }}{% endif %}<call>function<sep>{{ c.name }}"
            "{{ '\n```json\n' }}{{ c.arguments | tojson }}{{ '\n```' }}</call>{% endfor %}</calls>"
        ),
    ),
    (
        DEEPSEEK_V31,
        "{{ content }}"
        + deepseek(
            "<calls>{% for c in calls %}<call>{{ c.name }}<sep>{{ c.arguments | tojson }}</call>{% endfor %}</calls>"
        ),
    ),
    (
        KIMI_K2,
        "{{ content }}"
        + kimi(
            "<calls>{% for c in calls %}<call>functions.{{ c.name }}:{{ loop.index0 }}<sep>"
            "{{ c.arguments | tojson }}</call>{% endfor %}</calls>"
        ),
    ),
    (
        MISTRAL_V3,
        "{{ content }}[TOOL_CALLS][{% for c in calls %}"
        '{{ \'{"name": "\' + c.name + \'", "arguments": \' + (c.arguments | tojson) + \', "id": "\' + c.id + \'"}\' }}'
        "{% if not loop.last %}, {% endif %}{% endfor %}]",
    ),
    (
        MISTRAL_V11,
        "{{ content }}{% for c in calls %}[TOOL_CALLS]{{ c.name }}[CALL_ID]{{ c.id }}[ARGS]"
        "{{ c.arguments | tojson }}{% endfor %}",
    ),
    (
        MISTRAL_V13,
        "{{ content }}{% for c in calls %}[TOOL_CALLS]{{ c.name }}[ARGS]{{ c.arguments | tojson }}{% endfor %}",
    ),
    (
        PHI4,
        "{{ content }}<|tool_call|>[{% for c in calls %}{{ {'name': c.name, 'arguments': c.arguments} | tojson }}"
        "{% if not loop.last %}, {% endif %}{% endfor %}]<|/tool_call|>",
    ),
    (
        GEMMA4,
        "{% macro v(a) %}{% if a is string %}<|\"|>{{ a }}<|\"|>{% elif a is boolean %}{{ 'true' if a else 'false' }}"
        "{% elif a is mapping %}{{ '{' }}{% for k, x in a | dictsort %}{{ k }}:{{ v(x) }}"
        "{% if not loop.last %},{% endif %}{% endfor %}{{ '}' }}"
        "{% elif a is sequence %}[{% for x in a %}{{ v(x) }}{% if not loop.last %},{% endif %}"
        "{% endfor %}]{% else %}{{ a }}{% endif %}{% endmacro %}"
        "{{ content }}{% for c in calls %}<|tool_call>call:{{ c.name }}{{ v(c.arguments) }}<tool_call|>{% endfor %}",
    ),
    (
        GPT_OSS,
        "{% for c in calls %}{{ '' if loop.first else '<|call|><|start|>assistant' }} to=functions.{{ c.name }}"
        "<|channel|>commentary json<|message|>{{ c.arguments | tojson }}{% endfor %}",
    ),
]
CALLS = (
    ToolCall("python", {"code": "print(\"<a>\", 'é')\n", "n": 3, "B": [1.5, True, {"x": "y"}]}, "abcdefgh1"),
    ToolCall("stop", {}, "abcdefgh2"),
)


def rendered(source: str, content: str) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)  # as transformers has it
    calls: list[dict[str, Any]] = [{"name": c.name, "arguments": c.arguments, "id": c.id} for c in CALLS]
    return environment.from_string(source).render(content=content, calls=calls)


@pytest.mark.parametrize(("dialect", "source"), [pytest.param(*pair, id=pair[0].name) for pair in WRITTEN])
def test_what_the_familys_template_writes_is_what_is_written(dialect: Dialect, source: str) -> None:
    content = "" if dialect is GPT_OSS else "so"
    text = rendered(source, content)
    assert dialect.write(Message("assistant", content, CALLS), thought_open=False) == text
    said = dialect.read(text, thought_open=False, finished=True)
    assert said.answer == content
    assert [(c.name, c.arguments) for c in said.calls if isinstance(c, ToolCall)] == [
        (c.name, c.arguments) for c in CALLS
    ]


@pytest.mark.parametrize(("dialect", "source"), [pytest.param(*pair, id=pair[0].name) for pair in WRITTEN])
def test_the_template_is_known_by_its_words(dialect: Dialect, source: str) -> None:
    """The first of the known dialects that speaks it is the right one."""
    assert next(known for known in DIALECTS if known.speaks(source)) is dialect
