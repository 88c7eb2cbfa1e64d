"""A matched turn for a person to look at: its text by what became of its tokens, or its tokens beside the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, final

import numpy as np

from sod.alignment.pieces import Ids
from sod.alignment.turns import KINDS, Ledger
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
        laid = _Laid.of(aligned, number, actions)
        shown.append(ShownTurn(number, Tally.of(turn), list(_lines(laid)), list(_pairings(laid))))
        actions += len(turn.kinds)
    return shown


@final
@dataclass(frozen=True)
class _Laid:
    """The tokens of a turn on both sides as bytes; spans are numbered from its first tokens, `span` is -1 in none."""

    student: Sequence[bytes]
    teacher: Sequence[bytes]
    kinds: Sequence[Kind]
    span: Sequence[int]
    edges: Sequence[tuple[int, int, int, int]]

    @classmethod
    def of(cls, aligned: Aligned, number: int, actions: int) -> _Laid:
        """The turn, the k-th, before which the student has so many action tokens."""
        turn = aligned.turns[number - 1]
        own, theirs = _tokens(aligned.student, number), _tokens(aligned.teacher, number)
        spans = turn.spans.moved(-actions, -int(np.flatnonzero(np.asarray(aligned.teacher.turn_ids) == number)[0]))
        columns = (spans.student_start, spans.student_stop, spans.teacher_start, spans.teacher_stop)
        edges = [(int(a), int(b), int(c), int(d)) for a, b, c, d in zip(*columns, strict=True)]
        span = np.full(len(own), -1)
        for at, (start, stop, _, _) in enumerate(edges):
            span[start:stop] = at
        kinds = list(_kinds(turn.kinds, span, spans.one_to_one))
        return cls(own, theirs, kinds, span.tolist(), edges)


def _tokens(ledger: Ledger, turn: int) -> list[bytes]:
    at = np.flatnonzero(np.asarray(ledger.turn_ids) == turn)
    return [ledger.pieces.table[id] for id in ledger.pieces.known(ledger.ids[at]).tolist()]


def _kinds(kinds: Sequence[int] | Ids, span: Ids, one_to_one: Sequence[bool] | Ids) -> Iterator[Kind]:
    for kind, at in zip(kinds, span, strict=True):
        shown = _BY_KIND[KINDS[int(kind)]]
        yield "several" if shown == "one" and not one_to_one[int(at)] else shown


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
