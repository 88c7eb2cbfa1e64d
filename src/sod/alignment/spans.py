"""Where two tokenizations of one text agree: the smallest spans that are whole tokens in both.

Two tokenizations cut the same bytes at different places. A place that both cut is a joint boundary; between two
neighbouring ones lie the connected components of "these two tokens share a byte" (SimCT's units, DPCA's chunks, GOLD's
groups). A span of one token on each side is a 1:1 position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@final
@dataclass(frozen=True)
class Spans:
    """Spans in order: span i is student tokens `[student_start[i], student_stop[i])` and those of the teacher."""

    student_start: Ints
    student_stop: Ints
    teacher_start: Ints
    teacher_stop: Ints

    def __len__(self) -> int:
        return len(self.student_start)

    @property
    def one_to_one(self) -> NDArray[np.bool_]:
        """Which spans are one token on each side."""
        size_S = np.maximum(self.student_stop - self.student_start, self.teacher_stop - self.teacher_start)
        one_S: NDArray[np.bool_] = size_S == 1
        return one_S

    def moved(self, student: int | Ints, teacher: int | Ints) -> Spans:
        """The spans with token numbers that count from elsewhere, all or each by its own distance."""
        return Spans(
            self.student_start + student,
            self.student_stop + student,
            self.teacher_start + teacher,
            self.teacher_stop + teacher,
        )

    def kept(self, which: NDArray[np.bool_] | slice) -> Spans:
        """Some of the spans."""
        return Spans(
            self.student_start[which], self.student_stop[which], self.teacher_start[which], self.teacher_stop[which]
        )


@final
@dataclass(frozen=True)
class Ranges:
    """Stretches of equal bytes: `length[r]` bytes from `student[r]` on are those from `teacher[r]` on.

    In order and without overlap on both sides.
    """

    student: Ints
    teacher: Ints
    length: Ints


def aligned_spans(student_lengths: Ints, teacher_lengths: Ints) -> Spans:
    """The smallest jointly aligned spans of two tokenizations of the same bytes; lengths of tokens in bytes.

    Tokens without a byte at the edge of a span are in none. Raises ValueError where the sums differ.
    """
    total = int(student_lengths.sum())
    if total != int(teacher_lengths.sum()):
        raise ValueError(f"the tokens are of different texts: {total} and {int(teacher_lengths.sum())} bytes")
    whole = Ranges(np.zeros(1, np.int64), np.zeros(1, np.int64), np.full(1, total))
    return spans_within(student_lengths, teacher_lengths, whole)


def spans_within(student_lengths: Ints, teacher_lengths: Ints, ranges: Ranges) -> Spans:
    """The smallest jointly aligned spans inside of each range; a token that straddles a range's edge is in none."""
    student_at, student_token = _boundaries(student_lengths, ranges.student, ranges.length)
    teacher_at, teacher_token = _boundaries(teacher_lengths, ranges.teacher, ranges.length)
    _, in_student, in_teacher = np.intersect1d(student_at, teacher_at, assume_unique=True, return_indices=True)
    joint, first_of, last_of = student_at[in_student], student_token[in_student], teacher_token[in_teacher]
    if len(joint) < 2:
        empty = np.zeros(0, np.int64)
        return Spans(empty, empty, empty, empty)
    # Ranges are laid end to end with a place between them that no boundary has, so each keeps its own spans.
    range_of = np.searchsorted(_bases(ranges.length), joint, side="right")
    together = range_of[1:] == range_of[:-1]
    student = _span_edges(student_lengths, first_of, together)
    teacher = _span_edges(teacher_lengths, last_of, together)
    return Spans(*student, *teacher)


def _bases(length: Ints) -> Ints:
    """Where each range begins when they are laid end to end with one free place between two."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(length + 2)[:-1]]) if len(length) else length


def _boundaries(lengths: Ints, start: Ints, length: Ints) -> tuple[Ints, Ints]:
    """Boundaries of tokens inside of the ranges, laid end to end: their places, and the number of the token after."""
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    distinct = np.concatenate([ends[1:] != ends[:-1], np.ones(1, bool)])  # the last of equal ones: the next with bytes
    at, token = ends[distinct], np.flatnonzero(distinct)
    first, last = np.searchsorted(at, start), np.searchsorted(at, start + length, side="right")
    count = np.maximum(last - first, 0)
    of_range = np.repeat(np.arange(len(start)), count)
    index = np.arange(len(of_range)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    return at[index] - start[of_range] + _bases(length)[of_range], token[index]


def _span_edges(lengths: Ints, token: Ints, together: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """First and one-past-last tokens of the spans between neighbouring boundaries, without empty tokens at the end."""
    start, stop = token[:-1][together], token[1:][together]
    with_bytes = np.flatnonzero(lengths > 0)
    last = with_bytes[np.searchsorted(with_bytes, stop) - 1]
    return start, last + 1
