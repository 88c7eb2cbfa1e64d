"""What stands in for a content comes back as that content, whatever a template or another content does."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.chat.dialects.base import Piece
from sod.chat.hidden import Hidden, texts_in, with_texts

TEXTS = st.lists(st.sampled_from(["s", "0x", "s0123456789abcdefx0x", " ", '"', "\n", "é"])).map("".join)


@settings(max_examples=30, deadline=None)
@given(TEXTS, TEXTS, TEXTS)
def test_a_text_comes_back(before: str, text: str, after: str) -> None:
    """Between others, and twice."""
    hidden = Hidden()
    shown = before + hidden.whole(text) + after + hidden.whole(text)
    expected = (Piece(before, True), Piece(text, False), Piece(after, True), Piece(text, False))
    pieces = hidden.pieces(shown)
    if text:
        assert pieces == [piece for piece in expected if piece.text]
    else:
        assert "".join(piece.text for piece in pieces) == before + after


def test_no_text_passes_for_a_stand_in() -> None:
    """One that was seen says nothing about the next."""
    seen = Hidden().whole("<think>")
    hidden = Hidden()
    assert hidden.pieces(seen + hidden.whole("<|im_end|>")) == [Piece(seen, True), Piece("<|im_end|>", False)]


@settings(max_examples=30, deadline=None)
@given(TEXTS)
def test_white_space_around_a_text_stays_in_sight(text: str) -> None:
    hidden = Hidden()
    shown = hidden.trimmed(f" \n{text}\n\t")
    assert (shown[:2], shown[-2:]) == (" \n", "\n\t")
    assert "".join(piece.text for piece in hidden.pieces(shown)) == f" \n{text}\n\t"
    assert hidden.pieces(hidden.trimmed(text).strip()) == [Piece(core, False) for core in [text.strip()] if core]


@settings(max_examples=30, deadline=None)
@given(TEXTS)
def test_json_writes_the_same_around_it(text: str) -> None:
    """What JSON escapes is left for it to escape."""
    hidden = Hidden()
    written = json.dumps(hidden.words(text))
    assert "".join(piece.text for piece in hidden.pieces(written)) == json.dumps(text, ensure_ascii=False)


@pytest.mark.parametrize("change", [str.upper, str.lower, str.title, str.strip])
def test_a_template_may_change_the_case(change: Callable[[str], str]) -> None:
    hidden = Hidden()
    assert hidden.pieces(change(hidden.whole("<|im_end|>"))) == [Piece("<|im_end|>", False)]


def test_every_text_of_a_json_value() -> None:
    value = {"a": ["b", {"c": 1, "d": None}], "e": True, "f": ("g",)}
    assert list(texts_in(value)) == ["a", "b", "c", "d", "e", "f", "g"]
    assert with_texts(value, str.upper) == {"A": ["B", {"C": 1, "D": None}], "E": True, "F": ["G"]}
