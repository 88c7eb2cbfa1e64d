"""No text becomes an added token: small tokenizers of the kinds there are, any text, every place a text can stand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sod.chat.content import ContentEncoder
from sod.chat.dialects.base import Piece
from sod.chat.render import Chat
from sod.records import Message, SodError, Task, ToolCall
from sod.tasks.privileged import privileged_prompt
from sod.tools.python import SCHEMA

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PLAIN = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>", "<h1>", "<h1>x"]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


# For a tokenizer that puts a space before a text: the turn begins right behind a token.
GLUED = (
    "{% if tools %}{{ '<|im_start|>' + (tools | tojson) }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + ('' if m.role == 'assistant' else m.role + ' ') + m.content }}"
    "{% for call in m.tool_calls or [] %}{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
)


def finished(backend: Tokenizer, extra: Sequence[AddedToken] = ()) -> Any:
    """The tokenizer with the marks of a chat and `extra` as added tokens."""
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    backend.add_tokens([AddedToken(text, normalized=False) for text in PLAIN])
    backend.add_tokens(list(extra))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def merged(vocab: dict[str, int], words: Sequence[str]) -> list[tuple[str, str]]:
    """Merges, added to `vocab` too, that build each of `words` letter by letter."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        for end in range(1, len(word)):
            vocab.setdefault(word[: end + 1], len(vocab))
            merges[word[:end], word[end]] = None
    return list(merges)


def byte_level(normalizer: Any = None, extra: Sequence[AddedToken] = ()) -> Any:
    """Bytes, a few words, and digits that stand alone, like Qwen's."""
    vocab = {letter: n for n, letter in enumerate(BYTES)}
    merges = merged(vocab, ["<|", "im", "end", "|>", "Ġthe", "tool", "print"])
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    if normalizer is not None:
        backend.normalizer = normalizer
    isolated = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [isolated, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return finished(backend, extra)


def sentencepiece(extra: Sequence[AddedToken] = (), prefix: bool = False) -> Any:
    """Like Gemma's: added tokens lie in the vocabulary, here with merges that build them; bytes for the rest."""
    letters = [chr(n) for n in range(33, 127)] + ["▁", "\n"]
    vocab = {"<unk>": 0} | {f"<0x{n:02X}>": n + 1 for n in range(256)}
    for letter in letters:
        vocab[letter] = len(vocab)
    merges = merged(vocab, [*SPECIAL, *PLAIN, "▁the", "▁▁", "\n\n", "[a]"])
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    spaces = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return finished(backend, extra)


def unigram() -> Any:
    """Its search takes any piece of the vocabulary, control tokens like `</s>` too, and has an unknown token."""
    letters = [chr(n) for n in range(33, 127)] + ["▁", "\n"]
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((text, 0.0) for text in SPECIAL + PLAIN), ("▁the", -2.0)]
    backend = Tokenizer(models.Unigram([*pieces, *((letter, -3.0) for letter in letters)], 0))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    made = finished(backend, [AddedToken("</s>", special=True), AddedToken("<unk>", special=True)])
    made.unk_token = "<unk>"
    return made


def flagged() -> list[AddedToken]:
    """Tokens with every flag, one letter long, inside one another, with a line break, with what JSON escapes."""
    return [
        AddedToken("<l>", lstrip=True),
        AddedToken("<r>", rstrip=True),
        AddedToken("word", single_word=True, normalized=True),
        AddedToken("wordy", normalized=False),
        AddedToken("<Loud>", normalized=True),
        AddedToken("→", normalized=False),
        AddedToken("\n\nHuman:", normalized=False),
        AddedToken('<q "a\\b">', normalized=False),
    ]


KINDS: dict[str, Callable[[], Any]] = {
    "bytes": byte_level,
    "bytes, NFC": lambda: byte_level(normalizers.NFC()),
    "bytes, flags": lambda: byte_level(None, flagged()),
    "bytes, lower case": lambda: byte_level(normalizers.Lowercase(), flagged()),
    "pieces": lambda: sentencepiece([AddedToken(t, normalized=False) for t in ("\n", "\n\n", "▁▁", "[a]")]),
    "pieces, prefix": lambda: sentencepiece(prefix=True),
    "unigram": unigram,
}
WRITES_ALL = ("bytes", "bytes, flags", "pieces")
"""Kinds whose normalizer keeps every character, so that what is encoded can be read back."""


@cache
def chat_of(kind: str) -> Chat:
    made = KINDS[kind]()
    if "prefix" in kind:
        made.chat_template = GLUED
        return Chat(made, [SCHEMA], template="tokenizer")
    return Chat(made, [SCHEMA], template="hermes")


@cache
def control_of(kind: str) -> dict[int, str]:
    """The added tokens, white space apart."""
    added = {id: str(token.content) for id, token in chat_of(kind).tokenizer.added_tokens_decoder.items()}
    unknown = chat_of(kind).tokenizer.unk_token_id
    return {id: t for id, t in added.items() if id != unknown and t.replace("▁", " ").strip()}


def control(kind: str, ids: Sequence[int]) -> list[str]:
    return [control_of(kind)[id] for id in ids if id in control_of(kind)]


@cache
def added_texts(kind: str) -> list[str]:
    return [str(token.content) for token in chat_of(kind).tokenizer.added_tokens_decoder.values()]


def places(text: str) -> dict[str, Callable[[Chat], Sequence[int]]]:
    """Everywhere that a text of others comes in."""
    user = Message("user", "7")
    tool = {"type": "function", "function": {"name": text, "description": text, "parameters": {text: [text]}}}
    call = ToolCall("python", {"code": text, text: [text, {"a": text}]})
    told = Task("t", (user,), text, extra={"hint": f"say {text}"})
    return {
        "user": lambda chat: chat.prompt_ids([Message("user", text)]),
        "system": lambda chat: chat.prompt_ids([Message("system", text), user]),
        "both": lambda chat: chat.prompt_ids([Message("system", text), Message("user", text)], []),
        "schema": lambda chat: chat.prompt_ids([user], [tool]),
        "earlier call": lambda chat: chat.prompt_ids([user, Message("assistant", "", (call,)), Message("tool", text)]),
        "truth": lambda chat: chat.prompt_ids(privileged_prompt(told, "ground_truth") if text.strip() else [user]),
        "hint": lambda chat: chat.prompt_ids(privileged_prompt(told, "hint")),
        "results": lambda chat: chat.suffix_ids([Message("tool", text), Message("tool", text)]),
        "sft call": lambda chat: chat.encode_conversation([user, Message("assistant", "", (call,))])[0],
    }


@cache
def frame_of(kind: str) -> dict[str, list[str]]:
    """The added tokens of each place around the text "7"."""
    return {place: control(kind, encoded(chat_of(kind))) for place, encoded in places("7").items()}


def check_places(kind: str, text: str) -> None:
    """Whatever the text, the added tokens are those around the text "7"."""
    for place, encoded in places(text).items():
        assert control(kind, encoded(chat_of(kind))) == frame_of(kind)[place], (kind, place, text)


def check_answer(kind: str, text: str) -> None:
    """Of what an assistant says only what the dialect reads as a mark is one."""
    chat = chat_of(kind)
    call = ToolCall("python", {"code": text})
    said = Message("assistant", text, (call,))
    if call not in chat.dialect.dialect.read(chat.assistant_text(said), False, True).calls:
        with pytest.raises(ValueError, match="calls would not be read back"):  # the text opens a thought around it
            chat.encode_conversation([Message("user", "7"), said])
        said = Message("assistant", text)
    ids, turns = chat.encode_conversation([Message("user", "7"), said])
    marks = [piece.text for piece in chat.dialect.pieces(chat.assistant_text(said)) if piece.frame]
    sampled = [id for id, turn in zip(ids, turns, strict=True) if turn]
    assert control(kind, sampled) == [*marks, "<|im_end|>"], (kind, text)


@pytest.mark.parametrize("kind", KINDS)
def test_no_added_token_comes_of_its_own_text(kind: str) -> None:
    """Each by itself, in a sentence, twice, and in another's halves."""
    for text in added_texts(kind):
        check_places(kind, f"{text}, a {text}{text}.")
        check_answer(kind, f"{text}, a {text}{text}.")
    for text in ("<|im_end|>", "</tool_response>"):
        check_places(kind, text)
        check_places(kind, text[:4] + text + text[4:])


def texts(kind: str) -> st.SearchStrategy[str]:
    """Texts made of added tokens, their halves, the marks of stand-ins and anything."""
    whole = st.sampled_from(added_texts(kind))
    halves = st.builds(lambda text, at: (text[:at], text[at:])[at % 2], whole, st.integers(1, 6))
    others = st.sampled_from([" ", "\n", "\n\n", "sod0x0x", "Sod0x", "o\u0338", "é", "<", ">", "▁", '"', "\\n"])
    return st.lists(st.one_of(whole, halves, others, st.text(max_size=3)), max_size=6).map("".join).filter(bool)


def check_any_text(kind: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(texts(kind))
    def check(text: str) -> None:
        check_places(kind, text)
        check_answer(kind, text)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_no_added_token_comes_of_any_text(kind: str) -> None:
    """In any place, whatever it touches there."""
    check_any_text(kind, 5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_added_token_comes_of_very_many_texts(kind: str) -> None:
    """The same, with more examples."""
    check_any_text(kind, 80)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_that_meet_make_no_added_token(kind: str) -> None:
    """An added token cut anywhere, its halves in frame and content in any order, content in the middle included."""
    encoder = ContentEncoder(chat_of(kind).tokenizer)
    for text in control_of(kind).values():
        for at in range(1, len(text)):
            start, end = text[:at], text[at:]
            for pieces in (
                [Piece(start, True), Piece(end, False)],
                [Piece(start, False), Piece(end, True)],
                [Piece(start, False), Piece(end, False)],
                [Piece("a", True), Piece(start, False), Piece(end[:1], True), Piece(end[1:], False), Piece("b", True)],
            ):
                frame = [id for piece in pieces if piece.frame for id in encoder.encode([piece])]
                assert control(kind, encoder.encode(pieces)) == control(kind, frame), (kind, pieces)


@pytest.mark.parametrize("kind", WRITES_ALL)
def test_what_was_encoded_reads_as_it_was_written(kind: str) -> None:
    """No character is lost or added, whatever stands in the text. (`<l>` and `<r>` swallow spaces: not in frames.)"""
    chat = chat_of(kind)

    @settings(max_examples=10, deadline=None)
    @given(texts(kind).filter(lambda text: "▁" not in text))
    def check(text: str) -> None:
        user = "<|im_start|>user\n" + text + "<|im_end|>\n<|im_start|>assistant\n"
        assert chat.tokenizer.decode(chat.prompt_ids([Message("user", text)], [])) == user
        result = f"\n<|im_start|>user\n<tool_response>\n{text}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
        assert chat.tokenizer.decode(list(chat.suffix_ids([Message("tool", text)]))) == result

    check()


def harmless(kind: str) -> st.SearchStrategy[str]:
    """Texts in which no added token occurs, also not in another case or with the line breaks around a content."""
    lower = [text.lower() for text in added_texts(kind)]
    return texts(kind).filter(lambda text: not any(token in f"\n{text}\n".lower() for token in lower))


@pytest.mark.parametrize("kind", ["bytes", "bytes, NFC", "bytes, lower case", "unigram"])
def test_text_without_an_added_token_keeps_its_ids(kind: str) -> None:
    """Those of the whole rendering, encoded as one text."""
    chat = chat_of(kind)

    @settings(max_examples=10, deadline=None)
    @given(harmless(kind))
    def check(text: str) -> None:
        rows = [{"role": "system", "content": text}, {"role": "user", "content": f"{text} 1 < 2"}]
        whole = chat.tokenizer.apply_chat_template(
            rows, chat_template=chat.template, tools=[SCHEMA], add_generation_prompt=True, tokenize=False
        )
        messages = [Message("system", text), Message("user", f"{text} 1 < 2")]
        assert chat.prompt_ids(messages) == chat.tokenizer.encode(whole, add_special_tokens=False)
        result = f"\n<|im_start|>user\n<tool_response>\n{text}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
        assert list(chat.suffix_ids([Message("tool", text)])) == chat.tokenizer.encode(result, add_special_tokens=False)

    check()


def test_white_space_is_text() -> None:
    """Gemma's tokens for line breaks and spaces come of line breaks and spaces, beside a mark as well."""
    chat = chat_of("pieces")
    tokenizer = chat.tokenizer
    breaks, spaces = (tokenizer.convert_tokens_to_ids(text) for text in ("\n\n", "▁▁"))
    for text in ("a\n\nb  c", "a\n\nb  c<|im_end|>d"):
        ids = chat.suffix_ids([Message("tool", text)])
        assert ids.count(breaks) == ids.count(spaces) == 1, text
    assert control("pieces", chat.suffix_ids([Message("tool", "<|im_end|>")])).count("<|im_end|>") == 1


def test_a_token_is_found_where_the_tokenizer_looks_for_it() -> None:
    """In normalized text those that are found there, as written the others."""
    encoder = ContentEncoder(chat_of("bytes, lower case").tokenizer)
    found = ["<Loud>", "<loud>", "<LOUD>", "<think>", "wordy", "<|im_end|>"]
    assert [text for text in [*found, "<THINK>", "<|IM_END|>", "think"] if encoder.holds_control(text)] == found


def test_content_apart_gets_no_space_before_it() -> None:
    """Though the tokenizer puts one before every text."""
    chat = chat_of("pieces, prefix")
    ids = chat.suffix_ids([Message("tool", "a<|im_end|>b<h1>")])
    assert "tool a<|im_end|>b<h1>" in chat.tokenizer.decode(list(ids))


def test_a_letter_of_the_vocabulary_is_text() -> None:
    """An added token of one byte's letter has the id of that byte, which other characters are spelled with."""
    chat = Chat(byte_level(None, [AddedToken("¤", normalized=False)]), template="hermes")
    for text in ("ä", "ä<think>"):
        assert f"\n{text}\n" in chat.tokenizer.decode(list(chat.suffix_ids([Message("tool", text)])))


def test_white_space_tokens_beyond_the_vocabulary_keep_their_ids() -> None:
    """GPT-NeoX adds runs of spaces to a byte-level vocabulary that has no such token."""
    extra = [AddedToken("  ", normalized=False), AddedToken("    ", normalized=False)]
    chat = Chat(byte_level(None, extra), template="hermes")
    four = chat.tokenizer.convert_tokens_to_ids("    ")
    assert chat.suffix_ids([Message("tool", "if x:    y<think>    z")]).count(four) == 2
    assert "if x:    y<think>    z" in chat.tokenizer.decode(
        list(chat.suffix_ids([Message("tool", "if x:    y<think>    z")]))
    )


def test_what_the_assistant_says() -> None:
    """Its marks are added tokens, the same marks inside a thought, an answer or a call are text."""
    chat, user = chat_of("bytes"), Message("user", "7")
    call = ToolCall("python", {"code": "print('</tool_call><|im_end|>')"})
    said = Message("assistant", "<think>a <|im_start|> b</think>so </tool_response>", (call,))
    ids, turns = chat.encode_conversation([user, said])
    sampled = [id for id, turn in zip(ids, turns, strict=True) if turn]
    assert control("bytes", sampled) == ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>"]
    assert chat.tokenizer.decode(sampled) == chat.assistant_text(said) + "<|im_end|>"
    read = chat.parse(sampled)
    assert read.thinking == "a <|im_start|> b"


def test_ordinary_turns_keep_their_ids() -> None:
    """A thought, an answer and calls are encoded as the one text that they are."""
    chat, user = chat_of("bytes"), Message("user", "7")
    calls = (ToolCall("python", {"code": "print(1 < 2)"}), ToolCall("python", {}))
    said = Message("assistant", "<think>\nthe tool\n</think>\n\nI print", calls)
    ids, turns = chat.encode_conversation([user, said])
    sampled = [id for id, turn in zip(ids, turns, strict=True) if turn]
    assert sampled == [*chat.tokenizer.encode(chat.assistant_text(said), add_special_tokens=False), chat.end_id]
    assert control("bytes", sampled).count("<tool_call>") == 2


JOINING = {
    "names in marks": ("{{ '<' + m.content + '>' }}", "think"),
    "contents that touch": ("{{ m.content + m.content }}", "_end|>...<|im"),
    "what lay between is removed": ("{{ m.content | replace('~', '') }}", "<|im_~end|>"),
    "escapes make it": ("{{ m.content | tojson }}", '<p "a">'),
    "another case": ("{{ m.content | lower }}", "<THINK>"),
    "another case of a mark": ("{{ m.content | upper }}", "<think>"),
}


@pytest.mark.parametrize("why", JOINING)
def test_what_a_template_makes_of_a_content_is_text_too(why: str) -> None:
    """Where it puts together what by itself is none."""
    written, text = JOINING[why]
    own = byte_level(None, [*flagged(), AddedToken('<p \\"a\\">', normalized=False)])
    own.chat_template = (
        "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'user' and m.content != 'probe' %}"
        + written
        + "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
    )
    chat = Chat(own, template="tokenizer")
    ids = chat.prompt_ids([Message("user", text)])
    names = {id: str(token.content) for id, token in own.added_tokens_decoder.items()}
    assert [names[id] for id in ids if id in names] == ["<|im_start|>", "<|im_end|>", "<|im_start|>"]


def test_a_template_neither_reads_nor_drops_marks_in_content() -> None:
    """Qwen3's takes a user's `<tool_response>` for a tool's and cuts a text at `</think>`."""
    own = byte_level()
    own.chat_template = (
        "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.content.startswith('<tool_response>') %}{{ '<|endoftext|>' }}{% endif %}"
        "{{ m.content.split('</think>')[-1] | trim }}{{ '<|im_end|>\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
    )
    chat = Chat(own, template="tokenizer")
    text = "<tool_response>a</think>b\n  c"
    ids = chat.prompt_ids([Message("user", f" \n{text}\n ")])
    assert own.decode(ids) == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def test_a_tools_schema_stays_json() -> None:
    """What was hidden from the template comes back as JSON writes it."""
    chat = chat_of("bytes, flags")
    text = 'say "<think>"\n\tor <|im_end|> \\ →'
    tool = {
        "type": "function",
        "function": {"name": "a", "description": text, "parameters": {"properties": {text: {}}}},
    }
    prompt = chat.tokenizer.decode(chat.prompt_ids([Message("user", "7")], [tool]))
    line = next(line for line in prompt.splitlines() if line.startswith('{"type"'))
    assert json.loads(line) == tool


def test_arguments_of_a_template_hold_no_control_token() -> None:
    with pytest.raises(SodError, match=r"chat\.template_kwargs\.date: 'a<\|im_end\|>' holds .* take it out"):
        Chat(byte_level(), template="hermes", template_kwargs={"thinking": False, "date": "a<|im_end|>"})


def test_a_tokenizer_without_the_library_is_refused() -> None:
    class Slow:
        chat_template = None

    with pytest.raises(SodError, match=r"the tokenizer has no tokenizer\.json"):
        ContentEncoder(Slow())  # type: ignore[arg-type]


def test_many_marks_cost_no_more_than_their_length() -> None:
    """A program may print thousands of them, in a vocabulary that itself would spell each."""
    chat = chat_of("unigram")
    ids = chat.suffix_ids([Message("tool", "</s>" * 20_000)])
    assert control("unigram", ids).count("</s>") == 0
    assert len(ids) > 80_000 - 10
