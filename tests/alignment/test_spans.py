"""The smallest jointly aligned spans, beside a plain search for connected components."""

from __future__ import annotations

import random
import time
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import family

from sod.alignment.pieces import pieces_of
from sod.alignment.spans import Ranges, Spans, aligned_spans, spans_within

Rows = list[tuple[int, int, int, int]]


def components(student: list[int], teacher: list[int]) -> Rows:
    """Connected components of "these two tokens share a byte", grown one token at a time."""
    owners: list[set[tuple[str, int]]] = [set() for _ in range(sum(student))]
    for side, lengths in (("s", student), ("t", teacher)):
        for token, (length, end) in enumerate(zip(lengths, accumulate(lengths), strict=True)):
            for byte in range(end - length, end):
                owners[byte].add((side, token))
    groups: list[set[tuple[str, int]]] = []
    for owner in owners:
        touched = [group for group in groups if group & owner]
        groups = [group for group in groups if not group & owner] + [owner.union(*touched)]
    rows = []
    for group in groups:
        own, theirs = sorted(t for side, t in group if side == "s"), sorted(t for side, t in group if side == "t")
        rows.append((own[0], own[-1] + 1, theirs[0], theirs[-1] + 1))
    return sorted(rows)


def rows(spans: Spans) -> Rows:
    columns = (spans.student_start, spans.student_stop, spans.teacher_start, spans.teacher_stop)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def numbers(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_units_are_the_connected_components_of_1000_random_strings() -> None:
    """Tokenized by two families each, so partial characters, merged white space and split digits are among them."""
    rng, letters = random.Random(0), "ab 12\n\t.caf\u00e9 \u4eca\u65e5 print return number \U0001f642"
    pieces = {name: pieces_of(family(name)) for name in ("prose", "code", "digits", "pieces")}
    long = 0
    for _ in range(1000):
        text = "".join(rng.choices(letters, k=rng.randrange(1, 30))) + rng.choice(["", " print 1234", " the number"])
        one, other = rng.sample(sorted(pieces), 2)
        own, theirs = (family(name).encode(text, add_special_tokens=False) for name in (one, other))
        lengths = pieces[one].length[own], pieces[other].length[theirs]
        expected = components(lengths[0].tolist(), lengths[1].tolist())
        assert rows(aligned_spans(*lengths)) == expected, (text, one, other)
        long += sum(stop - start > 1 or last - first > 1 for start, stop, first, last in expected)
    assert long > 1000


@settings(max_examples=40, deadline=None)
@given(st.data(), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_units_of_any_two_cuts_of_any_text(data: st.DataObject, text: str) -> None:
    size = len(text.encode())
    cuts = st.sets(st.integers(1, size - 1)) if size > 1 else st.just(set())
    own, theirs = (np.diff([0, *sorted(data.draw(cuts)), size]) for _ in range(2))
    spans = aligned_spans(own, theirs)
    assert rows(spans) == components(own.tolist(), theirs.tolist())
    assert rows(aligned_spans(own, own)) == [(n, n + 1, n, n + 1) for n in range(len(own))]


def test_one_to_one_positions_are_spans_of_one_token_each() -> None:
    spans = aligned_spans(numbers(1, 2, 3, 1), numbers(1, 1, 1, 3, 1))
    assert rows(spans) == [(0, 1, 0, 1), (1, 2, 1, 3), (2, 3, 3, 4), (3, 4, 4, 5)]
    assert spans.one_to_one.tolist() == [True, False, True, True]
    assert rows(spans.kept(spans.one_to_one).moved(10, 20)) == [(10, 11, 20, 21), (12, 13, 23, 24), (13, 14, 24, 25)]


def test_a_token_without_bytes_is_in_no_span_at_its_edge() -> None:
    assert rows(aligned_spans(numbers(0, 2, 0, 0, 3, 0), numbers(2, 0, 3))) == [(1, 2, 0, 1), (4, 5, 2, 3)]
    assert rows(aligned_spans(numbers(1, 0, 1), numbers(2))) == [(0, 3, 0, 1)]
    assert rows(aligned_spans(numbers(), numbers())) == []
    assert rows(aligned_spans(numbers(0), numbers(0, 0))) == []


def test_tokens_that_straddle_a_range_are_in_no_span() -> None:
    """Bytes 2 to 6 of the student's are 1 to 5 of the teacher's; its last token goes on behind them."""
    ranges = Ranges(numbers(2), numbers(1), numbers(4))
    assert rows(spans_within(numbers(2, 2, 2, 2), numbers(1, 2, 3), ranges)) == [(1, 2, 1, 2)]
    assert rows(spans_within(numbers(3, 3), numbers(1, 4, 1), ranges)) == []


def test_a_span_does_not_reach_from_one_range_into_the_next() -> None:
    """The student writes a byte between the two that the teacher has not."""
    ranges = Ranges(numbers(0, 3), numbers(0, 2), numbers(2, 2))
    assert rows(spans_within(numbers(2, 1, 2), numbers(2, 2), ranges)) == [(0, 1, 0, 1), (2, 3, 1, 2)]
    assert rows(spans_within(numbers(1, 3, 1), numbers(1, 2, 1), ranges)) == [(0, 1, 0, 1), (2, 3, 2, 3)]


def test_other_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="different texts: 3 and 4 bytes"):
        aligned_spans(numbers(1, 2), numbers(4))


@pytest.mark.slow
def test_300_000_tokens_a_second_on_one_core() -> None:
    """By a factor of ten on an idle core, so that a busy one passes, too."""
    rng = np.random.default_rng(0)
    own = rng.integers(1, 9, 300_000)
    cuts = np.unique(np.concatenate([np.cumsum(own)[::2], rng.integers(1, own.sum(), 100_000), [own.sum()]]))
    theirs = np.diff(np.concatenate([[0], cuts]))
    started = time.process_time()
    spans = aligned_spans(own, theirs)
    assert time.process_time() - started < 1.0
    assert len(spans) > 100_000
