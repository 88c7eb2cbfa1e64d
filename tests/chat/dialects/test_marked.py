"""Dialects by tables: what each writes is what a template of its make renders, and is read back as it was."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sod.chat.dialects import tagged
from sod.chat.dialects.base import Dialect
from sod.chat.dialects.functionary import FUNCTIONARY
from sod.chat.dialects.glm4 import GLM4_5, GLM4_7
from sod.chat.dialects.hermes import HERMES
from sod.chat.dialects.invoked import DEEPSEEK_V3_2, DEEPSEEK_V4, MINICPM5, MINIMAX_M2
from sod.chat.dialects.json_families import (
    APERTUS,
    APRIEL,
    COHERE_MOE,
    COHERE_R7B,
    GRANITE3,
    MINIMAX_M1,
    NEMOTRON_NANO_2,
    TOOL_CALLS,
)
from sod.chat.dialects.known import DIALECTS
from sod.chat.dialects.listed import Listed
from sod.chat.dialects.llama3_json import LLAMA3_JSON, XLAM, Bare
from sod.chat.dialects.marked import Marked
from sod.chat.dialects.qwen_xml import NEMOTRON3, QWEN_XML, SEED_OSS, STEP3_5
from sod.chat.dialects.tagged import Tags
from sod.records import MalformedCall, Message, Said, ToolCall

FAMILIES: list[Dialect] = [FUNCTIONARY, *(dialect for dialect in DIALECTS if isinstance(dialect, Marked))]
IN_JSON = [dialect for dialect in DIALECTS if isinstance(dialect, Marked) and isinstance(dialect.form, Listed | Bare)]
IN_TAGS = [dialect for dialect in DIALECTS if isinstance(dialect, Marked) and isinstance(dialect.form, Tags)]
CALL = ToolCall("python", {"code": "print(1)\n", "n": 3, "deep": [{"x": [None, True, 1.5, "12"]}], "s": "12", "e": ""})
OTHER = ToolCall("search", {})
ALL_MARKS = "</parameter></arg_value></function></tool_call><tool_call></think><think>[/TOOL_CALLS]</tool_calls>{\"'"
TRICKY = ToolCall("python", {"code": f"print('{ALL_MARKS}')", "more": [ALL_MARKS, {"k": ALL_MARKS}]})


def names(dialects: Sequence[Dialect]) -> list[str]:
    return [dialect.name for dialect in dialects]


def summary(said: Said) -> tuple[str, str, tuple[Any, ...]]:
    return said.thinking.strip(), said.answer.strip(), said.calls


def read_back(dialect: Dialect, message: Message, thought_open: bool) -> None:
    text = dialect.write(message, thought_open)
    said = dialect.read(text, thought_open, True)
    assert summary(said) == ((message.reasoning or "").strip(), message.content.strip(), message.tool_calls)
    assert "".join(piece.text for piece in dialect.pieces(text, thought_open)) == text
    cut_off = dialect.read(text, thought_open, False)
    assert cut_off.calls == ()
    assert cut_off.thinking == said.thinking


MESSAGES = [
    Message("assistant", ""),
    Message("assistant", "So it is 7."),
    Message("assistant", "", (CALL,)),
    Message("assistant", "Let me see.", (CALL, OTHER)),
    Message("assistant", "", (OTHER, TRICKY), reasoning="hm"),
    Message("assistant", "Let me see.", (TRICKY, CALL), reasoning="hm\n\n<tool_call> or not"),
    Message("assistant", "So it is 7.", reasoning="hm"),
    Message("assistant", "So it is 7.", reasoning="<think> opens a thought"),
]


@pytest.mark.parametrize("thought_open", [False, True])
@pytest.mark.parametrize("dialect", FAMILIES, ids=names(FAMILIES))
def test_a_message_is_read_back_as_it_was_written(dialect: Dialect, thought_open: bool) -> None:
    for message in MESSAGES:
        read_back(dialect, message, thought_open)


MARKS = [
    *("<think>", "</think>", "<seed:think>", "</seed:think>", "[BEGIN FINAL RESPONSE]", "<|END_THINKING|>"),
    *("<tool_call>", "</tool_call>", "<function=f>", "<parameter=a>", "</parameter>", "</function>"),
    *("<arg_key>", "</arg_value>", "<|tool_call|>", "<tool_calls>", "</tool_calls>", "<|python_tag|>", "</TOOLCALL>"),
    *("</invoke>", "<minimax:tool_call>", "</minimax:tool_call>", "<|END_ACTION|>", "<|tools_suffix|>"),
]
TEXT = st.lists(st.text(max_size=4) | st.sampled_from([*MARKS, '"', "\\", "{", "}", "\n", "1"]), max_size=5).map(
    "".join
)
PROSE = st.text(st.characters(exclude_characters="<>[]{}|"), max_size=12).filter(lambda text: "Here are" not in text)
CLOSES = {"</think>", "</seed:think>", "[BEGIN FINAL RESPONSE]", "<|END_THINKING|>", "<|inner_suffix|>"}
THOUGHT = TEXT.filter(lambda text: not any(close in text for close in CLOSES))
WORD = st.text("abc_-1é.", max_size=5).map(lambda text: f"w{text}")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
MESSAGE = st.builds(
    Message,
    st.just("assistant"),
    PROSE.map(str.strip),
    st.lists(st.builds(ToolCall, WORD, st.dictionaries(WORD, JSON, max_size=3)), max_size=3).map(tuple),
    reasoning=st.none() | THOUGHT.map(str.strip).filter(bool),
)


@pytest.mark.parametrize("examples", [150, pytest.param(500, marks=pytest.mark.slow)])
def test_whatever_a_message_says_is_read_back(examples: int) -> None:
    """In every family: arguments of any JSON, marks of all families in their strings."""
    drawn = given(dialect=st.sampled_from(FAMILIES), message=MESSAGE, thought_open=st.booleans())(read_back)
    settings(max_examples=examples, deadline=None)(drawn)()


@settings(max_examples=60, deadline=None)
@given(
    dialect=st.sampled_from(FAMILIES),
    parts=st.lists(st.sampled_from([*MARKS, "{", "}", '"', "x", "\n", '{"name": "f", "parameters": {', "[{"])),
    thought_open=st.booleans(),
    finished=st.booleans(),
)
def test_nothing_is_lost_of_any_text(dialect: Dialect, parts: list[str], thought_open: bool, finished: bool) -> None:
    """Pieces are the text, and what is said without calls is the content between the marks, save white space."""
    text = "".join(parts)
    found, said = dialect.pieces(text, thought_open), dialect.read(text, thought_open, finished)
    assert "".join(piece.text for piece in found) == text
    assert all(piece.text for piece in found)
    if not any(isinstance(call, ToolCall) for call in said.calls):
        kept = Counter("".join((said.thinking + said.answer).split()))
        assert Counter("".join("".join(piece.text for piece in found if not piece.frame).split())) <= kept


def tagged_call(dialect: Marked, body: str = "print(1)") -> str:
    return dialect.write(Message("assistant", "", (ToolCall("python", {"code": body}),)), False)


@pytest.mark.parametrize("dialect", IN_TAGS, ids=names(IN_TAGS))
def test_malformed_calls_in_tags_are_named_and_spoil_no_neighbour(dialect: Marked) -> None:
    """Each part of a call left out once; the calls before and behind it are made."""
    good = tagged_call(dialect)
    form = dialect.form
    assert isinstance(form, Tags)
    for part, error in [
        (form.closer, "unclosed_tool_call"),
        (form.opener, "unopened_tool_call"),
        (form.value_end, "invalid_call"),
        ("python", "invalid_call"),
    ]:
        bad = good.replace(part, "", 1)
        assert errors(dialect, bad) == [error], part
        if part != form.value_end:  # without its end a value goes on to the end of the next one
            assert errors(dialect, f"{good}\n{bad}\n{good}") == [None, error, None], part
        assert dialect.read(bad, False, True).answer == bad
        assert dialect.read(f"{bad}x", False, False).calls == ()


def errors(dialect: Dialect, text: str) -> list[str | None]:
    """The failure's name at each call, None for a call that could be read."""
    calls = dialect.read(text, False, True).calls
    return [call.error if isinstance(call, MalformedCall) else None for call in calls]


GOOD: dict[Dialect, str] = {
    TOOL_CALLS: '<tool_calls>[{"name": "f", "arguments": {}}]</tool_calls>',
    GRANITE3: '<|tool_call|>[{"name": "f", "arguments": {}}]',
    APERTUS: '<|tools_prefix|>[{"f": {}}]',
    COHERE_R7B: '<|START_ACTION|>[{"tool_name": "f", "parameters": {}}]<|END_ACTION|>',
    MINIMAX_M1: '<tool_calls>\n{"name": "f", "arguments": {}}\n</tool_calls>',
    LLAMA3_JSON: '<|python_tag|>{"name": "f", "parameters": {}}',
    FUNCTIONARY: "<function=f>{}</function>",
}


@pytest.mark.parametrize(
    ("dialect", "text", "expected"),
    [
        (TOOL_CALLS, "<tool_calls>[]</tool_calls>", ["invalid_call"]),
        (TOOL_CALLS, "<tool_calls></tool_calls>", ["invalid_json"]),
        (TOOL_CALLS, "<tool_calls>[{]</tool_calls>", ["invalid_json"]),
        (TOOL_CALLS, '<tool_calls>["f"]</tool_calls>', ["invalid_call"]),
        (TOOL_CALLS, '<tool_calls>[{"name": "f"}]</tool_calls>', ["invalid_call"]),
        (TOOL_CALLS, '<tool_calls>[{"name": "f", "arguments": {}}, {"name": 3}]</tool_calls>', [None, "invalid_call"]),
        (TOOL_CALLS, '<tool_calls>[{"name": "f", "arguments": {}}]', ["unclosed_tool_call"]),
        (TOOL_CALLS, '[{"name": "f", "arguments": {}}]</tool_calls>', ["unopened_tool_call"]),
        (TOOL_CALLS, f"<tool_calls>[{GOOD[TOOL_CALLS]}", ["unclosed_tool_call", None]),
        (GRANITE3, "<|tool_call|>print(1)", ["invalid_json"]),
        (GRANITE3, f"<|tool_call|>[{GOOD[GRANITE3]}", ["invalid_json", None]),
        (APERTUS, '<|tools_prefix|>[{"f": {}, "g": {}}]', ["invalid_call"]),
        (APERTUS, "<|tools_prefix|>[]", ["invalid_call"]),
        (APERTUS, '<|tools_prefix|>[{"f": 1}]', ["invalid_call"]),
        (COHERE_R7B, '<|START_ACTION|>[{"name": "f", "parameters": {}}]<|END_ACTION|>', ["invalid_call"]),
        (MINIMAX_M1, '<tool_calls>\n{"name": "f", "arguments": {}}\n{"name"\n</tool_calls>', ["invalid_json"]),
        (FUNCTIONARY, "<function=f>x</function>", ["invalid_json"]),
        (FUNCTIONARY, "<function=f>[]</function>", ["invalid_call"]),
        (FUNCTIONARY, "<function=f>{}", ["unclosed_tool_call"]),
        (FUNCTIONARY, "{}</function>", ["unopened_tool_call"]),
        (FUNCTIONARY, "<|python_tag|>print(1)", ["invalid_json"]),
        (LLAMA3_JSON, "<|python_tag|>print(1)", ["invalid_json"]),
        (LLAMA3_JSON, '{"name": "f", "parameters": {"code": "1"', ["invalid_json"]),
        (LLAMA3_JSON, '{"name": "f", "parameters": {}} is what I call', ["invalid_call"]),
        (LLAMA3_JSON, '{"name": "f", "parameters": {}}; {"name": "f", "parameters": 3}', [None, "invalid_call"]),
        (LLAMA3_JSON, '{"name": "f", "parameters": [1]}', ["invalid_call"]),
    ],
)
def test_malformed_calls_in_json_are_named(dialect: Dialect, text: str, expected: list[str | None]) -> None:
    assert errors(dialect, text) == expected
    assert dialect.read(text, False, True).answer.strip() == text.replace(GOOD[dialect], "", text.startswith("<"))
    assert dialect.read(text, False, False).calls == ()


@pytest.mark.parametrize("dialect", GOOD, ids=names(list(GOOD)))
def test_a_list_of_calls_is_read(dialect: Dialect) -> None:
    said = dialect.read(f"so{GOOD[dialect]}", False, True)
    assert said == Said("", "so", (ToolCall("f", {}),))


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('{"name": "Bob", "age": 3}', ()),
        ('{"answer": 3}', ()),
        ('The call is {"name": "f", "parameters": {}}', ()),
        ('{"name": "f", "parameters": {}}', (ToolCall("f", {}),)),
        (' \n{ "name" : "f",\n"arguments": {"a": 1}}\n', (ToolCall("f", {"a": 1}),)),
        ('{"type": "function", "name": "f", "parameters": {}}', (ToolCall("f", {}),)),
        ('{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}', (ToolCall("f", {}), ToolCall("g", {}))),
        ('{"name": "f", "parameters": {}}{"name": "g", "parameters": {}}', (ToolCall("f", {}), ToolCall("g", {}))),
        ('[{"name": "f", "parameters": {}}, {"name": "g", "parameters": {}}]', (ToolCall("f", {}), ToolCall("g", {}))),
        ('<think>x</think>\n\n{"name": "f", "parameters": {}}', (ToolCall("f", {}),)),
    ],
)
def test_only_a_turn_of_llama_that_is_a_call_as_a_whole_is_one(text: str, calls: tuple[ToolCall, ...]) -> None:
    assert LLAMA3_JSON.read(text, False, True).calls == calls


TAGGED = "<tool_call><function=f><parameter=a>x</parameter></function></tool_call>"
BEGUN = "<tool_call><function=f><parameter=a>"


@pytest.mark.parametrize(
    ("text", "thought_open", "thinking", "answer", "calls"),
    [
        (TAGGED, False, "", "", 1),
        (f"so\n\n{TAGGED}\n{TAGGED}", False, "", "so", 2),
        (f"<think>{TAGGED}</think>{TAGGED}", False, TAGGED, "", 1),
        (f"{TAGGED}</think>7", False, TAGGED, "7", 0),
        (f"{TAGGED}</think>7", True, TAGGED, "7", 0),
        (f"{TAGGED}", True, TAGGED, "", 0),
        ("<think><tool_call></think>7", False, "<tool_call>", "7", 0),
        (f"<think>{BEGUN}</think>{TAGGED}", False, BEGUN, "", 1),
        (f"{BEGUN}</think>{TAGGED}", True, BEGUN, "", 1),
        (TAGGED.replace("x", "</tool_call><tool_call></function>"), False, "", "", 1),
    ],
)
def test_thoughts_and_calls_in_tags(text: str, thought_open: bool, thinking: str, answer: str, calls: int) -> None:
    """A call in a thought is none; one that is only begun there does not go on behind it."""
    said = QWEN_XML.read(text, thought_open, True)
    assert (said.thinking, said.answer, len(said.calls)) == (thinking, answer, calls)
    assert all(isinstance(call, ToolCall) for call in said.calls)


def test_a_section_makes_the_calls_before_the_one_that_cannot_be_read() -> None:
    good = '<invoke name="f"></invoke>'
    text = f'<minimax:tool_call>{good}<invoke name="g"</minimax:tool_call>'
    assert errors(MINIMAX_M2, text) == [None, "invalid_call"]
    assert errors(MINIMAX_M2, f"<minimax:tool_call>{good}") == ["unclosed_tool_call"]


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        (
            QWEN_XML,
            "<tool_call><function=f><parameter=n>3</parameter><parameter=code>3</parameter></function></tool_call>",
        ),
        (
            GLM4_7,
            "<tool_call>f<arg_key>n</arg_key><arg_value>3</arg_value><arg_key>code</arg_key><arg_value>3</arg_value></tool_call>",
        ),
    ],
)
def test_what_a_tool_declares_as_text_is_text(dialect: Marked, text: str) -> None:
    declared = replace(dialect, texts=frozenset({("f", "code")}))
    assert declared.read(text, False, True).calls == (ToolCall("f", {"n": 3, "code": "3"}),)
    assert dialect.read(text, False, True).calls == (ToolCall("f", {"n": 3, "code": 3}),)
    assert '"' not in declared.write(Message("assistant", "", (ToolCall("f", {"code": "3"}),)), False)


# How a template of each make renders a turn, in little. `call.arguments` is an object.
_EACH = "{% for call in calls %}"
_QWEN = (
    "{% if think %}<think>\n{{ think }}\n</think>\n\n{% endif %}{{ content }}"
    + _EACH
    + "{% if content and loop.first %}\n\n{% elif not loop.first %}\n{% endif %}"
    "<tool_call>\n<function={{ call.name }}>\n{% for k, v in call.arguments.items() %}<parameter={{ k }}>\n"
    "{{ v if v is string or v is not sequence else v | tojson }}\n</parameter>\n{% endfor %}"
    "</function>\n</tool_call>{% endfor %}"
)
_GLM = (
    "\n<think>{{ think }}</think>\n{{ content }}"
    + _EACH
    + "\n<tool_call>{{ call.name }}\n{% for k, v in call.arguments.items() %}<arg_key>{{ k }}</arg_key>\n"
    "<arg_value>{{ v if v is string else v | tojson }}</arg_value>\n{% endfor %}</tool_call>{% endfor %}"
)
_OBJECT = '{"name": {{ call.name | tojson }}, "arguments": {{ call.arguments | tojson }}}'
_LIST = _EACH + "{{ ', ' if not loop.first }}" + _OBJECT + "{% endfor %}"
RENDERED = [
    (QWEN_XML, _QWEN),
    (GLM4_5, _GLM),
    (GLM4_7, _GLM.replace("\n", "")),
    (
        SEED_OSS,
        "<seed:think>{{ think }}</seed:think>\n{{ content }}"
        + _EACH
        + "\n<seed:tool_call>\n<function={{ call.name }}>\n"
        "{% for k, v in call.arguments.items() %}<parameter={{ k }}>{{ v }}</parameter>\n{% endfor %}"
        "</function>\n</seed:tool_call>{% endfor %}",
    ),
    (
        MINIMAX_M2,
        "<think>\n{{ think }}\n</think>\n\n{{ content }}\n<minimax:tool_call>\n"
        + _EACH
        + '<invoke name="{{ call.name }}">\n'
        '{% for k, v in call.arguments.items() %}<parameter name="{{ k }}">{{ v if v is string else v | tojson }}'
        "</parameter>\n{% endfor %}</invoke>\n{% endfor %}</minimax:tool_call>",
    ),
    (
        DEEPSEEK_V3_2,
        "<think>{{ think }}</think>{{ content }}\n\n<DSMLfunction_calls>\n"
        + _EACH
        + '<DSMLinvoke name="{{ call.name }}">\n{% for k, v in call.arguments.items() %}'
        '<DSMLparameter name="{{ k }}" string="{{ (v is string) | tojson }}">{{ v if v is string else v | tojson }}'
        "</DSMLparameter>\n{% endfor %}</DSMLinvoke>\n{% endfor %}</DSMLfunction_calls>",
    ),
    (
        MINICPM5,
        "<think>\n{{ think }}\n</think>\n\n{{ content }}"
        + _EACH
        + '\n<function name="{{ call.name }}">{% for k, v in call.arguments.items() %}<param name="{{ k }}">'
        "{{ '<![CDATA[' ~ v ~ ']]>' if v is string and ('<' in v or '\n' in v) else v }}</param>{% endfor %}"
        "</function>{% endfor %}",
    ),
    (TOOL_CALLS, "<think>\n{{ think }}\n</think>\n\n{{ content }}<tool_calls>[" + _LIST + "]</tool_calls>"),
    (GRANITE3, "<think>\n{{ think }}\n</think>\n\n{{ content }}<|tool_call|>[" + _LIST + "]"),
    (
        APERTUS,
        "<|inner_prefix|>{{ think }}<|inner_suffix|>{{ content }}<|tools_prefix|>["
        + _EACH
        + "{{ ', ' if not loop.first }}{{ {call.name: call.arguments} | tojson }}{% endfor %}]",
    ),
    (
        MINIMAX_M1,
        "<think>\n{{ think }}\n</think>\n\n{{ content }}\n<tool_calls>\n"
        + _EACH
        + _OBJECT
        + "\n{% endfor %}</tool_calls>",
    ),
    (
        HERMES,
        "<think>\n{{ think }}\n</think>\n\n{{ content }}"
        + _EACH
        + "\n<tool_call>\n"
        + _OBJECT
        + "\n</tool_call>{% endfor %}",
    ),
]


@pytest.mark.parametrize(("dialect", "template"), RENDERED, ids=[dialect.name for dialect, _ in RENDERED])
def test_what_a_template_of_the_family_renders_is_what_is_written_and_read(dialect: Dialect, template: str) -> None:
    """The last is how SmolLM3, Granite 4 and Qwen3 write: Hermes reads them."""
    environment = ImmutableSandboxedEnvironment()
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    calls = (ToolCall("python", {"code": 'a\n"b" é < 3', "n": 3, "on": True}), ToolCall("search", {"q": "x"}))
    message = Message("assistant", "Let me see.", calls, reasoning="hm")
    shown = [{"name": call.name, "arguments": dict(call.arguments)} for call in calls]
    source = template.replace("DSML", "\uff5cDSML\uff5c")
    rendered = environment.from_string(source).render(content=message.content, think="hm", calls=shown)
    assert dialect.write(message, False) == rendered
    assert summary(dialect.read(rendered, False, True)) == ("hm", "Let me see.", calls)


SMOLLM3 = '\'<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>\''


def test_which_templates_each_speaks() -> None:
    """Each by the words that its family's templates have; SmolLM3's tell the model to write as Hermes."""
    for source, dialect in [
        (SMOLLM3, HERMES),
        ("'<tool_call>\n<function=' + name + '>\n' '<parameter='", QWEN_XML),
        ("<seed:tool_call>\n<function=f>\n<parameter=a>", SEED_OSS),
        ("<tool_call>{{ name }}\n<arg_key>{{ k }}</arg_key>\n<arg_value>", GLM4_5),
        ("<tool_call>{{ name }}<arg_key>{{ k }}</arg_key><arg_value>", GLM4_7),
        ("<tool_call>{{ name }}' + '<arg_key>' + k + '</arg_key>\\n' '<arg_value>", GLM4_5),
        ("truncate_history_thinking <tool_call>\n<function=f>\n<parameter=a>", NEMOTRON3),
        ("<|im_start|>tool_response <tool_call>\n<function=f>\n<parameter=a>", STEP3_5),
        ("\uff5cDSML\uff5c <' + mark + 'function_calls>'", DEEPSEEK_V3_2),
        ("\uff5cDSML\uff5c <' + mark + 'tool_calls>'", DEEPSEEK_V4),
        ("<tool_calls>[", TOOL_CALLS),
        ("'ipython' '\"parameters\": '", LLAMA3_JSON),
        ("<|START_ACTION|> <|START_RESPONSE|>", COHERE_R7B),
        ("<|START_ACTION|> <|START_TEXT|>", COHERE_MOE),
        ("<TOOLCALL>[ ]</TOOLCALL>", NEMOTRON_NANO_2),
    ]:
        assert next(known for known in DIALECTS if known.speaks(source)) is dialect, source


@pytest.mark.parametrize(
    ("dialect", "prompt", "opens", "without"),
    [
        (QWEN_XML, "<|im_start|>assistant\n<think>\n", True, "<|im_start|>assistant"),
        (QWEN_XML, "<|im_start|>assistant\n<think>\n\n</think>\n\n", False, "<|im_start|>assistant"),
        (QWEN_XML, "<|im_start|>assistant\n", False, "<|im_start|>assistant"),
        (QWEN_XML, "x <think>hm</think>", False, "x <think>hm"),
        (GLM4_7, "<|assistant|><think>", True, "<|assistant|>"),
        (GLM4_7, "<|assistant|></think>", False, "<|assistant|>"),
        (SEED_OSS, "<seed:bos>assistant\n<seed:think>", True, "<seed:bos>assistant"),
        (APRIEL, "<|begin_assistant|>\nHere are my reasoning steps:\n", True, "<|begin_assistant|>"),
    ],
)
def test_where_a_prompt_stands_among_thoughts(dialect: Marked, prompt: str, opens: bool, without: str) -> None:
    assert dialect.opens_thought(prompt) is opens
    assert dialect.without_thought(prompt) == without


@pytest.mark.parametrize(
    ("lead", "unit"),
    [
        ("", "<tool_call>"),
        ("", "<tool_call><function=f>"),
        ("", "<tool_call><function=f><parameter=a>"),
        ("<tool_call><function=f><parameter=a>" * 300 + "</parameter>", "<parameter=b>x</parameter>"),
        ("<think>", "<tool_call><function=f><parameter=a></parameter>"),
        ("", "</tool_call>"),
        ("", TAGGED),
    ],
)
def test_the_work_grows_with_the_length_and_no_faster(lead: str, unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values looked for, which is where a second look at the same text would be taken."""
    looked: list[int] = []
    value_stop = tagged._Reading._value_stop
    monkeypatch.setattr(
        tagged._Reading, "_value_stop", lambda reading, at: looked.append(at) or value_stop(reading, at)
    )
    text = lead + unit * 300
    QWEN_XML.read(text, False, True)
    assert len(looked) <= text.count("<parameter=") + 300


@pytest.mark.parametrize(
    "unit", ['OPEN["', "OPEN[", 'OPEN{"a": "', 'OPEN["\\\\"', '</think>{"name": "f", "parameters": {}, "']
)
@pytest.mark.parametrize("dialect", IN_JSON, ids=names(IN_JSON))
def test_json_is_decoded_no_more_than_twice(dialect: Marked, unit: str, handed: list[int]) -> None:
    """In a text of calls that cannot be read."""
    form = dialect.form
    assert isinstance(form, Listed | Bare)
    text = unit.replace("OPEN", form.open if isinstance(form, Listed) else form.tag) * 100
    dialect.read(text, False, True)
    assert sum(handed) <= 2 * len(text)


def test_xlam_reads_a_list_that_is_all_of_a_turn() -> None:
    text = '[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]'
    assert XLAM.read(text, False, True) == Said("", "", (ToolCall("f", {"a": 1}), ToolCall("g", {})))
    assert XLAM.read("[1, 2]", False, True) == Said("", "[1, 2]")
