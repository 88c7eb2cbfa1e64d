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
from typing import Any, final

import numpy as np
import regex
from numpy.typing import NDArray

from sod.alignment.located import Content, Located, Read, located
from sod.alignment.pieces import Ids, Mask, Pieces
from sod.alignment.spans import Ranges, Spans, spans_within
from sod.chat.render import Chat

Stretch = tuple[int, int, int]
"""`(student byte, teacher byte, length)` of equal bytes."""
Run = tuple[int, int, int]
"""`(from, to, start)`: what is at `[from, to)` in one text stands from `start` on in another."""

KINDS = ("matched", "control", "syntax", "straddling", "unmatched")
"""What may become of a token; see `Coverage`."""

_CLUSTERS = regex.compile("[\udc80-\udcff]+|\\X")
_BLANK = b" \t\r\n"
_TAIL = 64  # tokens before a turn, which tell whether it begins inside a thought


@final
@dataclass(frozen=True)
class Side:
    """One model's tokens of a turn, the bytes of its tokens, and what reads the turn's text.

    `ended` where the last token ends the turn, which is no part of its text.
    """

    token_ids: Sequence[int] | Ids
    pieces: Pieces
    read: Read
    ended: bool

    @cached_property
    def ids(self) -> Ids:
        """The token ids as an index into the tables of the pieces."""
        return self.pieces.known(self.token_ids)

    @cached_property
    def lengths(self) -> Ids:
        """Bytes of each token."""
        return self.pieces.length[self.ids]

    @cached_property
    def control(self) -> Mask:
        """Which tokens are added ones that no text becomes."""
        return self.pieces.control[self.ids]

    @cached_property
    def control_bytes(self) -> bytes:
        """For each byte of the turn whether it is of a control token's name."""
        return np.repeat(self.control, self.lengths).astype(np.uint8).tobytes()

    @cached_property
    def data(self) -> bytes:
        """The bytes of the turn, its end token's name included."""
        return b"".join(map(self.pieces.table.__getitem__, self.ids.tolist()))

    @cached_property
    def text(self) -> str:
        """The turn as it is read, without its end token; a byte that is no text is one surrogate character."""
        end = len(self.data) - int(self.lengths[-1]) if self.ended and len(self.lengths) else len(self.data)
        return self.data[:end].decode("utf-8", "surrogateescape")

    @cached_property
    def found(self) -> Located:
        """Where the contents stand in the text."""
        return located(self.text, self.read)

    @cached_property
    def byte_at(self) -> Ids:
        """The byte at which each character of the text begins, and its end."""
        if self.text.isascii():
            return np.arange(len(self.text) + 1)
        code = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64)
        width = 1 + (code >= 0x80) + (code >= 0x800) + (code >= 0x10000)
        width[(code >= 0xDC80) & (code <= 0xDCFF)] = 1
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(width)])


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
        """The token ids."""
        return np.asarray(self.token_ids, dtype=np.int64)

    def side(self, start: int, stop: int) -> Side:
        """The turn at these tokens."""
        own = self.ids[start:stop]
        ended = bool(len(own)) and int(own[-1]) in self.chat.stop_ids
        read = self.chat.reader(self.ids[max(0, start - _TAIL) : start].tolist(), self.tools, ended)
        return Side(own, self.pieces, read, ended)


def match_trajectory(student: Ledger, teacher: Ledger) -> list[MatchedTurn]:
    """Each turn's spans: in the student's action tokens (counted over the trajectory) and the teacher's ledger.

    Raises ValueError where the two have other numbers of turns.
    """
    student_turns, teacher_turns = _turns(student.turn_ids), _turns(teacher.turn_ids)
    if len(student_turns) != len(teacher_turns):
        raise ValueError(f"{len(student_turns)} turns were sampled and {len(teacher_turns)} are in the teacher's text")
    matched, actions = [], 0
    for (start, stop), (teacher_start, teacher_stop) in zip(student_turns, teacher_turns, strict=True):
        turn = match_turn(student.side(start, stop), teacher.side(teacher_start, teacher_stop))
        matched.append(MatchedTurn(turn.spans.moved(actions, teacher_start), turn.coverage))
        actions += stop - start
    return matched


def _turns(turn_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Where each turn's tokens begin and end, in order."""
    turn = np.asarray(turn_ids)
    edges = np.concatenate([np.zeros(1, np.int64), np.flatnonzero(np.diff(turn)) + 1, np.full(1, len(turn))])
    pairs = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    return [(start, stop) for start, stop in pairs if start < stop and turn[start]]


def match_turn(student: Side, teacher: Side) -> MatchedTurn:
    """The spans of the student's tokens and the teacher's in which they say the same in the same bytes."""
    stretches, spans = _matched(student, teacher)
    kinds, content = _kinds(student, stretches, spans)
    counts = np.bincount(kinds, minlength=len(KINDS)).tolist()
    said = int((content & (kinds == KINDS.index("matched"))).sum())
    return MatchedTurn(spans, Coverage(content=said, **dict(zip(KINDS, counts, strict=True))))


def token_kinds(student: Side, teacher: Side) -> NDArray[np.int8]:
    """What became of each of the student's tokens: its place in `KINDS`."""
    return _kinds(student, *_matched(student, teacher))[0]


def _matched(student: Side, teacher: Side) -> tuple[Ids, Spans]:
    """Stretches of equal bytes as rows of a table, and the spans within them."""
    stretches = _joined(_with_gaps(_contents(student, teacher), student, teacher))
    columns = np.array(stretches, dtype=np.int64).reshape(-1, 3)
    spans = spans_within(student.lengths, teacher.lengths, Ranges(columns[:, 0], columns[:, 1], columns[:, 2]))
    return columns, spans.kept(~_one_sided_control(spans, student.control, teacher.control))


def _contents(student: Side, teacher: Side) -> list[Stretch]:
    """Equal bytes of contents of the same kind and place, in order on both sides."""
    if student.data == teacher.data and student.control_bytes == teacher.control_bytes:
        return [(0, 0, len(student.data))]
    theirs = {content.key: content for content in teacher.found.contents}
    stretches = []
    for own in student.found.contents:
        other = theirs.get(own.key)
        if other is not None:
            stretches += list(_equal(own, other, student, teacher))
    return _monotone(stretches)


def _equal(own: Content, other: Content, student: Side, teacher: Side) -> Iterator[Stretch]:
    """Where the two write the same characters of one content in the same bytes."""
    ours, theirs = own.runs(student.text), other.runs(teacher.text)
    in_teacher = [
        (value_at, value_at + stop - start, text_at)
        for start, stop, value_at, text_at in _common(_inverted(_characters(own, other, teacher.pieces)), theirs)
    ]
    for start, stop, at, teacher_at in _common(ours, in_teacher):
        length = stop - start
        if student.text[at : at + length] == teacher.text[teacher_at : teacher_at + length]:
            first, last = int(student.byte_at[at]), int(student.byte_at[at + length])
            yield first, int(teacher.byte_at[teacher_at]), last - first


def _characters(own: Content, other: Content, theirs: Pieces) -> list[Run]:
    """Which characters of the student's value are which of the teacher's.

    Where its normalizer, or bytes that are no text, make another text of it: those that stay as they are. None at all
    where that does not explain the difference.
    """
    if own.value == other.value:
        return [(0, len(own.value), 0)]
    runs: list[Run] = []
    changed, at = [], 0
    for cluster in _CLUSTERS.finditer(own.value):
        became = theirs.normal(cluster[0].encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
        if became == cluster[0]:
            runs.append((cluster.start(), cluster.end(), at))
        changed.append(became)
        at += len(became)
    return runs if "".join(changed) == other.value else []


def _inverted(runs: Sequence[Run]) -> list[Run]:
    return [(start, start + stop - first, first) for first, stop, start in runs]


def _common(left: Sequence[Run], right: Sequence[Run]) -> Iterator[tuple[int, int, int, int]]:
    """`(from, to, left's start, right's start)` of what both know, on what both are of."""
    i = j = 0
    while i < len(left) and j < len(right):
        first, last = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if first < last:
            yield first, last, left[i][2] + first - left[i][0], right[j][2] + first - right[j][0]
        if left[i][1] <= right[j][1]:
            i += 1
        else:
            j += 1


def _monotone(stretches: Sequence[Stretch]) -> list[Stretch]:
    """The stretches in the student's order without those that lie before an earlier one at the teacher."""
    kept: list[Stretch] = []
    for stretch in sorted(stretches):
        if not kept or (stretch[0] >= kept[-1][0] + kept[-1][2] and stretch[1] >= kept[-1][1] + kept[-1][2]):
            kept.append(stretch)
    return kept


def _with_gaps(stretches: Sequence[Stretch], student: Side, teacher: Side) -> list[Stretch]:
    """The stretches and what is equal between them: a whole gap, or the white space that touches a stretch."""
    if not stretches:
        return []
    widened: list[Stretch] = []
    student_at = teacher_at = 0
    ends = (len(student.data), len(teacher.data), 0)
    for number, (start, teacher_start, length) in enumerate([*stretches, ends]):
        own, other = student.data[student_at:start], teacher.data[teacher_at:teacher_start]
        marks = student.control_bytes[student_at:start], teacher.control_bytes[teacher_at:teacher_start]
        if own == other and marks[0] == marks[1]:
            widened.append((student_at, teacher_at, len(own)))
        else:
            after = _blanks(own, other) if number else 0
            widened.append((student_at, teacher_at, after))
            before = _blanks(own[after:][::-1], other[after:][::-1]) if number < len(stretches) else 0
            widened.append((start - before, teacher_start - before, before))
        widened.append((start, teacher_start, length))
        student_at, teacher_at = start + length, teacher_start + length
    return [stretch for stretch in widened if stretch[2]]


def _blanks(own: bytes, other: bytes) -> int:
    """How much white space both begin with."""
    count = 0
    for left, right in zip(own, other, strict=False):
        if left != right or left not in _BLANK:
            break
        count += 1
    return count


def _joined(stretches: Sequence[Stretch]) -> list[Stretch]:
    """The stretches with those put together that touch on both sides."""
    joined: list[Stretch] = []
    for start, teacher_start, length in stretches:
        last = joined[-1] if joined else (-1, -1, 0)
        if (last[0] + last[2], last[1] + last[2]) == (start, teacher_start):
            joined[-1] = (last[0], last[1], last[2] + length)
        else:
            joined.append((start, teacher_start, length))
    return joined


def _one_sided_control(spans: Spans, student: Mask, teacher: Mask) -> Mask:
    """Spans with a control token that do not pair one with one: the other spells the name of it, or more."""
    own = _any_within(student, spans.student_start, spans.student_stop)
    other = _any_within(teacher, spans.teacher_start, spans.teacher_stop)
    return (own | other) & ~(own & other & spans.one_to_one)


def _any_within(mask: Mask, start: Ids, stop: Ids) -> Mask:
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(mask)])
    return total[stop] > total[start]


def _kinds(student: Side, stretches: Ids, spans: Spans) -> tuple[NDArray[np.int8], Mask]:
    """The kind of each of the student's tokens, and which are of contents."""
    ends = np.cumsum(student.lengths)
    starts = ends - student.lengths
    matched = _filled(len(ends), spans.student_start, spans.student_stop)
    equal = _any_within(_filled(len(student.data), stretches[:, 0], stretches[:, 0] + stretches[:, 2]), starts, ends)
    whole = len(stretches) == 1 and int(stretches[0, 2]) == len(student.data)
    content = ~student.control if whole else _any_within(_content_bytes(student), starts, ends) & ~student.control
    in_order = {"matched": matched, "control": student.control, "straddling": equal, "unmatched": content}
    places = [np.int8(KINDS.index(kind)) for kind in in_order]  # the first that holds; call syntax where none does
    return np.select(list(in_order.values()), places, np.int8(KINDS.index("syntax"))), content


def _content_bytes(student: Side) -> Mask:
    """Which bytes are content, all of them where it is not known of one where it stands."""
    if student.found.missing:
        return np.ones(len(student.data), dtype=bool)
    contents = student.found.contents
    first = student.byte_at[[content.start for content in contents]] if contents else np.zeros(0, np.int64)
    last = student.byte_at[[content.stop for content in contents]] if contents else first
    return _filled(len(student.data), first, last)


def _filled(size: int, start: Ids, stop: Ids) -> Mask:
    """A mask of what lies in one of these ranges, which do not overlap."""
    steps = np.zeros(size + 1, dtype=np.int64)
    np.add.at(steps, start, 1)
    np.add.at(steps, stop, -1)
    return np.cumsum(steps[:-1]) > 0
