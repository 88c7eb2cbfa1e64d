"""A matched turn for a person to look at: its text by what became of its tokens, or its tokens beside the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, final

import numpy as np

from sod.alignment.spans import Spans
from sod.alignment.turns import KINDS, Ledger, token_kinds
from sod.build.alignment import Aligned, Tally

Kind = Literal["one", "several", "control", "syntax", "straddling", "unmatched"]
"""As `turns.KINDS`, with what is matched parted: a token with one token, or in a span of several."""
_BY_KIND: Mapping[str, Kind] = {
    "matched": "one",
    "control": "control",
    "syntax": "syntax",
    "straddling": "straddling",
    "unmatched": "unmatched",
}
BETWEEN = "\u2502"  # stands between the tokens of a cell


@final
@dataclass(frozen=True)
class Stretch:
    """Neighbouring tokens of one kind (or of one span of several), as text."""

    kind: Kind
    text: str


@final
@dataclass(frozen=True)
class Pairing:
    """Tokens of the student beside those of the teacher, each as text: `kind` is what became of the student's.

    In the rows of kind `one` they are equal one by one. Where nothing matched, what each of them says there.
    """

    kind: Kind | None
    student: str
    teacher: str


@final
@dataclass(frozen=True)
class ShownTurn:
    """A turn, by its number from 1: its lines, and its tokens in pairs."""

    number: int
    tally: Tally
    lines: Sequence[Sequence[Stretch]]
    pairings: Sequence[Pairing]


def shown_turns(aligned: Aligned) -> list[ShownTurn]:
    """Every turn of a conversation."""
    shown, actions = [], 0
    for number, turn in enumerate(aligned.turns, 1):
        own, theirs = _bounds(aligned.student, number), _bounds(aligned.teacher, number)
        kinds = token_kinds(aligned.student.side(*own), aligned.teacher.side(*theirs))
        spans = turn.spans.moved(-actions, -theirs[0])
        laid = _laid(_tokens(aligned.student, *own), _tokens(aligned.teacher, *theirs), kinds.tolist(), spans)
        shown.append(ShownTurn(number, Tally.of(turn), list(_lines(laid)), list(_pairings(laid))))
        actions += len(kinds)
    return shown


def _bounds(ledger: Ledger, turn: int) -> tuple[int, int]:
    """Where the k-th turn's tokens begin and end."""
    at = np.flatnonzero(np.asarray(ledger.turn_ids) == turn)
    return int(at[0]), int(at[-1]) + 1


def _tokens(ledger: Ledger, start: int, stop: int) -> list[bytes]:
    return [ledger.pieces.table[id] for id in ledger.ids[start:stop].tolist()]


@final
@dataclass(frozen=True)
class _Laid:
    """The tokens of a turn on both sides as bytes, the kind of each of the student's and its span, -1 in none.

    `edges` are the spans in token numbers of the turn: the student's start and stop, and the teacher's.
    """

    student: Sequence[bytes]
    teacher: Sequence[bytes]
    kinds: Sequence[Kind]
    span: Sequence[int]
    edges: Sequence[tuple[int, int, int, int]]


def _laid(own: Sequence[bytes], theirs: Sequence[bytes], kinds: Sequence[int], spans: Spans) -> _Laid:
    columns = (spans.student_start, spans.student_stop, spans.teacher_start, spans.teacher_stop)
    edges = [(int(a), int(b), int(c), int(d)) for a, b, c, d in zip(*columns, strict=True)]
    span = np.full(len(own), -1)
    for at, (start, stop, _, _) in enumerate(edges):
        span[start:stop] = at
    return _Laid(own, theirs, list(_kinds(kinds, span.tolist(), spans.one_to_one.tolist())), span.tolist(), edges)


def _kinds(kinds: Sequence[int], span: Sequence[int], one_to_one: Sequence[bool]) -> Iterator[Kind]:
    for kind, at in zip(kinds, span, strict=True):
        shown = _BY_KIND[KINDS[kind]]
        yield "several" if shown == "one" and not one_to_one[at] else shown


def _lines(laid: _Laid) -> Iterator[list[Stretch]]:
    """The student's text, a new line behind every token that ends in a line break."""
    for line in _cut_at_breaks(laid.student):
        runs = groupby(line, key=lambda at: (laid.kinds[at], laid.span[at] if laid.kinds[at] == "several" else -1))
        yield [Stretch(kind, _text(b"".join(laid.student[at] for at in run))) for (kind, _), run in runs]


def _cut_at_breaks(tokens: Sequence[bytes]) -> Iterator[list[int]]:
    """The numbers of the tokens in lines."""
    line: list[int] = []
    for at, piece in enumerate(tokens):
        line.append(at)
        if piece.endswith(b"\n"):
            yield line
            line = []
    if line:
        yield line


def _pairings(laid: _Laid) -> Iterator[Pairing]:
    """Spans and what lies between them, in order; neighbouring spans of one token on each side in one row."""
    student_at = teacher_at = 0
    single: list[int] = []
    ends = (len(laid.student), len(laid.student), len(laid.teacher), len(laid.teacher))
    for start, stop, teacher_start, teacher_stop in [*laid.edges, ends]:
        gap = start > student_at or teacher_start > teacher_at
        wide = stop - start != 1 or teacher_stop - teacher_start != 1
        if single and (gap or wide or laid.student[single[-1]].endswith(b"\n")):
            yield _equal(laid, single)
            single = []
        if gap:
            yield from _left_out(laid, range(student_at, start), range(teacher_at, teacher_start))
        if not wide:
            single.append(start)
        elif stop > start:
            yield Pairing("several", _cell(laid.student[start:stop]), _cell(laid.teacher[teacher_start:teacher_stop]))
        student_at, teacher_at = stop, teacher_stop


def _equal(laid: _Laid, numbers: Sequence[int]) -> Pairing:
    cell = _cell([laid.student[at] for at in numbers])
    return Pairing("one", cell, cell)


def _left_out(laid: _Laid, own: range, theirs: range) -> Iterator[Pairing]:
    """What is in no span between two of them: the student's by kind, all of the teacher's beside the first."""
    other = _cell(laid.teacher[theirs.start : theirs.stop])
    for kind, run in groupby(own, key=lambda at: laid.kinds[at]):
        yield Pairing(kind, _cell([laid.student[at] for at in run]), other)
        other = ""
    if other:
        yield Pairing(None, "", other)


def _cell(tokens: Sequence[bytes]) -> str:
    return BETWEEN.join(map(_text, tokens))


def _text(data: bytes) -> str:
    """Bytes as text, those that are no text as their numbers."""
    return data.decode("utf-8", "backslashreplace").replace("\n", "\u23ce")
