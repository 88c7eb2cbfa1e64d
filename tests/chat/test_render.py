"""The append-only renderer: which templates pass its proof, and what they render."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from sod.chat.dialects.hermes import read
from sod.chat.ours import hermes_template
from sod.chat.render import Chat
from sod.models.scratch import train_tokenizer
from sod.records import Message, SodError, ToolCall
from sod.tasks.base import Conversation
from sod.tools.python import SCHEMA

QWEN3_LIKE = r"""
{%- if tools -%}
{{ '<|im_start|>system\n' }}
{%- if messages[0].role == 'system' -%}{{ messages[0].content + '\n\n' }}{%- endif -%}
{{ '# Tools\n\n<tools>' }}
{%- for tool in tools -%}{{ '\n' + (tool | tojson) }}{%- endfor -%}
{{ '\n</tools><|im_end|>\n' }}
{%- elif messages[0].role == 'system' -%}
{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif -%}
{%- set ns = namespace(query=0) -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{%- set ns.query = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) -%}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- elif message.role == 'assistant' -%}
{%- set thought = '' -%}
{%- set content = message.content -%}
{%- if '</think>' in content -%}
{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') -%}
{%- set content = content.split('</think>')[-1].lstrip('\n') -%}
{%- endif -%}
{{ '<|im_start|>assistant\n' }}
{%- if loop.index0 > ns.query and (loop.last or thought) -%}
{{ '<think>\n' + thought + '\n</think>\n\n' }}
{%- endif -%}
{{ content }}
{%- for call in message.tool_calls or [] -%}
{{ ('\n' if content or not loop.first else '') + '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- (call.function.arguments | tojson) + '}\n</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\n' }}
{%- elif message.role == 'tool' -%}
{%- if messages[loop.index0 - 1].role != 'tool' -%}{{ '<|im_start|>user' }}{%- endif -%}
{{ '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{ '<|im_end|>\n' }}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false -%}{{ '<think>\n\n</think>\n\n' }}{%- endif -%}
{%- endif -%}
"""

BARE = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
PLAIN = "{{ 'Tools: ' + (tools | tojson) if tools else '' }}" + BARE.replace(
    " + '<|im_end|>\n'",
    " }}{%- for c in m.tool_calls or [] -%}{{ '<tool_call>' + (c.function | tojson) + '</tool_call>' }}{%- endfor -%}"
    "{{ '<|im_end|>\n'",
)
"""`BARE` hides the tools and the calls; this one shows both."""
REFUSED = {
    "count in the header": "{{ messages | length }}" + PLAIN,
    "last message in the header": "{{ messages[-1].role }}" + PLAIN,
    "first message vanishes later": PLAIN.replace("in messages", "in messages[-3:]"),
    "tool content dropped": PLAIN.replace("m.content", "('' if m.role == 'tool' else m.content)"),
    "tool content shortened": PLAIN.replace("m.content", "(m.content[:9] if m.role == 'tool' else m.content)"),
    "tool content rendered twice": PLAIN.replace("m.content", "(m.content * 2 if m.role == 'tool' else m.content)"),
    "no tools": PLAIN.replace("(tools | tojson)", "''"),
    "no calls": BARE.replace("{%- for m", "{{ tools | tojson }}{%- for m", 1),
    "calls in another form": PLAIN.replace("<tool_call>", "<do>").replace("</tool_call>", "</do>"),
    "assistant header unlike the generation prompt": PLAIN.replace("'<|im_start|>assistant\n'", "'<|im_start|>bot\n'"),
    "no end of turn": PLAIN.replace("<|im_end|>\n", ""),
    "end of turn is plain text": PLAIN.replace("<|im_end|>\n", "11\n"),
    "later turns rewritten": PLAIN.replace("m.content", "(m.content if loop.last or m.role == 'user' else '...')"),
    "last turn marked": PLAIN.replace("m.role +", "m.role + (' (last)' if loop.last else '') +"),
    "tool results counted from the end": PLAIN.replace("m.content", "(m.content + ' of ' ~ loop.length)"),
    "turns numbered": PLAIN.replace("m.role +", "m.role ~ loop.index +").replace(
        "assistant\n'", "assistant' ~ (messages | length + 1) ~ '\n'"
    ),
    "role refused": PLAIN.replace(
        "{{ '<", "{%- if m.role == 'tool' -%}{{ raise_exception('no tools') }}{%- endif -%}{{ '<", 1
    ),
    "syntax error": PLAIN + "{% if",
    "type error": PLAIN.replace("m.content", "(m.content + 3)"),
}


PROMPT = Message("user", "7")
RESULTS = [Message("tool", "4"), Message("tool", "5", name="python")]


def with_template(tokenizer: Any, template: Any) -> Any:
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    return own


@pytest.mark.parametrize("why", REFUSED)
def test_templates_that_break_the_ledger_are_refused(tokenizer: Any, why: str) -> None:
    """A SodError that speaks of the template, never a wrong ledger and never an error of Jinja's own.

    What it advises to use instead works.
    """
    own = with_template(tokenizer, REFUSED[why])
    with pytest.raises(SodError, match=r"chat template: .*; use chat\.template=hermes$"):
        Chat(own, [SCHEMA], template="tokenizer")
    assert "Call a tool with <tool_call>" in tokenizer.decode(Chat(own, [SCHEMA], "hermes").prompt_ids([PROMPT]))


def test_the_template_those_were_made_from_passes(tokenizer: Any) -> None:
    """So each refusal above is due to its one change."""
    chat = Chat(with_template(tokenizer, PLAIN), [SCHEMA], template="tokenizer")
    assert chat.end_text == "<|im_end|>"
    text = tokenizer.decode(list(chat.suffix_ids(RESULTS)))
    assert text == "\n<|im_start|>tool\n4<|im_end|>\n<|im_start|>tool\n5<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("m.content | tojson", '"\\"é\\"\\n"'),
        ("m.content | trim", '"é"'),
        ("m.content.rstrip('\\n')", ' "é"'),
        ("(m.content | trim | tojson)", '"\\"é\\""'),
    ],
)
def test_a_tools_output_is_changed_as_the_template_changes_it(tokenizer: Any, change: str, shown: str) -> None:
    """Llama's and gpt-oss' templates write it as JSON, many trim it; the suffix is what the template would render."""
    template = PLAIN.replace("m.content", f"({change} if m.role == 'tool' else m.content)")
    chat = Chat(with_template(tokenizer, template), [SCHEMA], template="tokenizer")
    said = Message("assistant", "", (ToolCall("python", {}),))
    result = Message("tool", ' "é"\n'.removeprefix(" " if "tojson" in change and "trim" not in change else ""))
    suffix = tokenizer.decode(list(chat.suffix_ids([result])))
    assert suffix == f"\n<|im_start|>tool\n{shown}<|im_end|>\n<|im_start|>assistant\n"
    assert chat.conversation_text([PROMPT, said, result]).endswith(f"<|im_start|>tool\n{shown}<|im_end|>\n")


@pytest.mark.parametrize(("kwargs", "thought"), [({}, ""), ({"enable_thinking": False}, "<think>\n\n</think>\n\n")])
def test_qwen3_habits_pass_the_proof(tokenizer: Any, kwargs: dict[str, Any], thought: str) -> None:
    """Strips earlier thoughts, adds an empty think block to the last turn and to the generation prompt."""
    chat = Chat(with_template(tokenizer, QWEN3_LIKE), [SCHEMA], template="tokenizer", template_kwargs=kwargs)
    prompt = tokenizer.decode(chat.prompt_ids([Message("system", "Be brief."), Message("user", "2+2")]))
    assert prompt.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n\n<tools>\n{")
    assert '"name": "python"' in prompt
    assert prompt.endswith("<|im_start|>user\n2+2<|im_end|>\n<|im_start|>assistant\n" + thought)
    suffix = tokenizer.decode(list(chat.suffix_ids(RESULTS)))
    body = "\n<tool_response>\n4\n</tool_response>\n<tool_response>\n5\n</tool_response>"
    assert suffix == f"\n<|im_start|>user{body}<|im_end|>\n<|im_start|>assistant\n{thought}"
    assert chat.stop_ids == {tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_stop_ids_hold_the_end_of_turn_and_eos(tokenizer: Any) -> None:
    own = copy.deepcopy(tokenizer)
    own.eos_token = "<|endoftext|>"
    chat = Chat(own, template="hermes")
    names = [tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")]
    assert chat.end_id == names[0]
    assert chat.stop_ids == set(names)
    assert chat.decode_turn([*own.encode("7"), names[1]]) == "7"


def test_template_choice(tokenizer: Any) -> None:
    """`auto` keeps a template that shows the tools; `tokenizer` needs one; `hermes` is always ours. Each says why."""
    bare = with_template(tokenizer, None)  # saving a model gives its tokenizer a template
    plain, tools = with_template(tokenizer, BARE), with_template(tokenizer, QWEN3_LIKE)
    several = with_template(tokenizer, {"default": BARE, "tool_use": QWEN3_LIKE})
    for own, why in (
        (bare, "sod's hermes template, as the tokenizer has no chat template"),
        (plain, "sod's hermes template, as the tokenizer's own does not do (it does not show the tools to the model)"),
    ):
        assert (Chat(own).template, Chat(own).why) == (hermes_template(), why)
    for own, wanted in ((tools, "auto"), (several, "auto"), (several, "tokenizer")):
        chat = Chat(own, [SCHEMA], wanted)
        assert chat.template is None
        assert chat.own_template
        assert chat.why == "the tokenizer's own template, as it shows the tools and its calls are read as hermes"
    assert Chat(plain, template="tokenizer").own_template, "without tools there are none to hide"
    assert Chat(tools, template="hermes").template == hermes_template()
    with pytest.raises(SodError, match=r"no chat template; use chat\.template=hermes"):
        Chat(bare, template="tokenizer")


def test_a_dialect_that_is_named(tokenizer: Any) -> None:
    """Only that one is tried, with the tokenizer's own template alone."""
    own = with_template(tokenizer, QWEN3_LIKE)
    assert Chat(own, [SCHEMA], dialect="hermes").own_template
    with pytest.raises(SodError, match=r"chat\.dialect: no dialect is called 'nosuch'; there are auto, .*hermes"):
        Chat(own, [SCHEMA], dialect="nosuch")
    with pytest.raises(SodError, match=r"it does not show the tools to the model; use chat\.template=hermes$"):
        Chat(with_template(tokenizer, BARE), [SCHEMA], dialect="hermes")


def test_auto_renders_with_the_template_it_chose(tokenizer: Any) -> None:
    messages = [Message("user", "7")]
    own = Chat(with_template(tokenizer, QWEN3_LIKE), [SCHEMA])
    assert "# Tools" in tokenizer.decode(own.prompt_ids(messages))
    ours = Chat(with_template(tokenizer, BARE), [SCHEMA])
    assert "Call a tool with <tool_call>" in tokenizer.decode(ours.prompt_ids(messages))


def test_auto_does_not_keep_a_template_whose_calls_we_cannot_read(tokenizer: Any) -> None:
    """Its calls are in words: every call would be taken for an answer."""
    words = PLAIN.replace("<tool_call>", "I would run ").replace("</tool_call>", " now")
    chat = Chat(with_template(tokenizer, words), [SCHEMA])
    assert "the tokenizer's own does not do (no known dialect reads the calls that it writes)" in chat.why
    call = ToolCall("python", {"code": "1"})
    text = chat.conversation_text([Message("user", "7"), Message("assistant", "", (call,)), Message("tool", "1")])
    assert read(text.partition("<|im_start|>user")[2]).calls == (call,)


@pytest.mark.parametrize("empty", ["''", "none"])
def test_a_template_may_want_arguments_as_text(tokenizer: Any, empty: str) -> None:
    """DeepSeek's adds them to a string, which with a mapping is Python's own TypeError, not one of Jinja's; and it
    tells a call by a content of none.
    """
    calls = """{%- for c in m.tool_calls or [] -%}{{ '<tool_call>{"name": "' + c.function.name + '", "arguments": ' """
    calls += "+ c.function.arguments + '}</tool_call>' }}{%- endfor -%}"
    own = (
        PLAIN.replace("m.content }}", f"(m.content if m.content is not {empty} else '') }}}}")
        if empty == "none"
        else PLAIN
    )
    own = own[: own.index("{%- for c in")] + calls + own[own.index("{{ '<|im_end|>") :]
    chat = Chat(with_template(tokenizer, own), [SCHEMA], "tokenizer")
    call = ToolCall("python", {"code": "é"})
    messages = [PROMPT, Message("assistant", "", (call,)), Message("tool", "1"), Message("assistant", "7")]
    ids, _ = chat.encode_conversation(messages)
    rendered = chat.conversation_text(messages)
    assert read(rendered.partition("<|im_start|>assistant")[2]).calls == (call,)
    assert (
        tokenizer.decode(ids).replace("<tool_call>\n", "<tool_call>").replace("\n</tool", "</tool") == rendered.rstrip()
    )


def test_hermes_rendering(chat: Chat) -> None:
    """Golden text of our own template: system, tools, text before a call, two calls, two results."""
    calls = (ToolCall("python", {"code": 'print("é")'}), ToolCall("python", {}))
    messages = [
        Message("system", "S"),
        Message("user", "U"),
        Message("assistant", "A", calls),
        Message("tool", "1", name="python"),
        Message("tool", "2", name="python"),
        Message("assistant", "B"),
    ]
    head, _, rest = chat.conversation_text(messages).partition("<|im_start|>user\nU")
    assert head.startswith('<|im_start|>system\nS\n\nTools:\n{"type": "function", "function": {"name": "python"')
    assert head.endswith("</tool_call><|im_end|>\n")
    assert rest == (
        "<|im_end|>\n<|im_start|>assistant\nA"
        '\n<tool_call>\n{"name": "python", "arguments": {"code": "print(\\"é\\")"}}\n</tool_call>'
        '\n<tool_call>\n{"name": "python", "arguments": {}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nB<|im_end|>\n"
    )


def test_hermes_without_tools_or_system(tokenizer: Any) -> None:
    chat = Chat(tokenizer, template="hermes")
    assert tokenizer.decode(chat.prompt_ids([Message("user", "U")])) == (
        "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )


def test_sft_ledger_is_the_templates_own_rendering(chat: Chat, conversations: list[Conversation]) -> None:
    """As text for every expert trace; only the newline after the last turn is never sampled."""
    for conversation in conversations:
        ids, turns = chat.encode_conversation(conversation.messages)
        assert chat.tokenizer.decode(ids) + "\n" == chat.conversation_text(conversation.messages)
        assert len(ids) == len(turns)


def test_sft_ledger_is_the_encoding_of_the_templates_own_rendering(conversations: list[Conversation]) -> None:
    """As token ids too, with a tokenizer of bytes (one that merges over the border of a turn would differ there)."""
    chat = Chat(train_tokenizer([], 300), [SCHEMA], template="hermes")
    for conversation in conversations:
        ids, _ = chat.encode_conversation(conversation.messages)
        whole = chat.tokenizer.encode(chat.conversation_text(conversation.messages), add_special_tokens=False)
        assert ids + chat.tokenizer.encode("\n", add_special_tokens=False) == whole


def test_sft_turn_ids_mark_what_the_assistant_says(chat: Chat) -> None:
    """Turn k's tokens decode to its text and the end token; trailing messages are left out."""
    call = ToolCall("python", {"code": "print(1)"})
    messages = [
        Message("user", "7"),
        Message("assistant", "so", (call,)),
        Message("tool", "1"),
        Message("assistant", "1"),
    ]
    ids, turns = chat.encode_conversation([*messages, Message("tool", "unread")])
    assert (ids, turns) == chat.encode_conversation(messages)
    said = [chat.tokenizer.decode([i for i, k in zip(ids, turns, strict=True) if k == turn]) for turn in (1, 2)]
    first = 'so\n<tool_call>\n{"name": "python", "arguments": {"code": "print(1)"}}\n</tool_call><|im_end|>'
    assert said == [first, "1<|im_end|>"]
    assert turns[-1] == 2
    assert max(turns[: len(chat.prompt_ids(messages[:1]))]) == 0


@pytest.mark.parametrize(
    ("roles", "match"),
    [
        (["user"], "no assistant message"),
        (["assistant", "user", "assistant"], "message 0: an assistant message before any user message"),
        (["system", "assistant"], "message 1: an assistant message before any user message"),
        (["user", "assistant", "assistant"], "message 2: role 'assistant' directly after an assistant turn; join"),
    ],
)
def test_conversations_without_a_ledger_are_refused(chat: Chat, roles: list[Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        chat.encode_conversation([Message(role, "7") for role in roles])


CALLED = Message("assistant", "", (ToolCall("python", {"code": "1"}),))
SEVERAL_TURNS = {
    "a second question": [PROMPT, Message("assistant", "A"), Message("user", " B "), Message("assistant", "C")],
    "a question after a result": [
        PROMPT,
        CALLED,
        Message("tool", "1"),
        Message("user", "B"),
        Message("assistant", "C"),
    ],
    "a call without a result": [PROMPT, CALLED, Message("user", "B"), Message("assistant", "C")],
    "two questions": [PROMPT, Message("assistant", "A"), Message("user", "B"), Message("user", "C"), CALLED],
    "system in the middle": [
        PROMPT,
        Message("assistant", "A"),
        Message("system", "S"),
        PROMPT,
        Message("assistant", "C"),
    ],
}


@pytest.mark.parametrize("own", [None, PLAIN, QWEN3_LIKE])
@pytest.mark.parametrize("kind", SEVERAL_TURNS)
def test_several_turns_are_rendered_as_the_template_would(tokenizer: Any, kind: str, own: str | None) -> None:
    """The ledger's text is the template's, empty thoughts and line breaks around a call apart; turns are counted."""
    chat = Chat(with_template(tokenizer, own), [SCHEMA])
    messages = SEVERAL_TURNS[kind]
    ids, turns = chat.encode_conversation(messages)
    rendered = chat.conversation_text(messages).replace("<think>\n\n</think>\n\n", "")
    ledger = tokenizer.decode(ids)
    if own == PLAIN:
        ledger = ledger.replace("<tool_call>\n", "<tool_call>").replace("\n</tool_call>", "</tool_call>")
    assert ledger == rendered.removesuffix("\n")
    assert max(turns) == sum(message.role == "assistant" for message in messages)


NO_SECOND_QUESTION = (
    "{%- for m in messages -%}{%- if m.role == 'user' and not loop.first -%}"
    "{{ raise_exception('one question only') }}{%- endif -%}{%- endfor -%}" + PLAIN
)
MOVES = PLAIN.replace(
    "{{ '<|im_start|>' + m.role",
    "{%- set last = (messages | selectattr('role', 'equalto', 'user') | list)[-1] -%}"
    "{{ ('(last)' if m == last else '') + '<|im_start|>' + m.role",
    1,
)


@pytest.mark.parametrize(
    ("own", "reason"),
    [(NO_SECOND_QUESTION, "one question only"), (MOVES, "the prompt changes once the assistant has answered")],
)
def test_a_question_that_the_template_cannot_append_is_refused_by_row(tokenizer: Any, own: str, reason: str) -> None:
    """With the reason; rows with one question are trained on."""
    chat = Chat(with_template(tokenizer, own), [SCHEMA], "tokenizer")
    with pytest.raises(ValueError, match=f"a user message cannot be appended after a turn: {reason}"):
        chat.encode_conversation(SEVERAL_TURNS["a second question"])
    chat.encode_conversation(SEVERAL_TURNS["a second question"][:2])


def test_reasoning_is_written_as_a_thought(chat: Chat) -> None:
    """And read back, also where the content has white space of its own in front; it is no part of the answer."""
    said = Message("assistant", "7", CALLED.tool_calls, reasoning="hm </tool_call>")
    ids, turns = chat.encode_conversation([PROMPT, said])
    own = [token for token, turn in zip(ids, turns, strict=True) if turn]
    assert chat.tokenizer.decode(own).startswith("<think>\nhm </tool_call>\n</think>\n\n7\n<tool_call>")
    read_back = chat.parse(own)
    assert (read_back.thinking.strip(), read_back.answer.strip()) == ("hm </tool_call>", "7")
    assert read_back.calls == CALLED.tool_calls


def test_a_call_that_would_not_be_read_back_is_refused(chat: Chat) -> None:
    """A thought that is never closed would swallow it."""
    with pytest.raises(ValueError, match="calls would not be read back in the hermes dialect"):
        chat.encode_conversation([PROMPT, Message("assistant", "<think>so", CALLED.tool_calls)])


def test_tools_of_a_conversation_stand_in_for_the_chats_own(chat: Chat) -> None:
    other = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}
    messages = SEVERAL_TURNS["a question after a result"]
    shown, default = (chat.tokenizer.decode(chat.encode_conversation(messages, tools)[0]) for tools in ([other], None))
    assert shown == default.replace(json.dumps(SCHEMA, ensure_ascii=False), json.dumps(other))
    assert shown != default


STRICT = (
    "{%- for m in messages -%}{%- if m.role not in ('user', 'assistant', 'tool') -%}{{ raise_exception('role') }}"
    "{%- elif m.role == 'user' and not loop.first and messages[loop.index0 - 1].role == 'user' -%}"
    "{{ raise_exception('two in a row') }}{%- endif -%}{%- endfor -%}" + PLAIN
)


def test_roles_that_a_template_refuses_are_joined(tokenizer: Any) -> None:
    """A system message goes in front of the user's (Gemma), two user messages become one (Mistral)."""
    chat = Chat(with_template(tokenizer, STRICT), [SCHEMA], "tokenizer")
    prompt = tokenizer.decode(chat.prompt_ids([Message("system", "S"), Message("user", "U"), Message("user", "V")]))
    assert prompt.endswith("]<|im_start|>user\nS\n\nU\n\nV<|im_end|>\n<|im_start|>assistant\n")
    plain = Chat(with_template(tokenizer, PLAIN), [SCHEMA], "tokenizer")
    prompt = tokenizer.decode(plain.prompt_ids([Message("system", "S"), Message("user", "U"), Message("user", "V")]))
    assert prompt.endswith(
        "]<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n"
    )


def without_chatml(
    tokenizer: Any, template: str | None, eos: str | None = "<|endoftext|>", bos: str | None = None
) -> Any:
    """A tokenizer with other marks than ChatML's."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in backend["added_tokens"]:
        token["content"] = token["content"].replace("<|im_start|>", "<|turn|>").replace("<|im_end|>", "<|stop|>")
    backend["model"]["vocab"] = {
        token.replace("<|im_start|>", "<|turn|>").replace("<|im_end|>", "<|stop|>"): id
        for token, id in backend["model"]["vocab"].items()
    }
    own = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)), eos_token=eos, bos_token=bos
    )
    own.chat_template = template
    return own


OTHER_MARKS = BARE.replace("<|im_start|>", "<|turn|>").replace("<|im_end|>", "<|stop|>")


@pytest.mark.parametrize(
    ("template", "start", "end"),
    [(None, "<|im_start|>", "<|endoftext|>"), (OTHER_MARKS, "<|turn|>", "<|stop|>")],
)
def test_our_template_goes_with_the_tokenizers_own_tokens(
    tokenizer: Any, template: str | None, start: str, end: str
) -> None:
    """Where ChatML's are missing: those of its own template, else its EOS; so the advice to use it works."""
    own = without_chatml(tokenizer, template)
    with pytest.raises(SodError, match=r"use chat\.template=hermes$"):
        Chat(own, [SCHEMA], "tokenizer")
    chat = Chat(own, [SCHEMA], "hermes")
    assert chat.end_text == end
    assert f"in turns that end with {end}" in chat.why
    assert own.decode(chat.prompt_ids([PROMPT])).endswith(f"{start}user\n7{end}\n{start}assistant\n")
    ids, turns = chat.encode_conversation([PROMPT, CALLED, Message("tool", end), Message("assistant", "7")])
    last = [max(at for at, turn in enumerate(turns) if turn == k) for k in (1, 2)]
    assert [ids[at] for at in last] == [chat.end_id] * 2
    own.chat_template = chat.template
    assert Chat(own, [SCHEMA]).template == chat.template, "a saved one is known again"


def test_auto_tells_of_tools_in_a_template_that_knows_none(tokenizer: Any) -> None:
    """Where the tokenizer lacks ChatML's tokens: in the turns that the model knows. A saved one is read again."""
    own = without_chatml(tokenizer, OTHER_MARKS)
    for _ in range(2):
        chat = Chat(own, [SCHEMA])
        messages = [PROMPT, CALLED, Message("tool", "<|stop|>"), Message("assistant", "7")]
        ids, _ = chat.encode_conversation(messages)
        text = own.decode(ids)
        assert text.startswith("<|turn|>user\nFunctions that can be called:\n")
        assert '"name": "python"' in text
        assert text + "\n" == chat.conversation_text(messages)
        assert ids.count(chat.end_id) == 4
        assert chat.dialect.name == "gemma3"
        own.chat_template = chat.template or own.chat_template
    assert chat.own_template
    assert "told" in Chat(without_chatml(tokenizer, OTHER_MARKS), [SCHEMA], "told").why


def test_a_tokenizer_without_any_end_is_refused(tokenizer: Any) -> None:
    """With what to set, after which it works."""
    own = without_chatml(tokenizer, None, eos=None)
    with pytest.raises(SodError, match=r"neither <\|im_end\|> nor an EOS; set eos_token in its tokenizer_config\.json"):
        Chat(own, [SCHEMA])
    own.eos_token = "<|endoftext|>"
    assert Chat(own, [SCHEMA]).end_text == "<|endoftext|>"


def test_bos_stands_once_at_the_front(tokenizer: Any) -> None:
    """Of a tokenizer that puts it before every text: of our template and of one that writes it itself."""
    own = without_chatml(tokenizer, None, bos="<|turn|>")
    bos = own.bos_token_id
    own.backend_tokenizer.post_processor = TemplateProcessing(single="<|turn|> $A", special_tokens=[("<|turn|>", bos)])
    assert own.encode("7")[0] == bos
    messages = [PROMPT, CALLED, Message("tool", "7"), Message("assistant", "7")]
    for template in (None, "{{ bos_token }}" + PLAIN.replace("<|im_start|>", "#").replace("<|im_end|>", "<|stop|>")):
        own.chat_template = template
        ids, _ = Chat(own, [SCHEMA]).encode_conversation(messages)
        assert [at for at, token in enumerate(ids) if token == bos] == [0]


def test_decoding_a_turn_never_tidies_its_text(tokenizer: Any) -> None:
    """Code is what was sampled: a tokenizer that cleans up spaces by default must not change it."""
    own = copy.deepcopy(tokenizer)
    own.clean_up_tokenization_spaces = True
    text = "print( 'a' , b . c ) ; do n't"
    assert Chat(own, template="hermes").decode_turn(own.encode(text, add_special_tokens=False)) == text


def test_tools_of_a_prompt_stand_in_for_the_chats_own(chat: Chat) -> None:
    """Another tool, or none; by default what the chat was made with."""
    messages = [Message("user", "U")]
    other = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}
    default, none, shown = (chat.tokenizer.decode(chat.prompt_ids(messages, t)) for t in (None, [], [other]))
    assert '"name": "python"' in default
    assert none == "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    assert shown == default.replace(json.dumps(SCHEMA, ensure_ascii=False), json.dumps(other))
    assert '"name": "python"' not in shown


def test_no_assistant_message_can_be_appended(chat: Chat) -> None:
    with pytest.raises(ValueError, match="an assistant message cannot be appended"):
        chat.suffix_ids([Message("tool", "1"), Message("assistant", "2")])
