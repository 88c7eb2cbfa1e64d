"""A turn as the student sampled it beside the same turn as the teacher would have written it, by bytes.

The two say the same in other ways: other marks around thoughts and calls, other call syntax, other control tokens, a
string raw here and escaped as JSON there. What is matched is content with content of the same kind and place (thought
with thought, the third call's second argument with the same), where the bytes are equal; then what stands between two
matched stretches, where all of it is equal on both sides, and equal white space that touches one. The rest is left out
and counted. Nothing is matched for looking alike only.

A text that the teacher's normalizer changes (NFC) is compared character by character: what it leaves as it is matches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from sod.alignment.located import Proofs
from sod.alignment.pieces import Ids, Mask, Pieces
from sod.alignment.sides import Laid, Side, Written, laid_out
from sod.alignment.spans import Ranges, Spans, spans_within
from sod.alignment.stretches import Stretch, stretches_of
from sod.chat.bound import TurnReader
from sod.chat.dialects.base import Dialect
from sod.chat.render import Chat

KINDS = ("matched", "control", "syntax", "straddling", "unmatched")
"""What may become of a token; see `Coverage`."""

_TAIL = 64  # tokens before a turn, which tell whether it begins inside a thought


@final
@dataclass(frozen=True)
class Coverage:
    """What became of the student's tokens of a turn, or of several.

    `matched` are in a span, `content` of those are what was said (not marks or call syntax that is equal in both). Of
    the others `control` are added tokens, `syntax` stands around contents, `straddling` crosses the edge of equal
    bytes, and `unmatched` is content that stands in other bytes there, or of which nobody can tell where it stands.
    """

    matched: int = 0
    content: int = 0
    control: int = 0
    syntax: int = 0
    straddling: int = 0
    unmatched: int = 0

    def __add__(self, other: Coverage) -> Coverage:
        return Coverage(
            self.matched + other.matched,
            self.content + other.content,
            self.control + other.control,
            self.syntax + other.syntax,
            self.straddling + other.straddling,
            self.unmatched + other.unmatched,
        )

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.matched + self.control + self.syntax + self.straddling + self.unmatched

    @property
    def share(self) -> float:
        """The share of content that is matched; 1 where there is none."""
        whole = self.content + self.straddling + self.unmatched
        return self.content / whole if whole else 1.0


@final
@dataclass(frozen=True)
class MatchedTurn:
    """The spans of a turn in token numbers of its two sides, and what became of the student's tokens."""

    spans: Spans
    coverage: Coverage


@final
@dataclass(frozen=True)
class Ledger:
    """A trajectory as one model reads it: its chat, the bytes of its tokens, the ids and each token's turn (0: none).

    `tools` are those that the prompt shows, None for the chat's own.
    """

    chat: Chat
    pieces: Pieces
    token_ids: Sequence[int]
    turn_ids: Sequence[int]
    tools: Sequence[Mapping[str, Any]] | None = None

    @cached_property
    def ids(self) -> Ids:
        """The token ids as the pieces know them."""
        return self.pieces.known(self.token_ids)

    @cached_property
    def dialect(self) -> Dialect:
        """What the chat reads turns in where these tools are shown."""
        return self.chat.dialect_for(self.tools).dialect

    def side(self, start: int, stop: int) -> Side:
        """The turn at these tokens."""
        ended = start < stop and int(self.token_ids[stop - 1]) in self.chat.stop_ids
        opened = self.chat.begins_in_thought(self.token_ids[max(0, start - _TAIL) : start])
        return Side(self.ids[start:stop], self.pieces, TurnReader(self.dialect, opened, ended), ended)


def match_trajectory(student: Ledger, teacher: Ledger) -> list[MatchedTurn]:
    """`match_trajectories` of one."""
    return match_trajectories([(student, teacher)])[0]


def match_trajectories(ledgers: Sequence[tuple[Ledger, Ledger]]) -> list[list[MatchedTurn]]:
    """Each turn's spans: in the student's action tokens (counted over its trajectory) and the teacher's ledger.

    All ledgers of a side are one model's; matched together they take a fraction of the time. Raises ValueError where
    the two of a trajectory have other numbers of turns.
    """
    sides: list[tuple[Side, Side]] = []
    moves: list[tuple[int, int]] = []
    ends = [0]
    for student, teacher in ledgers:
        at = 0
        for own, theirs in _turns_of_both(student, teacher):
            sides.append((student.side(*own), teacher.side(*theirs)))
            moves.append((at, theirs[0]))
            at += own[1] - own[0]
        ends.append(len(sides))
    turns = _by_turn(_matched(sides), moves) if sides else []
    return [turns[first:last] for first, last in pairwise(ends)]


def _turns_of_both(student: Ledger, teacher: Ledger) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    own, theirs = _turns(student.turn_ids), _turns(teacher.turn_ids)
    if len(own) != len(theirs):
        raise ValueError(f"{len(own)} turns were sampled and {len(theirs)} are in the teacher's text")
    return zip(own, theirs, strict=True)


def _turns(turn_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Where each turn's tokens begin and end, in order."""
    turn = np.asarray(turn_ids)
    edges = np.concatenate([np.zeros(1, np.int64), np.flatnonzero(np.diff(turn)) + 1, np.full(1, len(turn))])
    pairs = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    return [(start, stop) for start, stop in pairs if start < stop and turn[start]]


def match_turn(student: Side, teacher: Side) -> MatchedTurn:
    """The spans of the student's tokens and the teacher's in which they say the same in the same bytes."""
    return _by_turn(_matched([(student, teacher)]), [(0, 0)])[0]


def token_kinds(student: Side, teacher: Side) -> NDArray[np.int8]:
    """What became of each of the student's tokens: its place in `KINDS`."""
    return _matched([(student, teacher)]).kinds


@final
@dataclass(frozen=True)
class _Matched:
    """Turns matched, laid end to end: spans in numbers of these tokens, kind of each of the student's, if content."""

    student: Laid
    teacher: Laid
    spans: Spans
    kinds: NDArray[np.int8]
    content: Mask


def _matched(turns: Sequence[tuple[Side, Side]]) -> _Matched:
    """All turns together: most are short, and arrays cost by their number."""
    proofs: Proofs = {}
    student, teacher = (laid_out([sides[which] for sides in turns], proofs) for which in (0, 1))
    equal: list[Stretch] = []
    contents: list[tuple[int, int]] = []
    starts = zip(student.byte_at.tolist(), teacher.byte_at.tolist(), strict=True)
    for own, theirs, (own_at, teacher_at) in zip(student.turns, teacher.turns, starts, strict=False):
        stretches = stretches_of(own, theirs)
        equal += [(start + own_at, other + teacher_at, length) for start, other, length in stretches]
        contents += [(first + own_at, last + own_at) for first, last in _content_bytes(own, stretches)]
    columns = np.array(equal, dtype=np.int64).reshape(-1, 3)
    ranges = Ranges(columns[:, 0], columns[:, 1], columns[:, 2])
    spans = spans_within(student.lengths, teacher.lengths, ranges)
    spans = spans.kept(~_one_sided_control(spans, student.control, teacher.control))
    kinds, content = _kinds(student, ranges, np.array(contents, dtype=np.int64).reshape(-1, 2), spans)
    return _Matched(student, teacher, spans, kinds, content)


def _by_turn(matched: _Matched, starts: Sequence[tuple[int, int]]) -> list[MatchedTurn]:
    """What became of each turn, its spans in token numbers that begin there, at the student and at the teacher."""
    token_at, turns = matched.student.token_at, len(starts)
    turn_N = np.repeat(np.arange(turns), np.diff(token_at))
    key_N = turn_N * len(KINDS) + matched.kinds
    counts = np.bincount(key_N, minlength=turns * len(KINDS)).reshape(turns, len(KINDS)).tolist()
    said_N = matched.content & (matched.kinds == KINDS.index("matched"))
    said = np.bincount(turn_N[said_N], minlength=turns).tolist()
    edges = np.searchsorted(matched.spans.student_start, token_at).tolist()
    laid = np.stack([token_at[:-1], matched.teacher.token_at[:-1]], axis=1)
    moves = (np.array(starts, dtype=np.int64).reshape(-1, 2) - laid).tolist()
    found = []
    for turn in range(turns):
        spans = matched.spans.kept(slice(edges[turn], edges[turn + 1])).moved(*moves[turn])
        coverage = Coverage(content=said[turn], **dict(zip(KINDS, counts[turn], strict=True)))
        found.append(MatchedTurn(spans, coverage))
    return found


def _one_sided_control(spans: Spans, student: Mask, teacher: Mask) -> Mask:
    """Spans with a control token that do not pair one with one: the other spells the name of it, or more."""
    own = _any_within(student, spans.student_start, spans.student_stop)
    other = _any_within(teacher, spans.teacher_start, spans.teacher_stop)
    return (own | other) & ~(own & other & spans.one_to_one)


def _any_within(mask: Mask, start: Ids, stop: Ids) -> Mask:
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(mask)])
    return total[stop] > total[start]


def _kinds(student: Laid, equal: Ranges, contents: Ids, spans: Spans) -> tuple[NDArray[np.int8], Mask]:
    """The kind of each of the student's tokens, and which are of contents."""
    ends = np.cumsum(student.lengths)
    starts, size = ends - student.lengths, int(student.byte_at[-1])
    matched = _filled(len(ends), spans.student_start, spans.student_stop)
    touched = _any_within(_filled(size, equal.student, equal.student + equal.length), starts, ends)
    content = _any_within(_filled(size, contents[:, 0], contents[:, 1]), starts, ends) & ~student.control
    in_order = {"matched": matched, "control": student.control, "straddling": touched, "unmatched": content}
    places = [np.int8(KINDS.index(kind)) for kind in in_order]  # the first that holds; call syntax where none does
    return np.select(list(in_order.values()), places, np.int8(KINDS.index("syntax"))), content


def _content_bytes(student: Written, stretches: Sequence[Stretch]) -> list[tuple[int, int]]:
    """Where the student's contents are: all of it where all is equal, or where a content stands nobody can tell."""
    size = len(student.data)
    if (len(stretches) == 1 and stretches[0][2] == size) or student.found.missing:
        return [(0, size)]
    return [(student.byte_at(content.start), student.byte_at(content.stop)) for content in student.found.contents]


def _filled(size: int, start: Ids, stop: Ids) -> Mask:
    """A mask of what lies in one of these ranges, which do not overlap."""
    steps = np.bincount(start, minlength=size + 1) - np.bincount(stop, minlength=size + 1)
    return np.cumsum(steps[:-1]) > 0
