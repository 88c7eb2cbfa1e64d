"""Results cut by tokens: what is kept is the beginning, no longer than it may be, and the cut says so."""

from __future__ import annotations

from typing import Any

import pytest

from sod.tools.results import cut_to_tokens, text_of


def count(tokenizer: Any, text: str) -> int:
    return len(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("text", ["the sum of 1 and 2 is 3. " * 9, "ä€😀" * 30, "\n\n  \t" * 40])
@pytest.mark.parametrize("limit", [1, 5, 20])
def test_a_long_text_is_cut_to_so_many_tokens(text: str, limit: int, tokenizer: Any) -> None:
    cut = cut_to_tokens(tokenizer, limit)(text)
    head, dots, said = cut.partition("... [cut to ")
    assert dots
    assert said == f"{limit:,} tokens, {len(text):,} characters in all]"
    assert text.startswith(head)
    assert limit - 4 <= count(tokenizer, head) <= limit  # a character of several tokens is kept whole or not at all


def test_a_text_of_just_so_many_tokens_stays_as_it_is(tokenizer: Any) -> None:
    text = "the sum of 1 and 2 is 3."
    assert cut_to_tokens(tokenizer, count(tokenizer, text))(text) == text
    assert cut_to_tokens(tokenizer, count(tokenizer, text) - 1)(text) != text
    assert cut_to_tokens(tokenizer, 1)("") == ""


def test_a_very_long_text_takes_no_longer(tokenizer: Any) -> None:
    """What lies far beyond the cut is not looked at: a million characters are cut as a thousand are."""
    cut = cut_to_tokens(tokenizer, 8)("word " * 2_000_000)
    assert cut.endswith("... [cut to 8 tokens, 10,000,000 characters in all]")
    assert len(cut) < 200


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    assert text_of("a\ud83db") == "a?b"
    assert text_of(["a\ud83db"]) == '["a?b"]'
