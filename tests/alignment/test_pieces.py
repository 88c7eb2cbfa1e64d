"""The bytes of every token, of both makes of tokenizers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import CONTROLS, NAMES, byte_level, family
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sod.alignment.pieces import pieces_of
from sod.records import SodError

PIECES = {name: pieces_of(family(name)) for name in NAMES}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(text=TEXTS)
def test_the_pieces_of_a_text_are_its_bytes(name: str, text: str) -> None:
    """Of the text as it is after the normalizer, behind the space that SentencePiece puts before it."""
    pieces = PIECES[name]
    ids = family(name).encode(text, add_special_tokens=False)
    if not pieces.control[pieces.known(ids)].any() and text:
        assert pieces.join(ids) == pieces.prefix + pieces.normal(text).encode()


def test_a_part_of_a_character_keeps_its_bytes() -> None:
    """Where decoding single ids gives a replacement character for each."""
    for name in ("prose", "pieces"):
        ids = family(name).encode("\U0001f642", add_special_tokens=False)
        assert [PIECES[name].table[id] for id in ids] == [b"\xf0", b"\x9f", b"\x99", b"\x82"], name
    (first, *_) = family("pieces").encode("\U0001f642", add_special_tokens=False)
    assert PIECES["pieces"].fallback[first]
    assert not PIECES["prose"].fallback.any()


@pytest.mark.parametrize("name", NAMES)
def test_added_tokens_are_control_and_nothing_else_is(name: str) -> None:
    pieces, ids = PIECES[name], family(name).convert_tokens_to_ids(list(CONTROLS))
    assert [pieces.table[id] for id in ids] == [text.encode() for text in CONTROLS]
    own = set(ids) | ({family(name).unk_token_id} if name in ("pieces", "prefixed") else set())
    assert {*np.flatnonzero(pieces.control[:-1]).tolist()} - own == set()
    assert pieces.control[ids].all()


def test_white_space_that_is_an_added_token_is_text() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("\n\n\n", normalized=False)])
    pieces = pieces_of(tokenizer)
    (id,) = tokenizer.encode("\n\n\n", add_special_tokens=False)
    assert (pieces.table[id], bool(pieces.control[id])) == (b"\n\n\n", False)


def test_an_id_the_tokenizer_does_not_have_spells_nothing() -> None:
    """A model's vocabulary is often padded."""
    pieces, (a,) = PIECES["prose"], family("prose").encode("a", add_special_tokens=False)
    assert pieces.join([a, 10**6, a, -1]) == b"aa"
    assert pieces.control[pieces.known([10**6, -1])].all()
    assert pieces.length[pieces.known([10**6])].tolist() == [0]


@pytest.mark.parametrize(
    ("name", "text", "normal"),
    [
        ("digits", "cafe\u0301", "caf\u00e9"),
        ("prose", "cafe\u0301", "cafe\u0301"),
        ("pieces", "a\u2581b", "a b"),
        ("prefixed", "a b", "a b"),
    ],
)
def test_what_becomes_of_a_text(name: str, text: str, normal: str) -> None:
    assert PIECES[name].normal(text) == normal
    assert PIECES[name].prefix == (b" " if name == "prefixed" else b"")


def _tokenizer(model: Any, decoder: Any, pre_tokenizer: Any = None, normalizer: Any = None) -> Any:
    backend = Tokenizer(model)
    if decoder is not None:
        backend.decoder = decoder
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=backend)


LETTERS = {letter: number for number, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}


def test_a_byte_level_decoder_may_have_steps_of_sentence_piece() -> None:
    """As transformers up to 5.17 reads the tokenizer of SmolLM2's GGUF."""
    steps = [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("\u2581", " "), decoders.ByteLevel()]
    plain = _tokenizer(models.BPE(LETTERS, []), decoders.ByteLevel(), pre_tokenizers.ByteLevel(False))
    mixed = _tokenizer(models.BPE(LETTERS, []), decoders.Sequence(steps), pre_tokenizers.ByteLevel(False))
    assert pieces_of(mixed).table == pieces_of(plain).table
    text = "caf\u00e9 \u2581x <0x0A>"
    assert pieces_of(mixed).join(mixed.encode(text)) == text.encode() == mixed.decode(mixed.encode(text)).encode()


@pytest.mark.parametrize(
    ("tokenizer", "reason"),
    [
        (object(), "no tokenizer.json"),
        (_tokenizer(models.WordPiece({"a": 0}), decoders.WordPiece()), "WordPiece"),
        (_tokenizer(models.BPE({"a": 0}, []), None), "none"),
        (_tokenizer(models.BPE({"a": 0}, []), decoders.BPEDecoder()), "BPEDecoder"),
        (_tokenizer(models.BPE({"b": 0}, []), decoders.ByteLevel()), "spell"),
        (
            _tokenizer(
                models.BPE(LETTERS, []), decoders.ByteLevel(), pre_tokenizers.ByteLevel(), normalizers.Prepend("x")
            ),
            "no plain text",
        ),
        (
            _tokenizer(models.BPE(LETTERS, []), decoders.Metaspace(), pre_tokenizers.ByteLevel(False)),
            "do not spell",
        ),
    ],
)
def test_a_tokenizer_whose_bytes_nobody_can_tell_is_refused(tokenizer: Any, reason: str) -> None:
    with pytest.raises(SodError, match=reason) as caught:
        pieces_of(tokenizer)
    assert "\n" not in str(caught.value)
