"""Where a turn as the student sampled it and the same turn as the teacher would have written it have equal bytes.

Content is matched with content of the same kind and place, whatever stands around it; then what stands between two
matched stretches, where all of it is equal on both sides, and equal white space that touches one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import regex

from sod.alignment.located import Content
from sod.alignment.pieces import Pieces
from sod.alignment.sides import Written

Stretch = tuple[int, int, int]
"""`(student byte, teacher byte, length)` of equal bytes."""
Run = tuple[int, int, int]
"""`(from, to, start)`: what is at `[from, to)` in one text stands from `start` on in another."""

_CLUSTERS = regex.compile("[\udc80-\udcff]+|\\X")
_BLANK = b" \t\r\n"


def stretches_of(student: Written, teacher: Written) -> list[Stretch]:
    """All stretches of equal bytes, in order and without overlap on both sides; those that touch are one."""
    return _joined(_with_gaps(_contents(student, teacher), student, teacher))


def _contents(student: Written, teacher: Written) -> list[Stretch]:
    """Equal bytes of contents of the same kind and place, in order on both sides."""
    if _same(student, teacher, (0, len(student.data)), (0, len(teacher.data))):
        return [(0, 0, len(student.data))]
    theirs = {content.key: content for content in teacher.found.contents}
    stretches = []
    for own in student.found.contents:
        other = theirs.get(own.key)
        if other is not None:
            stretches += list(_equal(own, other, student, teacher))
    return _monotone(stretches)


def _equal(own: Content, other: Content, student: Written, teacher: Written) -> Iterator[Stretch]:
    """Where the two write the same characters of one content in the same bytes."""
    if own.value == other.value and not own.escaped and not other.escaped:
        first, last = student.byte_at(own.start), student.byte_at(own.stop)
        yield first, teacher.byte_at(other.start), last - first
        return
    ours, theirs = own.runs(student.text), other.runs(teacher.text)
    in_teacher = [
        (value_at, value_at + stop - start, text_at)
        for start, stop, value_at, text_at in _common(_inverted(_characters(own, other, teacher.side.pieces)), theirs)
    ]
    for start, stop, at, teacher_at in _common(ours, in_teacher):
        length = stop - start
        if student.text[at : at + length] == teacher.text[teacher_at : teacher_at + length]:
            first, last = student.byte_at(at), student.byte_at(at + length)
            yield first, teacher.byte_at(teacher_at), last - first


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


def _with_gaps(stretches: Sequence[Stretch], student: Written, teacher: Written) -> list[Stretch]:
    """The stretches and what is equal between them: a whole gap, or the white space that touches a stretch."""
    if not stretches:
        return []
    widened: list[Stretch] = []
    student_at = teacher_at = 0
    ends = (len(student.data), len(teacher.data), 0)
    for number, (start, teacher_start, length) in enumerate([*stretches, ends]):
        if _same(student, teacher, (student_at, start), (teacher_at, teacher_start)):
            widened.append((student_at, teacher_at, start - student_at))
        else:
            own, other = student.data[student_at:start], teacher.data[teacher_at:teacher_start]
            after = _blanks(own, other) if number else 0
            widened.append((student_at, teacher_at, after))
            before = _blanks(own[after:][::-1], other[after:][::-1]) if number < len(stretches) else 0
            widened.append((start - before, teacher_start - before, before))
        widened.append((start, teacher_start, length))
        student_at, teacher_at = start + length, teacher_start + length
    return [stretch for stretch in widened if stretch[2]]


def _same(student: Written, teacher: Written, own: tuple[int, int], theirs: tuple[int, int]) -> bool:
    """Whether the two have the same bytes there, of control tokens or not."""
    left, right = slice(*own), slice(*theirs)
    if student.data[left] != teacher.data[right]:
        return False
    return own[0] == own[1] or student.control[left] == teacher.control[right]


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
