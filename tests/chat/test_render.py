"""The append-only renderer: which templates pass its proof, and what they render."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from sod.chat.dialects.hermes import read
from sod.chat.render import Chat, choose_template, hermes_template
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

PLAIN = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
REFUSED = {
    "count in the header": "{{ messages | length }}" + PLAIN,
    "last message in the header": "{{ messages[-1].role }}" + PLAIN,
    "first message vanishes later": PLAIN.replace("in messages", "in messages[-3:]"),
    "tool content dropped": PLAIN.replace("m.content", "('' if m.role == 'tool' else m.content)"),
    "tool content escaped": PLAIN.replace("m.content", "(m.content | tojson if m.role == 'tool' else m.content)"),
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


RESULTS = [Message("tool", "4"), Message("tool", "5", name="python")]


def with_template(tokenizer: Any, template: Any) -> Any:
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    return own


@pytest.mark.parametrize("why", REFUSED)
def test_templates_that_break_the_ledger_are_refused(tokenizer: Any, why: str) -> None:
    """A SodError that speaks of the template, never a wrong ledger and never an error of Jinja's own."""
    with pytest.raises(SodError, match="chat template"):
        Chat(with_template(tokenizer, REFUSED[why]), [SCHEMA], template="tokenizer")


def test_the_template_those_were_made_from_passes(tokenizer: Any) -> None:
    """So each refusal above is due to its one change."""
    chat = Chat(with_template(tokenizer, PLAIN), [SCHEMA], template="tokenizer")
    assert chat.end_text == "<|im_end|>"
    text = tokenizer.decode(list(chat.suffix_ids(RESULTS)))
    assert text == "\n<|im_start|>tool\n4<|im_end|>\n<|im_start|>tool\n5<|im_end|>\n<|im_start|>assistant\n"


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
    """`auto` keeps a template that knows tools; `tokenizer` needs one; `hermes` is always ours."""
    bare = with_template(tokenizer, None)  # saving a model gives its tokenizer a template
    plain, tools = with_template(tokenizer, PLAIN), with_template(tokenizer, QWEN3_LIKE)
    several = with_template(tokenizer, {"default": PLAIN, "tool_use": QWEN3_LIKE})
    ours = (hermes_template(), None)
    assert choose_template(bare, "auto") == choose_template(plain, "auto") == ours
    for own, wanted in ((tools, "auto"), (plain, "tokenizer"), (several, "tokenizer")):
        template, confined = choose_template(own, wanted)
        assert template is None
        assert confined is not None, "a template of others is rendered elsewhere"
    assert choose_template(tools, "hermes") == ours
    with pytest.raises(SodError, match=r"no chat template; use chat\.template=hermes"):
        choose_template(bare, "tokenizer")


def test_auto_renders_with_the_template_it_chose(tokenizer: Any) -> None:
    messages = [Message("user", "7")]
    own = Chat(with_template(tokenizer, QWEN3_LIKE), [SCHEMA])
    assert "# Tools" in tokenizer.decode(own.prompt_ids(messages))
    ours = Chat(with_template(tokenizer, PLAIN), [SCHEMA])
    assert "Call a tool with <tool_call>" in tokenizer.decode(ours.prompt_ids(messages))


def test_auto_does_not_keep_a_template_whose_calls_we_cannot_read(tokenizer: Any) -> None:
    """Llama's template knows tools, but its calls are bare JSON: every call would be taken for an answer."""
    llama_like = PLAIN.replace("m.content", "(m.tool_calls[0].function | tojson if m.tool_calls else m.content)")
    chat = Chat(with_template(tokenizer, "{%- if tools -%}Tools.{%- endif -%}" + llama_like), [SCHEMA])
    call = ToolCall("python", {"code": "1"})
    text = chat.conversation_text([Message("user", "7"), Message("assistant", "", (call,)), Message("tool", "1")])
    assert read(text.partition("<|im_start|>user")[2]).calls == (call,)


def test_auto_does_not_keep_a_template_that_wants_arguments_as_text(tokenizer: Any) -> None:
    """DeepSeek's adds them to a string, which with a mapping is Python's own TypeError, not one of Jinja's."""
    calls = "{%- for c in m.tool_calls or [] -%}{{ '<tool_call>' + c.function.arguments }}{%- endfor -%}"
    own = "{%- if tools -%}Tools.{%- endif -%}" + PLAIN.replace("{%- endfor -%}", calls + "{%- endfor -%}", 1)
    assert choose_template(with_template(tokenizer, own), "auto") == (hermes_template(), None)


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
        (["user", "assistant", "user", "assistant"], "message 2: role 'user' directly after an assistant turn"),
        (["user", "assistant", "assistant"], "message 2: role 'assistant' directly after"),
        (["user", "assistant", "tool", "user"], "message 3: role 'user' where an assistant turn belongs"),
    ],
)
def test_conversations_without_a_ledger_are_refused(chat: Chat, roles: list[Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        chat.encode_conversation([Message(role, "7") for role in roles])


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


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_only_tool_messages_can_be_appended(chat: Chat, role: Any) -> None:
    with pytest.raises(ValueError, match=f"a {role} message cannot be appended"):
        chat.suffix_ids([Message("tool", "1"), Message(role, "2")])
